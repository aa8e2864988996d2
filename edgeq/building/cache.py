"""Content addresses: what the bytes of a store and of a bundle depend on, each as one sha256."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import edgeq
from edgeq.building.matrix import Cell
from edgeq.bundle.stage import bundle_name
from edgeq.core.records import to_plain
from edgeq.core.target import Format
from edgeq.files import sha256_file
from edgeq.models.checkpoint import open_checkpoint
from edgeq.models.identity import CARD, revision
from edgeq.models.sentence_modules import pooling_files
from edgeq.models.source import COMPANIONS, locate
from edgeq.runtimes.extensions import PACKAGE as EXTENSIONS
from edgeq.runtimes.opening import runs_apart
from edgeq.targets.formats import FORMATS

LAYOUT = 1
"""Raised where the same inputs come to other files in the build's directory."""
QUANTIZING = ("numpy", "safetensors", "tokenizers", "torch", "transformers")
LOWERING = ("onnx", "onnx-ir", "onnxruntime")


def model_digest(source: str | None) -> str:
    """What the model is: its name in bundles, weights, configuration, tokenizer and licence, in hex.

    Raises EdgeqError where it cannot be read.
    """
    directory, label = locate(source)
    names = {path.name for pattern in (*COMPANIONS, CARD) for path in directory.glob(pattern) if path.is_file()}
    files = [*sorted(names), *pooling_files(directory)]
    return _digest(
        [
            bundle_name(label),  # where the model lies is another matter on every machine
            revision(directory, open_checkpoint(directory).files),
            [(str(name), sha256_file(directory / name)) for name in files],
        ]
    )


def store_key(cell: Cell, model: str) -> str:
    """Of the quantized weights. model: its digest.

    The grid is a matter of the formats and of the compute unit, so that targets which share those, recipe and model
    share the store. Bits that are chosen within a budget also depend on the budget and on the whole target.
    """
    settings, profile = cell.settings, cell.profile
    return _digest(
        [
            LAYOUT,
            edgeq.__version__,
            _versions(QUANTIZING),
            model,
            settings.task,
            to_plain(cell.recipe),
            _file_digest(settings.calibration),
            sorted(cell.formats),
            profile.compute_unit,
            None if cell.allocation is None else [to_plain(cell.allocation), to_plain(profile)],
        ]
    )


def cell_key(cell: Cell, store: str) -> str:
    """Of a bundle with its report. store: its key. Budgets are not in it: they are judged on the finished report."""
    return _digest(
        [
            store,
            to_plain(cell.profile),
            cell.format,
            cell.memory_limit,
            _file_digest(cell.settings.evaluation),
            _versions((*LOWERING, *FORMATS[cell.format].distributions)),
            platform.system(),
            platform.machine(),
            _browser(cell.format),
            _emulator(cell),
            *_tokenizer(cell),
        ]
    )


def reference_key(cell: Cell, store: str) -> str:
    """Of what the float and the dequantized model answer: cells that share it are compared with the same answers."""
    return _digest([store, _file_digest(cell.settings.evaluation)])


def _versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    return {name: _version(name) for name in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _browser(format: Format) -> list[str | None]:
    """What a bundle for browsers is run with here, as one that could not be run is to be tried again."""
    if not runs_apart(format):
        return []
    from edgeq.runtimes.browser.packages import cache_directory, is_installed
    from edgeq.runtimes.browser.programs import find_chromium

    return [cache_directory().name if is_installed() else None, str(find_chromium())]


def _emulator(cell: Cell) -> str | None:
    """What else a bundle is run on here, as one that could not be is to be tried again."""
    from edgeq.runtimes.arm64.lock import installed_directory

    found = installed_directory()
    return found.name if cell.profile.validate_cpus and found.is_dir() else None


def _tokenizer(cell: Cell) -> list[str | None]:
    """Where the tokenizer is, and what reads text with; nothing where it is as it always was."""
    form = cell.settings.tokenizer
    return [] if form == "files" else [form, _version(EXTENSIONS)]


def _file_digest(path: Path | None) -> str | None:
    return None if path is None else sha256_file(path)


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
