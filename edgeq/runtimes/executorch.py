"""ExecuTorch's own runtime: a language model whose cache lives in the program, and a sentence encoder."""

from __future__ import annotations

import dataclasses
import logging
import mmap
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.core.artifact import Interface
from edgeq.errors import CorruptInputError, RuntimeUnavailableError
from edgeq.runtimes import generation
from edgeq.runtimes.generation import Floats, Opening, first_line, padded

REMEDY = "Install it: pip install 'edgeq[executorch]'."
AGAIN = "Export the bundle again."
LONGEST_CALL = "get_max_seq_len"
IDENTIFIER = b"ET"
"""Begins the four bytes behind a `.pte`'s first four; a version follows."""
HEADER = slice(8, 40)
"""The bytes of a `.pte` that say where its program ends, its segments begin, and how long they are."""
EXTENDED = b"eh00"
"""Begins a header that is there."""


@dataclass(frozen=True, kw_only=True)
class PlannedMemory:
    """Bytes by part, as the file says. The arena holds activations and caches; constants, delegates' graphs and the
    weights that delegates look up by name are mapped, and XNNPACK packs a copy of the last when it is loaded."""

    arena_bytes: int
    delegate_bytes: int
    constant_bytes: int
    named_bytes: int


def import_executorch() -> Any:  # noqa: ANN401 - the package has no types
    """The `executorch.runtime` module with the kernels that edgeq's programs call. It imports torch.

    Raises RuntimeUnavailableError where ExecuTorch is not installed.
    """
    try:
        with unheard():
            import executorch.kernels.quantized  # noqa: F401
            from executorch import runtime
            from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401 - importing it registers them
    except (ImportError, OSError) as error:
        raise RuntimeUnavailableError(f"ExecuTorch cannot be imported ({error}).", remedy=REMEDY) from error
    return runtime


def name() -> str:
    return "executorch"


def version() -> str:
    """Of ExecuTorch. Raises RuntimeUnavailableError where it is not installed."""
    import_executorch()
    return metadata.version("executorch")


def memory_by_part(path: Path) -> dict[str, int]:
    """`planned_memory` by name. Raises as it does."""
    return dataclasses.asdict(planned_memory(path))


def open_generator(path: Path, interface: Interface, opening: Opening) -> TextGenerator:
    return TextGenerator(path, interface, tokenizer_path=opening.tokenizer_path, threads=opening.threads)


def open_encoder(path: Path, interface: Interface, opening: Opening) -> Encoder:
    return Encoder(path, interface, tokenizer_path=opening.tokenizer_path, threads=opening.threads)


def open_program(model_path: Path, *, threads: int = 0) -> Any:  # noqa: ANN401
    """A verified program, mapped from its file. threads 0: ExecuTorch's own choice.

    Raises RuntimeUnavailableError, or CorruptInputError where the runtime refuses the file.
    """
    runtime = import_executorch()
    if not model_path.is_file():
        raise CorruptInputError(f"{model_path} is missing.", remedy=AGAIN)
    _check_header(model_path)
    if threads:
        from executorch.extension.pybindings import portable_lib

        with unheard():
            portable_lib._unsafe_reset_threadpool(threads)
    try:
        return runtime.Runtime.get().load_program(model_path, verification=runtime.Verification.InternalConsistency)
    except MemoryError:
        raise
    except Exception as error:  # the runtime's exceptions share no base class
        raise _refused(model_path, error) from error


def _check_header(model_path: Path) -> None:
    """Refuse what is no whole program in our words: the runtime's go to standard error, past Python."""
    size = model_path.stat().st_size
    with model_path.open("rb") as file:
        start = file.read(HEADER.stop)
    if start[4:6] != IDENTIFIER:
        raise _refused(model_path, ValueError("it is no program"))
    header = start[HEADER]
    if header[:4] == EXTENDED:
        program, base, segments = (int.from_bytes(header[at : at + 8], "little") for at in (8, 16, 24))
        whole = max(program, base + segments)
        if whole > size:
            raise _refused(model_path, ValueError(f"it has {size} of its {whole} bytes"))


def _load_method(program: Any, name: str, model_path: Path) -> Any:  # noqa: ANN401
    if name not in program.method_names:
        raise CorruptInputError(f"{model_path.name} has no method {name!r}.", remedy=AGAIN)
    try:
        return program.load_method(name)
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise _refused(model_path, error) from error


def _refused(model_path: Path, error: Exception) -> CorruptInputError:
    return CorruptInputError(f"ExecuTorch refuses {model_path.name}: {first_line(error)}", remedy=AGAIN)


