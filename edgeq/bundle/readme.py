"""The bundle's README.md: what this is, whether it may ship, and how to use it on its surface."""

from __future__ import annotations

from typing import assert_never

from edgeq.bundle.manifest import Manifest
from edgeq.bundle.text import fill, size_text
from edgeq.core.report import Verdict
from edgeq.core.target import Format

_VERDICTS = {
    Verdict.PASSED: "**passed**: it was run in its runtime under the device's memory limit, and compared "
    "with the original.",
    Verdict.FAILED: "**failed**: it was run, and at least one gate does not hold. Do not ship it.",
    Verdict.NOT_VALIDATED: "**not validated**: it was never run. `edgeq validate` runs it.",
}


_REFERENCE_EXECUTED = (
    "**{verdict}**, as far as it could be judged here: a reference interpreter ran it, and its outputs were compared "
    "with the original's. Its memory was not judged."
)


def readme(manifest: Manifest, *, in_its_runtime: bool) -> str:
    """Markdown. It holds no measurement: those are in report.md. in_its_runtime: False where a reference interpreter
    stood in for the runtime."""
    verdict = manifest.report.verdict
    judged = in_its_runtime or verdict is Verdict.NOT_VALIDATED
    size = sum(entry.bytes for entry in manifest.files)
    return fill(
        "README.md",
        {
            "NAME": manifest.name,
            "TASK": manifest.interface.task,
            "TARGET": manifest.target,
            "DESCRIPTION": manifest.profile.description,
            "VERDICT": _VERDICTS[verdict] if judged else _REFERENCE_EXECUTED.format(verdict=verdict.value),
            "RUNTIME": _runtime(manifest),
            "MODEL_FILES": "\n".join(f"| {path} | {text} |" for path, text in _model_files(manifest)),
            "SIZE": size_text(size),
            "DIGEST": manifest.weights_digest,
            "PREFIX": "" if manifest.root == "." else f"{manifest.root}/",
            "USE": _use(manifest),
            "VERSION": manifest.edgeq_version,
        },
    )


def _runtime(manifest: Manifest) -> str:
    match manifest.format:
        case "onnx":
            return f"ONNX Runtime {manifest.runtime.version}"
        case "executorch":
            return f"ExecuTorch {manifest.runtime.version}"
        case "coreml":
            return f"Core ML (written by coremltools {manifest.runtime.version})"
        case "transformersjs":
            return f"transformers.js and onnxruntime-web {manifest.runtime.version}"
    assert_never(manifest.format)


_PICTURE_WORDS = (
    "a picture of any size, `picture` uint8 `[height, width, channels]`, to `pixel_values`: scaled, cut and normalised "
    "as the model's own preprocessor does"
)


def _model_files(manifest: Manifest) -> list[tuple[str, str]]:
    """Rows of the table of files: a path and what it is."""
    if manifest.surface == "browser":
        return _browser_files(manifest)
    prefix = "" if manifest.root == "." else f"{manifest.root}/"
    return [
        (f"`{prefix}model/`", _model_folder(manifest.format)),
        *((f"`{path}`", words) for path, words in _text_files(manifest)),
        *([(f"`{manifest.picture}`", _PICTURE_WORDS)] if manifest.picture is not None else []),
        (f"`{prefix}tokenizer/`", "tokenizer and configuration, as the model brought them"),
    ]


def _text_files(manifest: Manifest) -> list[tuple[str, str]]:
    """The graphs that read and write text, with ONNX Runtime Extensions."""
    text = manifest.text
    if text is None:
        return []
    words = {
        text.model: "the same model with its tokenizer inside: `text`, strings, in; the weights are `model.onnx`'s",
        text.tokenizer: "one string `text` to `input_ids` and `attention_mask`",
        text.detokenizer: "`ids` to the string `text`, without special tokens",
    }
    return [(path, words[path]) for path in text.files]


def _model_folder(format: Format) -> str:
    match format:
        case "onnx":
            return "the model for ONNX Runtime: `model.onnx` is the graph, the file beside it its weights"
        case "executorch":
            return "the model for ExecuTorch: one file, weights and all"
        case "coreml":
            return "the model for Core ML: `model.mlpackage` is a folder that stays together"
        case "transformersjs":
            return "the model for transformers.js: each variant is a graph and the weights beside it"
    assert_never(format)


def _browser_files(manifest: Manifest) -> list[tuple[str, str]]:
    variants = ", ".join(f"`{one.dtype}` ({one.float_dtype})" for one in manifest.variants)
    return [
        ("`onnx/`", f"{_model_folder(manifest.format)}: {variants}"),
        ("`config.json`, `tokenizer.json`, ...", "tokenizer and configuration, where transformers.js looks for them"),
        ("`index.html`", "a page that runs the model"),
        ("`edgeq.mjs`, `edgeq-*.mjs`", "the module that a page of yours imports, and what that needs"),
        ("`vendor/`", "transformers.js with onnxruntime-web in it, unmodified, and their licences"),
    ]


_EDGE_WORDS = '"A cat sleeps." "A kitten naps."'


def _use(manifest: Manifest) -> str:
    match manifest.surface:
        case "ios":
            return _use_ios(manifest)
        case "android":
            return "Follow `android/README.md`: a folder for `assets/`, a Gradle snippet and two Kotlin files."
        case "edge":
            words = '"Once upon a time"' if manifest.interface.task == "text-generation" else _EDGE_WORDS
            words = "cat.jpg kitten.jpg" if manifest.interface.image is not None else words
            words = "inputs.npz outputs.npz" if manifest.interface.task == "module" else words
            return (
                "```sh\npython3 -m venv .venv && .venv/bin/pip install -r requirements.txt\n"
                ".venv/bin/python run.py --check\n"
                f".venv/bin/python run.py {words}\n```\n\n"
                "`edgeq.service` runs it under systemd, within the memory that the target allows: see its first lines."
            )
        case "browser":
            return fill("browser/use.md", {"CALL": _call(manifest), "PIPELINE": _pipeline(manifest)})
    assert_never(manifest.surface)


def _call(manifest: Manifest) -> str:
    if manifest.interface.task == "text-generation":
        return 'await bundle.generate("Once upon a time", { onText: (text) => console.log(text) });'
    return 'const [cat, kitten] = await bundle.embed(["A cat sleeps.", "A kitten naps."]);'


def _pipeline(manifest: Manifest) -> str:
    dtypes = " or ".join(f"`{one.dtype}`" for one in manifest.variants)
    return f"`pipeline('{manifest.interface.task}', ...)`, `dtype` {dtypes}"


def _use_ios(manifest: Manifest) -> str:
    follow = "Follow `ios/README.md`: a folder for the app, and Swift files that use it."
    if manifest.format != "coreml":
        return follow
    return f"{follow}\n`validate_on_mac.py` finishes the check on a Mac, where Core ML is."
