"""Android with ExecuTorch: what differs from ONNX Runtime is the Kotlin that runs the model, and its README."""

from __future__ import annotations

import json
from pathlib import Path

from edgeq.bundle.manifest import Manifest
from edgeq.bundle.memory import required_bytes
from edgeq.bundle.special_tokens import special_tokens
from edgeq.bundle.text import NO_TOKENIZER, fill, size_text
from edgeq.core.artifact import Interface
from edgeq.errors import InternalError

GENERATOR_INPUTS = ("tokens", "input_pos")
ENCODER_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


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
            "TOKENIZER": _tokenizer_note(manifest),
            "DELIVERY": delivery,
            "REQUIRED_TEXT": size_text(required_bytes(manifest)),
            "LIMIT_TEXT": f"{manifest.profile.memory_limit_mib} MiB",
            "USE": 'val answer: String = model.generate("Once upon a time", maxNewTokens = 64)'
            if generator
            else "val vector: FloatArray = model.encode(sentenceIds)",
        },
    )


def check_inputs(interface: Interface) -> None:
    """Raises InternalError where the samples for ExecuTorch, in Kotlin and in Swift, would feed something else."""
    if interface.task == "text-generation":
        known = interface.inputs == GENERATOR_INPUTS
    else:
        known = set(interface.inputs) <= ENCODER_INPUTS
    if not known:
        raise InternalError(
            f"The ExecuTorch samples do not feed the inputs {list(interface.inputs)}.",
            remedy="Report this: teach templates/executorch_*.",
        )


def _tokenizer_note(manifest: Manifest) -> str:
    if manifest.tokenizer is None:
        return NO_TOKENIZER
    if manifest.interface.task == "text-generation":
        return (
            "ExecuTorch's runner reads `tokenizer/tokenizer.json` itself: text goes in and text comes out. It adds no "
            "special\ntokens by itself; `EdgeqModel.kt` asks for those that this model expects."
        )
    return (
        "Token ids come from `tokenizer/tokenizer.json`, in the format of Hugging Face's tokenizers. On Android it is "
        "read by,\nfor example, DJL's `ai.djl.huggingface:tokenizers` with `ai.djl.android:tokenizer-native`."
    )


def _kotlin_string(text: str) -> str:
    # JSON's escapes are Kotlin's too, but for the dollar, which starts a template.
    return json.dumps(text).replace("$", "\\$")
