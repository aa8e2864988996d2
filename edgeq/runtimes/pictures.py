"""The graph that scales, cuts and normalises pictures, in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from edgeq.core.images import Bytes, Floats
from edgeq.errors import CorruptInputError
from edgeq.runtimes.generation import first_line
from edgeq.runtimes.onnxruntime import open_session


class PictureGraph:
    """`preprocess.onnx`. Raises CorruptInputError, RuntimeUnavailableError."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        self._session = open_session(path, threads=threads)

    def values(self, picture: Bytes) -> Floats:
        """`pixel_values` `[1, channels, height, width]` of uint8 `[height, width, channels]`."""
        try:
            values: Floats = self._session.run(["pixel_values"], {"picture": picture})[0]
        except MemoryError:
            raise
        except Exception as error:  # the runtime's exceptions share no base class
            raise CorruptInputError(
                f"The graph that prepares pictures failed: {first_line(error)}", remedy="Export the bundle again."
            ) from error
        return values
