"""Android with ExecuTorch: what differs from ONNX Runtime is the Kotlin that runs the model, and its README."""

from __future__ import annotations

import json
from pathlib import Path

from edgeq.bundle.executorch import check_inputs, special_tokens
from edgeq.bundle.manifest import Manifest
from edgeq.bundle.memory import required_bytes
from edgeq.bundle.text import NO_TOKENIZER, fill, paragraph, size_text


def model_kotlin(manifest: Manifest, directory: Path) -> str:
    """`EdgeqModel.kt`. Raises InternalError for inputs that the sample does not feed."""
    check_inputs(manifest.interface)
    values = {
        "MODEL": manifest.model.removeprefix(f"{manifest.root}/"),
        "THREADS": str(manifest.runtime.threads),
        "CONTEXT_LENGTH": str(manifest.interface.context_length),
    }
    if manifest.interface.task == "feature-extraction":
        inputs = ", ".join(_kotlin_string(name) for name in manifest.interface.inputs)
        return fill("executorch_encoder.kt", {**values, "INPUTS": inputs})
    special = special_tokens(manifest, directory)
    ends = ", ".join(_kotlin_string(text) for text in special.end_texts)
    return fill(
        "executorch_generator.kt",
        {
            **values,
            "VOCABULARY": str(manifest.interface.vocabulary),
            "BEGIN_COUNT": str(special.begin_count),
            "END_TEXTS": f"setOf({ends})" if ends else "emptySet<String>()",
        },
    )


def readme(manifest: Manifest, delivery: str) -> str:
    """`README.md` of the `android` folder; `delivery` says how a bundle of this size gets to the phone."""
    generator = manifest.interface.task == "text-generation"
    return fill(
        "executorch_android.md",
        {
            "NAME": manifest.name,
            "MODEL": manifest.model,
            "RUNTIME_VERSION": manifest.runtime.version,
            "TOKENIZER": paragraph(f"{_tokenizer_note(manifest)} The smoke test needs no tokenizer."),
            "DELIVERY": delivery,
            "REQUIRED_TEXT": size_text(required_bytes(manifest)),
            "LIMIT_TEXT": f"{manifest.profile.memory_limit_mib} MiB",
            "USE": 'val answer: String = model.generate("Once upon a time", maxNewTokens = 64)'
            if generator
            else "val vector: FloatArray = model.encode(sentenceIds)",
        },
    )


def _tokenizer_note(manifest: Manifest) -> str:
    if manifest.tokenizer is None:
        return NO_TOKENIZER
    if manifest.interface.task == "text-generation":
        return (
            "ExecuTorch's runner reads `tokenizer/tokenizer.json` itself: text goes in and text comes out. It adds no "
            "special tokens by itself; `EdgeqModel.kt` asks for those that this model expects."
        )
    return (
        "Token ids come from `tokenizer/tokenizer.json`, in the format of Hugging Face's tokenizers. On Android it is "
        "read by, for example, DJL's `ai.djl.huggingface:tokenizers` with `ai.djl.android:tokenizer-native`."
    )


def _kotlin_string(text: str) -> str:
    # JSON's escapes are Kotlin's too, but for the dollar, which starts a template.
    return json.dumps(text).replace("$", "\\$")
