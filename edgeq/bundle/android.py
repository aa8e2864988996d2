"""Android: a folder that goes into the app's assets, two Kotlin files that use it, and a Gradle snippet."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgeq.bundle import android_executorch, android_text, answering_kotlin
from edgeq.bundle.manifest import Manifest
from edgeq.bundle.memory import required_bytes
from edgeq.bundle.text import fill, size_text
from edgeq.core.artifact import Interface
from edgeq.core.task import TASKS
from edgeq.errors import InternalError

_FED = {"input_ids", "attention_mask", "num_logits_to_keep", "token_type_ids", "pixel_values"}
_FEED_TENSORS = """\
Names, types and shapes of the tensors are at the head of `EdgeqModel.kt`. The smoke test compares one small example."""
_BASE_MODULE_BYTES = 200 * 10**6
_PIXELS = """\
Pixels are ARGB, as `Bitmap.getPixels` gives them, of an image that the app has scaled to `EdgeqModel.WIDTH` x
`EdgeqModel.HEIGHT`; `tokenizer/preprocessor_config.json`, where the checkpoint has one, says how it was cropped in
training. Mean and deviation are taken off by the model's class."""


def root(name: str) -> str:
    """Where the files are in the bundle; the part from `assets` on is what an app's `src/main` takes."""
    return f"assets/edgeq/{name}"


def write(manifest: Manifest, directory: Path) -> None:
    """Write `android/` into the staged bundle: README.md, build.gradle.kts, EdgeqBundle.kt and EdgeqModel.kt.

    Raises InternalError for a format or an interface that the samples do not know.
    """
    texts = _texts(manifest, directory)
    folder = directory / "android"
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _texts(manifest: Manifest, directory: Path) -> dict[str, str]:
    match manifest.format:
        case "onnx":
            _check_inputs(manifest.interface)
            values = {"RUNTIME_VERSION": manifest.runtime.version, "EXTENSIONS": android_text.dependency(manifest)}
            return {
                "EdgeqBundle.kt": _bundle_kotlin(manifest, "ONNX Runtime"),
                "EdgeqModel.kt": _model_kotlin(manifest),
                **android_text.kotlin(manifest),
                "build.gradle.kts": fill("build.gradle.kts", values),
                "README.md": _readme(manifest),
            }
        case "executorch":
            return {
                "EdgeqBundle.kt": _bundle_kotlin(manifest, "ExecuTorch"),
                "EdgeqModel.kt": android_executorch.model_kotlin(manifest, directory),
                "build.gradle.kts": fill("executorch.gradle.kts", {"RUNTIME_VERSION": manifest.runtime.version}),
                "README.md": android_executorch.readme(manifest, _delivery(manifest)),
            }
        case "coreml" | "transformersjs":
            raise InternalError(
                f"There is no Android sample for {manifest.format}.", remedy="Report this: a profile should refuse it."
            )


def _check_inputs(interface: Interface) -> None:
    if interface.task == "module":  # takes whatever tensors it was exported with
        return
    other = {name for name in interface.inputs if not name.startswith("past_key_values.")} - _FED
    if interface.task == "text-generation" and not interface.cache:
        raise InternalError("The Kotlin sample needs a key-value cache.", remedy="Report this: teach templates/*.kt.")
    if other:
        raise InternalError(
            f"The Kotlin sample does not feed the inputs {sorted(other)}.", remedy="Report this: teach templates/*.kt."
        )


def _bundle_kotlin(manifest: Manifest, runtime: str) -> str:
    prefix = f"{manifest.root}/"
    files = [entry for entry in manifest.files if entry.path.startswith(prefix)]
    contents = hashlib.sha256("".join(f"{entry.path} {entry.sha256}\n" for entry in files).encode())
    lines = [f'        "{entry.path.removeprefix(prefix)}" to {entry.bytes}L,' for entry in files]
    return fill(
        "EdgeqBundle.kt",
        {
            "NAME": manifest.name,
            "RUNTIME": runtime,
            "VERSION": contents.hexdigest()[:16],
            "ASSETS": manifest.root.removeprefix("assets/"),
            "FILES": "\n".join(lines),
            "REQUIRED_BYTES": f"{required_bytes(manifest)}L",
            "REQUIRED_TEXT": size_text(required_bytes(manifest)),
        },
    )


def _model_kotlin(manifest: Manifest) -> str:
    interface = manifest.interface
    values = {"MODEL": manifest.model.removeprefix(f"{manifest.root}/"), "THREADS": str(manifest.runtime.threads)}
    if interface.task == "module":
        inputs = interface.tensors[: len(interface.inputs)]
        lines = [f" * {spec.name}: {spec.dtype} {list(spec.shape)}" for spec in inputs]
        lines += [f" * gives {spec.name}: {spec.dtype} {list(spec.shape)}" for spec in interface.tensors[len(inputs) :]]
        names = {"INPUT": interface.inputs[0], "OUTPUT": interface.outputs[0]}
        return fill("module.kt", {**values, **names, "SIGNATURE": "\n".join(lines).replace("'", "")})
    if interface.task != "text-generation":
        return answering_kotlin.model_kotlin(interface, values)
    cache = ",\n".join(f"            longArrayOf({heads}, {size})" for heads, size in interface.cache)
    ends = ", ".join(f"{token}L" for token in interface.end_of_text_ids)
    return fill(
        "generator.kt",
        {
            **values,
            "VOCABULARY": str(interface.vocabulary),
            "CONTEXT_LENGTH": str(interface.context_length),
            "CACHE": cache,
            "END_OF_TEXT": f"setOf({ends})" if ends else "emptySet<Long>()",
        },
    )


def _delivery(manifest: Manifest) -> str:
    size = sum(entry.bytes for entry in manifest.files)
    if size <= _BASE_MODULE_BYTES:
        return f"{size_text(size)} fit into the app's base module, which Play caps at 200 MB (500 MB in newer rules)."
    return (
        f"{size_text(size)} are more than the 200 MB that every version of Play's rules allows a base module: "
        "deliver them as an asset pack or an AI pack."
    )


def _readme(manifest: Manifest) -> str:
    return fill(
        "android.md",
        {
            "NAME": manifest.name,
            "MODEL": manifest.model,
            "RUNTIME_VERSION": manifest.runtime.version,
            "DELIVERY": _delivery(manifest),
            "REQUIRED_TEXT": size_text(required_bytes(manifest)),
            "LIMIT_TEXT": f"{manifest.profile.memory_limit_mib} MiB",
            "USE": _use(manifest.interface),
            "FEED": _feed(manifest),
        },
    )


def _use(interface: Interface) -> str:
    match interface.task:
        case "text-generation":
            return "val answer: LongArray = model.generate(promptIds, maxNewTokens = 64)"
        case "module":
            return f'model.run(mapOf("{interface.inputs[0]}" to tensor)).use {{ result -> /* result.get("...") */ }}'
    return answering_kotlin.call(interface)


def _feed(manifest: Manifest) -> str:
    """Where what the model takes comes from."""
    match TASKS[manifest.interface.task].takes:
        case "tokens":
            return android_text.advice(manifest)
        case "pixels":
            return _PIXELS
        case "tensors":
            return _FEED_TENSORS
