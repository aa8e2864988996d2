"""A language model and a sentence encoder that a page runs: the forward pass goes there, and numbers come back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from edgeq.core.artifact import Interface
from edgeq.errors import CorruptInputError
from edgeq.files import contained
from edgeq.runtimes import generation
from edgeq.runtimes.browser.host import AGAIN, Host
from edgeq.runtimes.browser.placement import describe
from edgeq.runtimes.generation import Floats, Opening, padded

MOST_CHUNKS = 100
HALF = ("f16", "fp16")
"""How transformers.js' names of models that compute in float16 end."""
SOFTWARE_ADAPTER = "swiftshader"
LONGEST_PIECE = 31
"""Tokens that a software adapter is fed at once. From 32 on onnxruntime-web's GroupQueryAttention takes another kernel,
which is wrong there: every position attends to the first four only (1.31.0-dev.20260914 on Chromium 156)."""


class _Page:
    """A model in its page: what it costs and how to call it."""

    def __init__(self, model_path: Path, interface: Interface, opening: Opening) -> None:
        root, provider = model_path.parent.parent, opening.execution_provider
        chunks = chunk_files(model_path)
        self._host = Host(root, provider)
        try:
            if opening.on_start is not None:
                opening.on_start(self._host.pids)
            files = [f"bundle/{quote(path.relative_to(root).as_posix())}" for path in (model_path, *chunks)]
            reply = self._host.ask(
                {
                    "operation": "open",
                    "packages": self._host.url("packages/"),
                    "model": self._host.url(files[0]),
                    "chunks": [self._host.url(file) for file in files[1:]],
                    "provider": provider,
                    "half": model_path.stem.endswith(HALF),
                    "threads": opening.threads,
                    "cache": [name for name in interface.outputs if name.startswith("present.")],
                }
            )
            _check_outputs(interface, reply.head["outputs"])
        except BaseException:
            self._host.close()
            raise
        self.seconds = float(reply.head["seconds"])
        facts = {"host": self._host.name, "threads": str(reply.head["threads"])}
        self.facts: dict[str, str] = facts | reply.head["facts"] | describe(reply.head["placement"])

    def call(self, command: Mapping[str, Any]) -> Floats:
        reply = self._host.ask(command)
        self.seconds += float(reply.head.get("seconds", 0.0))
        return reply.numbers

    def close(self) -> None:
        self._host.close()


class _InPage(generation.Model):
    """A model in a page. Its clock stands still between calls and begins with what loading took: fetching the files,
    starting the runtime, and preparing the model."""

    _page: _Page

    def seconds(self) -> float:
        return self._page.seconds

    def facts(self) -> dict[str, str]:
        return dict(self._page.facts)

    def close(self) -> None:
        self._page.close()


class TextGenerator(_InPage, generation.TextGenerator):
    """A causal language model whose cache stays in the page."""

    def __init__(self, model_path: Path, interface: Interface, opening: Opening) -> None:
        super().__init__(interface, opening.tokenizer_path)
        self._page = _Page(model_path, interface, opening)

    def facts(self) -> dict[str, str]:
        facts = super().facts()
        return facts | {"longest_piece": f"{LONGEST_PIECE} tokens"} if self._is_software() else facts

    def _is_software(self) -> bool:
        return SOFTWARE_ADAPTER in self._page.facts.get("adapter", "")

    def _forget(self) -> None:
        self._page.call({"operation": "reset"})

    def _append(self, ids: Sequence[int], keep: int) -> Floats:
        longest = LONGEST_PIECE if self._is_software() else len(ids)
        starts = range(0, len(ids), longest)
        logits = [self._append_piece(ids, start, min(start + longest, len(ids)), keep) for start in starts]
        together = np.concatenate(logits)
        return together[-keep:] if keep else together

    def _append_piece(self, ids: Sequence[int], start: int, stop: int, keep: int) -> Floats:
        """`ids[start:stop]`, with the logits that `keep` wants of them, one at least."""
        wanted = 0 if keep == 0 else min(stop - start, max(1, keep - (len(ids) - stop)))
        return self._page.call(
            {"operation": "append", "ids": list(ids[start:stop]), "length": self.length + start, "keep": wanted}
        )


class Encoder(_InPage, generation.Encoder):
    """A sentence encoder in a page, a padded batch at a time."""

    def __init__(self, model_path: Path, interface: Interface, opening: Opening) -> None:
        super().__init__(interface, opening.tokenizer_path)
        self._page = _Page(model_path, interface, opening)

    def _run(self, batch: Sequence[Sequence[int]]) -> Floats:
        feeds = padded(batch)
        inputs = {name: feeds[name].ravel().tolist() for name in self.interface.inputs}
        output = self.interface.outputs[0]
        return self._page.call({"operation": "encode", "rows": len(batch), "output": output, "inputs": inputs})


def chunk_files(model_path: Path) -> list[Path]:
    """The model's files of external data, as `config.json` says to transformers.js how many there are.

    Raises CorruptInputError where a file is missing or the number is none.
    """
    root = model_path.parent.parent
    try:
        config = json.loads((root / "config.json").read_bytes())
        counts = config.get("transformers.js_config", {}).get("use_external_data_format", {})
        count = int(counts.get(model_path.name, 0))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CorruptInputError(f"{root / 'config.json'} is missing or unreadable.", remedy=AGAIN) from error
    if not 0 <= count <= MOST_CHUNKS:
        raise CorruptInputError(f"config.json gives {model_path.name} {count} files of data.", remedy=AGAIN)
    names = [f"{model_path.name}_data" + (f"_{index}" if index else "") for index in range(count)]
    files = [contained(model_path.parent, name) for name in names]
    for path in (model_path, *files):
        if not path.is_file():
            raise CorruptInputError(f"{path} is missing.", remedy=AGAIN)
    return files


def _check_outputs(interface: Interface, outputs: Sequence[str]) -> None:
    absent = sorted(set(interface.outputs) - set(outputs))
    if absent:
        raise CorruptInputError(f"The model has no output {absent[0]}.", remedy=AGAIN)
