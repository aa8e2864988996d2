"""Browser: the whole bundle on any static file server, as transformers.js reads it, with a page that runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from edgeq.bundle.manifest import Manifest
from edgeq.bundle.text import fill, template
from edgeq.core.artifact import Artifact, Variant
from edgeq.errors import CorruptInputError
from edgeq.runtimes.browser.packages import vendored_files

ROOT = "."
MODEL_FOLDER = "onnx"
_MODULES = ("edgeq.mjs", "edgeq-worker.mjs", "edgeq-files.mjs")
_CONFIG, _TOKENIZER, _TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
_CHAT_TEMPLATE = "chat_template.jinja"


def belongs_to(path: str, variant: Variant) -> bool:
    """Whether a file is the variant's graph or holds weights of it; `path` is written as the variant's entry is."""
    return path == variant.entry or path.startswith(f"{variant.entry}_data")


def write_configuration(artifact: Artifact, directory: Path) -> None:
    """Put into `directory`, which has the checkpoint's own files, what transformers.js looks for in them.

    `config.json` gets `transformers.js_config`: the variant that it takes by itself, how many files of weights each
    variant has, and what its cache is kept in. `tokenizer_config.json` gets the chat template, where that is a file of
    its own, which transformers.js does not read. Raises CorruptInputError for a file that is not JSON.
    """
    # What a checkpoint may bring under this key describes other files.
    _update(directory / _CONFIG, {"transformers.js_config": _transformers_js(artifact)})
    if not (directory / _TOKENIZER).is_file():
        return
    chat_template = directory / _CHAT_TEMPLATE
    added = {"chat_template": chat_template.read_text(encoding="utf-8")} if chat_template.is_file() else {}
    # Without this file transformers.js does not even look for a tokenizer.
    if added or not (directory / _TOKENIZER_CONFIG).is_file():
        _update(directory / _TOKENIZER_CONFIG, added)


def write(manifest: Manifest, directory: Path) -> None:
    """Write the page, the modules that an app imports, and in `vendor/` what they run on into the staged bundle.

    Raises RuntimeUnavailableError where the npm packages are not installed.
    """
    vendor = directory / "vendor"
    vendor.mkdir()
    for name, path in vendored_files().items():
        shutil.copyfile(path, vendor / name)
    for name in _MODULES:
        (directory / name).write_text(template(f"browser/{name}"), encoding="utf-8")
    page = fill("browser/index.html", {"NAME": manifest.name})
    (directory / "index.html").write_text(page, encoding="utf-8")


def _transformers_js(artifact: Artifact) -> dict[str, object]:
    chunks = {
        variant.entry: sum(name != variant.entry and belongs_to(name, variant) for name in artifact.files)
        for variant in artifact.variants
    }
    half = [variant.dtype for variant in artifact.variants if variant.float_dtype == "float16"]
    return {
        "dtype": artifact.variants[0].dtype,
        "use_external_data_format": chunks,
        # Read by transformers.js before 4.2; later versions ask the model itself.
        **({"kv_cache_dtype": dict.fromkeys(half, "float16")} if half and artifact.interface.cache else {}),
    }


def _update(path: Path, added: Mapping[str, object]) -> None:
    """Write the JSON object at `path`, an empty one where there is no file, with `added` in it."""
    try:
        plain = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError:
        plain = None
    if not isinstance(plain, dict):
        raise CorruptInputError(f"The checkpoint's {path.name} is not a JSON object.", remedy="Fetch the model again.")
    path.write_text(json.dumps({**plain, **added}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
