"""iOS: a folder that an app takes as it is, Swift files that use it, and the entitlement where the target needs it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import assert_never

from edgeq.bundle.executorch import check_inputs as check_executorch_inputs
from edgeq.bundle.executorch import special_tokens
from edgeq.bundle.manifest import Manifest
from edgeq.bundle.memory import required_bytes
from edgeq.bundle.text import NO_TOKENIZER, fill, paragraph, size_text, template
from edgeq.core.artifact import Interface
from edgeq.core.target import ComputeUnit
from edgeq.errors import InternalError

MAC_SCRIPT = "validate_on_mac.py"
_COMPUTE_UNITS: dict[ComputeUnit, str] = {
    "cpu": ".cpuOnly",
    "gpu": ".cpuAndGPU",
    "neural_engine": ".cpuAndNeuralEngine",
}
_UNIT_NAMES: dict[ComputeUnit, str] = {"cpu": "CPU", "gpu": "GPU", "neural_engine": "Neural Engine"}
_GENERATOR_INPUTS = {"input_ids", "position", "last"}
_ENCODER_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


def root(name: str) -> str:
    """Where the files are in the bundle; the part from `edgeq` on is what Xcode takes as a folder."""
    return f"resources/edgeq/{name}"


def write(manifest: Manifest, directory: Path) -> None:
    """Write `ios/` into the staged bundle, and for Core ML the script with which a Mac finishes the check.

    Raises InternalError for a format or an interface that the samples do not know.
    """
    texts = _texts(manifest, directory)
    if manifest.profile.increased_memory_limit:
        texts["Edgeq.entitlements"] = template("Edgeq.entitlements")
    folder = directory / "ios"
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if manifest.format == "coreml":
        (directory / MAC_SCRIPT).write_text(template(MAC_SCRIPT), encoding="utf-8")


def _texts(manifest: Manifest, directory: Path) -> dict[str, str]:
    match manifest.format:
        case "coreml":
            return {
                "EdgeqBundle.swift": _bundle_swift(manifest),
                "EdgeqCoreML.swift": fill(
                    "EdgeqCoreML.swift",
                    {"UNITS": _COMPUTE_UNITS[manifest.profile.compute_unit], "MODEL": _relative(manifest)},
                ),
                "EdgeqModel.swift": _coreml_swift(manifest),
                "README.md": _coreml_readme(manifest),
            }
        case "executorch":
            return {
                "EdgeqBundle.swift": _bundle_swift(manifest),
                "EdgeqModel.swift": _executorch_swift(manifest, directory),
                "README.md": _executorch_readme(manifest),
            }
        case "onnx" | "transformersjs":
            raise InternalError(
                f"There is no iOS sample for {manifest.format}.", remedy="Report this: a profile should refuse it."
            )
    assert_never(manifest.format)


def _relative(manifest: Manifest) -> str:
    return manifest.model.removeprefix(f"{manifest.root}/")


def _bundle_swift(manifest: Manifest) -> str:
    prefix = f"{manifest.root}/"
    files = [entry for entry in manifest.files if entry.path.startswith(prefix)]
    contents = hashlib.sha256("".join(f"{entry.path} {entry.sha256}\n" for entry in files).encode())
    return fill(
        "EdgeqBundle.swift",
        {
            "NAME": manifest.name,
            "FOLDER": manifest.root.removeprefix("resources/"),
            "VERSION": contents.hexdigest()[:16],
            "REQUIRED_BYTES": str(required_bytes(manifest)),
            "REQUIRED_TEXT": size_text(required_bytes(manifest)),
        },
    )


def _coreml_swift(manifest: Manifest) -> str:
    interface = manifest.interface
    generator = interface.task == "text-generation"
    other = set(interface.inputs) - (_GENERATOR_INPUTS if generator else _ENCODER_INPUTS)
    if other:
        raise InternalError(
            f"The Core ML samples do not feed the inputs {sorted(other)}.", remedy="Report this: teach coreml_*.swift."
        )
    if generator:
        return fill("coreml_generator.swift", _generator_values(interface))
    return fill("coreml_encoder.swift", _encoder_values(interface))


def _executorch_swift(manifest: Manifest, directory: Path) -> str:
    interface = manifest.interface
    check_executorch_inputs(interface)
    values = {"MODEL": _relative(manifest)}
    if interface.task == "feature-extraction":
        inputs = ", ".join(_swift_string(name) for name in interface.inputs)
        context = str(interface.context_length)
        return fill("executorch_encoder.swift", {**values, "INPUTS": inputs, "CONTEXT_LENGTH": context})
    special = special_tokens(manifest, directory)
    return fill(
        "executorch_generator.swift",
        {
            **values,
            "VOCABULARY": str(interface.vocabulary),
            "CONTEXT_LENGTH": str(interface.context_length),
            "BEGIN_COUNT": str(special.begin_count),
            "END_TEXTS": f"[{', '.join(_swift_string(text) for text in special.end_texts)}]",
        },
    )


def _generator_values(interface: Interface) -> dict[str, str]:
    return {
        "CONTEXT_LENGTH": str(interface.context_length),
        "VOCABULARY": str(interface.vocabulary),
        "END_OF_TEXT": f"[{', '.join(str(token) for token in interface.end_of_text_ids)}]",
    }


def _encoder_values(interface: Interface) -> dict[str, str]:
    return {
        "CONTEXT_LENGTH": str(interface.context_length),
        "OUTPUT": interface.outputs[0],
        "INPUTS": ", ".join(_swift_string(name) for name in interface.inputs),
        "POOLED": "false" if interface.pooling == "none" else "true",
    }


def _coreml_readme(manifest: Manifest) -> str:
    unit = manifest.profile.compute_unit
    return fill(
        "ios_coreml.md",
        {
            **_common_readme(manifest),
            "UNIT": _UNIT_NAMES[unit],
            "UNITS": _COMPUTE_UNITS[unit],
            "RUNTIME_VERSION": manifest.runtime.version,
        },
    )


def _executorch_readme(manifest: Manifest) -> str:
    return fill("ios_executorch.md", {**_common_readme(manifest), "RUNTIME_VERSION": manifest.runtime.version})


def _common_readme(manifest: Manifest) -> dict[str, str]:
    generator = manifest.interface.task == "text-generation"
    return {
        "NAME": manifest.name,
        "FOLDER": manifest.root.removeprefix("resources/"),
        "USE": 'let answer = try await model.generate("Once upon a time", maxNewTokens: 64)'
        if generator
        else 'let vector = try await model.encode("A cat sleeps.")',
        "TOKENIZER": paragraph(NO_TOKENIZER if manifest.tokenizer is None else _tokenizer_note(manifest), "   "),
        "REQUIRED_TEXT": size_text(required_bytes(manifest)),
        "LIMIT_TEXT": f"{manifest.profile.memory_limit_mib} MiB",
        "ENTITLEMENT": paragraph(f"- **Entitlement.** {_entitlement_note(manifest)}", "  "),
        "SIZE_TEXT": size_text(sum(entry.bytes for entry in manifest.files)),
    }


def _tokenizer_note(manifest: Manifest) -> str:
    if manifest.format == "executorch" and manifest.interface.task == "text-generation":
        return (
            "ExecuTorch's runner reads `tokenizer/tokenizer.json` itself. It adds no special tokens by itself; "
            "`EdgeqModel.swift` asks for those that this model expects."
        )
    return (
        "Text becomes token ids with the `Tokenizers` product of Hugging Face's swift-transformers (the package "
        "`https://github.com/huggingface/swift-transformers`). Compare what it makes of a few texts with Python's "
        "tokenizers once: it does not know every kind of tokenizer."
    )


def _entitlement_note(manifest: Manifest) -> str:
    if manifest.profile.increased_memory_limit:
        return (
            "The target counts on the entitlement `com.apple.developer.kernel.increased-memory-limit`. Add the "
            "capability *Increased Memory Limit* to the app's target, or use `Edgeq.entitlements` from this folder. "
            "Without it the system ends the app far earlier."
        )
    return (
        "The target does without the entitlement `com.apple.developer.kernel.increased-memory-limit`. With it the same "
        "phone allows more: then export for the target whose name ends in `-entitled`."
    )


def _swift_string(text: str) -> str:
    # JSON's escapes that tokens need are Swift's too, but for \uXXXX, which ensure_ascii=False avoids.
    return json.dumps(text, ensure_ascii=False)
