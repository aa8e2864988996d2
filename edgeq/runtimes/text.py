"""Graphs that read and write text, in ONNX Runtime with its extensions. No tokenizer of another library is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.runtimes.generation import Floats
from edgeq.runtimes.onnxruntime import open_session, output_of


class TokenizerGraph:
    """`tokenizer.onnx`: a text to its ids. Raises CorruptInputError, RuntimeUnavailableError."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        self._session = open_session(path, threads=threads, extensions=True)

    def encode(self, text: str) -> list[int]:
        """Raises CorruptInputError where an operator refuses the text."""
        return _ids(_run(self._session, "input_ids", _texts([text]))[0])


class DetokenizerGraph:
    """`detokenizer.onnx`: ids to a text, without special tokens; it needs no extensions. Raises CorruptInputError."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        self._session = open_session(path, threads=threads)

    def decode(self, ids: Sequence[int]) -> str:
        return str(_run(self._session, "text", {"ids": np.array(ids, dtype=np.int64)})[0])


class TextEncoder:
    """An encoder with its tokenizer in the graph: texts to what it answers. Raises as TokenizerGraph."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        self._session = open_session(path, threads=threads, extensions=True)

    def encode(self, texts: Sequence[str]) -> Floats:
        """The first output, a row for each text."""
        answer: Floats = _run(self._session, self._session.get_outputs()[0].name, _texts(texts))
        return answer

    def ids(self, text: str) -> list[int]:
        """What the model is given for a text."""
        return _ids(_run(self._session, "input_ids", _texts([text]))[0])


def _run(session: Any, output: str, feeds: dict[str, Any]) -> Any:  # noqa: ANN401 - the runtime has no types
    return output_of(session, output, feeds, "reads text")


def _texts(texts: Sequence[str]) -> dict[str, Any]:
    return {"text": np.array(list(texts), dtype=object)}


def _ids(row: Any) -> list[int]:  # noqa: ANN401 - the runtime has no types
    return [int(token) for token in row]
