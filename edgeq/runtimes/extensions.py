"""ONNX Runtime Extensions: the library that computes tokenizers in graphs, found without loading its Python part."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from importlib.util import find_spec
from pathlib import Path

from edgeq.errors import RuntimeUnavailableError

PACKAGE = "onnxruntime-extensions"
_MODULE = "onnxruntime_extensions"
_LIBRARY = ("_extensions_pydll*.so", "_extensions_pydll*.pyd")


def library() -> Path:
    """What a session registers. Raises RuntimeUnavailableError where the package is not installed."""
    found = find_spec(_MODULE)
    for folder in (found.submodule_search_locations or ()) if found else ():
        for pattern in _LIBRARY:
            for path in sorted(Path(folder).glob(pattern)):
                return path
    raise RuntimeUnavailableError(
        f"A graph that reads text needs {PACKAGE}, which is not installed.",
        remedy="Install it: pip install 'edgeq[tokenizer]'.",
    )


def version() -> str:
    """Of the package. Raises RuntimeUnavailableError where it is not installed."""
    library()
    try:
        return package_version(PACKAGE)
    except PackageNotFoundError as error:
        raise RuntimeUnavailableError(
            f"{PACKAGE} is there without its metadata.", remedy="Install it: pip install 'edgeq[tokenizer]'."
        ) from error
