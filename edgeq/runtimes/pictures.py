"""The graph that scales, cuts and normalises pictures, in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from edgeq.core.images import Bytes, Floats
from edgeq.runtimes.onnxruntime import open_session, output_of


class PictureGraph:
    """`preprocess.onnx`. Raises CorruptInputError, RuntimeUnavailableError."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        self._session = open_session(path, threads=threads)

    def values(self, picture: Bytes) -> Floats:
        """`pixel_values` `[1, channels, height, width]` of uint8 `[height, width, channels]`."""
        values: Floats = output_of(self._session, "pixel_values", {"picture": picture}, "prepares pictures")
        return values