@contextmanager
def unheard() -> Iterator[None]:
    """Without what ExecuTorch and torchao say on being loaded, some of it past Python: none of it is about a model."""
    try:
        kept = os.dup(2)
    except OSError:  # nobody listens
        yield
        return
    silenced, nothing = logging.root.manager.disable, os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        logging.disable(silenced)
        os.close(kept)
        os.close(nothing)


class TextGenerator(generation.TextGenerator):
    """A causal language model. Positions start again at 0 for a new sequence; what the cache held is never read."""

    def __init__(
        self, model_path: Path, interface: Interface, *, tokenizer_path: Path | None = None, threads: int = 0
    ) -> None:
        self._program = open_program(model_path, threads=threads)
        self._method = _load_method(self._program, "forward", model_path)
        self._longest = int(_load_method(self._program, LONGEST_CALL, model_path).execute([])[0])
        super().__init__(interface, tokenizer_path)

    def _forget(self) -> None:
        """Attention reads positions up to the current one only."""

    def _append(self, ids: Sequence[int], keep: int) -> Floats:
        """The program returns the last logits of a call: those that are kept are computed one by one."""
        kept = min(len(ids), keep or len(ids))
        together = len(ids) - kept + 1
        logits = [np.empty(0, dtype=np.float32)]
        for start in range(0, together, self._longest):
            logits[0] = self._call(ids[start : min(start + self._longest, together)], self.length + start)
        logits += [self._call(ids[index : index + 1], self.length + index) for index in range(together, len(ids))]
        return np.stack(logits)

    def _call(self, ids: Sequence[int], position: int) -> Floats:
        import torch

        tokens = torch.tensor([list(ids)], dtype=torch.long)
        positions = torch.arange(position, position + len(ids))
        logits: Floats = self._method.execute([tokens, positions])[0].numpy()[0, -1].copy()
        return logits


class Encoder(generation.Encoder):
    """A sentence encoder; the program takes one sentence at a time."""

    def __init__(
        self, model_path: Path, interface: Interface, *, tokenizer_path: Path | None = None, threads: int = 0
    ) -> None:
        self._program = open_program(model_path, threads=threads)
        self._method = _load_method(self._program, "forward", model_path)
        super().__init__(interface, tokenizer_path)

    def _run(self, batch: Sequence[Sequence[int]]) -> Floats:
        import torch

        feeds = padded(batch)
        rows = []
        for row in range(len(batch)):
            values = [torch.from_numpy(feeds[name][row : row + 1]) for name in self.interface.inputs]
            rows.append(self._method.execute(values)[0].numpy().copy())
        return np.concatenate(rows)


def planned_memory(model_path: Path) -> PlannedMemory:
    """What the file itself says about memory; its weights are not read. Raises CorruptInputError,
    RuntimeUnavailableError."""
    import_executorch()
    try:
        program, segment_bytes = _read_program(model_path)
        plan = next(plan for plan in program.execution_plan if plan.name == "forward")
        delegates = {d.processed.index for plan in program.execution_plan for d in plan.delegates if _is_segment(d)}
        named = {entry.segment_index for entry in program.named_data or ()}
        constants = {program.constant_segment.segment_index} if program.constant_segment.offsets else set()
        # Small programs hold these within themselves.
        inline_delegates = sum(len(delegate.data) for delegate in program.backend_delegate_data)
        inline_constants = sum(len(buffer.storage) for buffer in program.constant_buffer)
        sizes = [sum(segment_bytes[index] for index in indices) for indices in (delegates, constants, named)]
    except Exception as error:  # flatbuffers raises whatever its bytes lead it to
        raise _refused(model_path, error) from error
    return PlannedMemory(
        arena_bytes=sum(plan.non_const_buffer_sizes),
        delegate_bytes=sizes[0] + inline_delegates,
        constant_bytes=sizes[1] + inline_constants,
        named_bytes=sizes[2],
    )


def _is_segment(delegate: Any) -> bool:  # noqa: ANN401
    return bool(delegate.processed.location.name == "SEGMENT")


def _read_program(model_path: Path) -> tuple[Any, list[int]]:
    """The program without its segments, and their sizes. ExecuTorch's own reader copies the whole file twice."""
    from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program

    with model_path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = data[HEADER]
        has_segments = header[:4] == EXTENDED
        size, base = (int.from_bytes(header[at : at + 8], "little") for at in (8, 16))
        program = _flatbuffer_to_program(data[:size] if has_segments else data[:])
        for segment in program.segments:
            if base + segment.offset + segment.size > len(data):
                raise ValueError("a segment lies beyond the end of the file")
    return program, [segment.size for segment in program.segments]
