"""The process that is judged, `python -m edgeq.validation.child request.json`: it loads the artifact, times it, and
writes down what it answers. No tokenizer, nothing that an app would not have; torch only where the runtime's own Python
interface is made of it."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgeq.core.artifact import Interface
from edgeq.core.target import Format
from edgeq.errors import EdgeqError, OutputError, RuntimeUnavailableError
from edgeq.files import NO_SPACE, save_array
from edgeq.runtimes.generation import Encoder, Model, Opening, TextGenerator
from edgeq.runtimes.opening import Runtime, read_compute_unit, read_format, read_interface, runs_apart, runtime_of
from edgeq.runtimes.tensors import TensorModel
from edgeq.validation.memory import DISK_FULL, LIMITED_FROM, MEMORY_REFUSED, announce, await_limit, held_bytes
from edgeq.validation.tensor_cases import INPUTS, TensorCases, write_tensors
from edgeq.validation.text_child import answer_texts

ANSWERS = "artifact"
"""In a run's directory, what the artifact answered: an array for each sequence, or output."""
PREFILL_TOKENS = 128
DECODE_TOKENS = 32
FILL_TOKENS = 4
"""Decoded at the end of a filled context: enough for the runtime to append to a cache of that length."""
REPEATS = 3
SLOW_SECONDS = 10.0
"""What takes longer is not repeated or gone on with: a GPU that computes on the CPU answers all the same."""
FIRST_CHUNK = 5
CHUNK_TOKENS = 32
CHUNK_BYTES = 8 << 20
BATCH = 8
IMAGE_BATCH = 2
"""An app classifies one image at a time: what more of them hold should not count."""
CHUNKED: tuple[Format, ...] = ("onnx", "transformersjs")
"""Formats whose artifacts return the logits of all positions of a piece."""
Floats = npt.NDArray[np.float32]


def main(request_path: Path) -> int:
    """Carry out a request; the result is `result.json` in its output directory. Returns the exit code."""
    request = json.loads(request_path.read_text(encoding="utf-8"))
    try:
        return _carry_out(request, Path(request["output"]))
    except OutputError:
        return DISK_FULL
    except OSError as error:
        if error.errno in NO_SPACE:
            return DISK_FULL
        raise


def _carry_out(request: dict[str, Any], output: Path) -> int:
    try:
        result = _measure(request, output)
    except OutputError:
        raise
    except RuntimeUnavailableError as error:
        result = {"status": "runtime_missing", "reason": str(error)}
    except EdgeqError as error:
        result = {"status": "refused", "reason": str(error)}
    except MemoryError:
        return MEMORY_REFUSED
    result["torch_loaded"] = "torch" in sys.modules
    (output / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


class _Stages:
    """The phases as the parent hears of them, and the processes that they are announced for."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._processes: tuple[int, ...] = ()
        self.loading_since = 0.0

    def begin(self, name: str) -> None:
        announce(self._file, name, self._processes)

    def held_bytes(self) -> int:
        """Dirty memory of the judged processes now."""
        return held_bytes(self._processes)

    def load(self, processes: tuple[int, ...] = ()) -> None:
        """The runtime is there and holds nothing yet; from now on the limit holds. processes: as for `announce`."""
        self._processes = processes
        self.begin(LIMITED_FROM)
        await_limit()
        self.loading_since = time.perf_counter()


def _measure(request: dict[str, Any], output: Path) -> dict[str, Any]:
    stages = _Stages(output / "phases")
    stages.begin("runtime")
    format = read_format(request)
    runtime = runtime_of(format)
    version = runtime.version()
    interface = read_interface(request["interface"])
    is_apart = runs_apart(format)
    opening = Opening(
        threads=int(request["threads"]),
        compute_unit=read_compute_unit(request),
        execution_provider=request["execution_provider"],
        on_start=stages.load if is_apart else None,
    )
    model_path = Path(request["model"])
    if not is_apart:
        stages.load()
    if request["work"] == "text":
        answered = answer_texts(request, output, stages.begin)
        stages.begin("end")
        return {"status": "done", **answered}
    model = _opened(runtime, model_path, interface, opening)
    try:
        load_seconds = time.perf_counter() - stages.loading_since
        loaded = stages.held_bytes()
        measured = _work(model, request, stages, output, format)
        measured["speed"]["load_seconds"] = load_seconds
        stages.begin("end")
    finally:
        model.close()
    return {
        "status": "done",
        **measured,
        "loaded_bytes": loaded,
        "facts": model.facts(),
        "planned_memory": runtime.memory_by_part(model_path) if request["work"] == "judge" else {},
        "runtime_version": version,
    }


def _opened(
    runtime: Runtime, path: Path, interface: Interface, opening: Opening
) -> TextGenerator | Encoder | TensorModel:
    match interface.task:
        case "text-generation":
            return runtime.open_generator(path, interface, opening)
        case "module":
            return TensorModel(path, interface, threads=opening.threads)
    return runtime.open_encoder(path, interface, opening)


def _work(
    model: TextGenerator | Encoder | TensorModel, request: dict[str, Any], stages: _Stages, output: Path, format: Format
) -> dict[str, Any]:
    """What is asked for: to time the model and have it answer, one of both, or to fill its context with the first
    sequence."""
    if isinstance(model, TensorModel):
        return _run_cases(model, TensorCases.open(Path(request["cases"])), stages, output, request["work"])
    sequences: list[list[int]] = request["sequences"]
    if request["work"] == "fill":
        _fill(model, sequences[0], stages)
        return {"speed": {}}
    speed = {} if request["work"] == "answer" else _time(model, sequences, stages)
    if request["work"] == "run":
        return {"speed": speed}
    answers = output / ANSWERS
    answers.mkdir()
    stages.begin("drift")
    told = _answer(model, sequences, answers, format)
    written = [] if isinstance(model, Encoder) else _continue(model, request["prompts"])
    return {"speed": speed, "continuations": written, **told}


def _run_cases(model: TensorModel, cases: TensorCases, stages: _Stages, output: Path, work: str) -> dict[str, Any]:
    """Time the first case; to judge, answer them all."""

    def answer(index: int) -> dict[str, npt.NDArray[Any]]:
        inputs = cases.tensors(INPUTS, index)
        return model.run(dict(zip(model.interface.inputs, map(np.asarray, inputs), strict=True)))

    speed = {}
    if work != "answer":
        stages.begin("run")
        answer(0)
        latency = statistics.median(_seconds(model, lambda: answer(0)) for _ in range(REPEATS))
        speed["latency_ms"] = 1000.0 * latency
    if work != "run":
        stages.begin("drift")
        for index in range(cases.count):
            write_tensors(output / ANSWERS, index, list(answer(index).values()))
    return {"speed": speed}


def _fill(model: TextGenerator | Encoder, sequence: Sequence[int], stages: _Stages) -> None:
    """One sentence; or a prompt in one piece, as an app would give it, and the rest token by token."""
    if isinstance(model, Encoder):
        stages.begin("encode")
        model.forward([sequence])
        return
    start = len(sequence) - min(FILL_TOKENS, len(sequence) - 1)
    stages.begin("prefill")
    model.prefill(sequence[:start])
    stages.begin("decode")
    for token in sequence[start:]:
        model.step(token)


def _time(model: TextGenerator | Encoder, sequences: Sequence[Sequence[int]], stages: _Stages) -> dict[str, float]:
    if isinstance(model, Encoder):
        stages.begin("encode")
        return {"latency_ms": _time_encoder(model, sequences)}
    return _time_generator(model, sequences, stages)


def _continue(generator: TextGenerator, prompts: Sequence[dict[str, Any]]) -> list[list[int]]:
    """The most likely tokens behind each prompt; of a slow runtime only the first ones."""
    written: list[list[int]] = []
    seconds = 0.0
    for prompt in prompts:
        if seconds >= SLOW_SECONDS:
            break
        started = generator.seconds()
        written.append(list(generator.generate_tokens(prompt["ids"], max_new_tokens=int(prompt["tokens"]))))
        seconds += generator.seconds() - started
    return written


def _answer(
    model: TextGenerator | Encoder, sequences: Sequence[Sequence[int]], answers: Path, format: Format
) -> dict[str, Any]:
    """What the model says to each sequence goes into `answers`; returns what it says of itself."""
    if isinstance(model, Encoder):
        return {"batch_cosine_min": _answer_sentences(model, sequences, answers)}
    for index, sequence in enumerate(sequences):
        _answer_sequence(model, sequence, answers / f"{index:04d}.npy")
    # Drift is measured in chunks there, as the logits of all positions are to be had.
    if format in CHUNKED:
        return {}
    return {"prefill_error": _prefill_error(model, sequences)}


def _time_generator(generator: TextGenerator, sequences: Sequence[Sequence[int]], stages: _Stages) -> dict[str, float]:
    interface = generator.interface
    count = max(1, min(PREFILL_TOKENS, interface.context_length // 2))
    pool = [token for sequence in sequences for token in sequence]
    prompt = [pool[index % len(pool)] for index in range(count)]
    stages.begin("prefill")
    prefill = _seconds(generator, lambda: generator.prefill(prompt))  # and a warm-up
    if prefill < SLOW_SECONDS:
        prefill = min(_seconds(generator, lambda: generator.prefill(prompt)) for _ in range(REPEATS))
    speed = {"first_token_seconds": prefill, "prefill_tokens_per_second": count / prefill}
    steps = min(DECODE_TOKENS, interface.context_length - count)
    if steps:
        stages.begin("decode")
        first = _seconds(generator, lambda: _decode(generator, prompt[-1], 1))
        more = min(steps - 1, int(SLOW_SECONDS / first))
        rest = _seconds(generator, lambda: _decode(generator, prompt[-1], more)) if more else 0.0
        speed["decode_tokens_per_second"] = more / rest if more else 1 / first
    return speed


def _prefill_error(generator: TextGenerator, sequences: Sequence[Sequence[int]]) -> float:
    """How far a prompt in two chunks lies from the same tokens one by one, which is how drift is measured where an
    artifact returns the last logits only. Relative error of the last logits."""
    prompt = max(sequences, key=len)[: max(2, min(PREFILL_TOKENS, generator.interface.context_length // 2))]
    one_by_one = generator.prefill(prompt, keep=0)[-1]
    half = len(prompt) // 2
    if half:
        generator.prefill(prompt[:half])
        together = generator.forward(prompt[half:])[-1]
    else:
        together = generator.prefill(prompt)[-1]
    norm = float(np.linalg.norm(one_by_one))
    return float(np.linalg.norm(together - one_by_one)) / norm if norm else 0.0


def _decode(generator: TextGenerator, token: int, steps: int) -> None:
    for _ in range(steps):
        token = int(generator.step(token).argmax())


def _time_encoder(encoder: Encoder, sequences: Sequence[Sequence[int]]) -> float:
    """Median milliseconds of the first sentence, after a warm-up."""
    encoder.forward(sequences[:1])
    return 1000.0 * statistics.median(_seconds(encoder, lambda: encoder.forward(sequences[:1])) for _ in range(REPEATS))


def _answer_sequence(generator: TextGenerator, sequence: Sequence[int], path: Path) -> None:
    """All logits of a sequence that is fed piece by piece through the cache, as an app would."""
    vocabulary = generator.interface.vocabulary
    size = max(1, min(CHUNK_TOKENS, CHUNK_BYTES // (4 * vocabulary)))
    generator.reset()
    with path.open("wb") as stream:
        _write_header(stream, (len(sequence), vocabulary))
        start, stop = 0, min(FIRST_CHUNK, size)
        while start < len(sequence):
            # Written as they come: kept in memory they would count against the artifact.
            stream.write(np.ascontiguousarray(generator.forward(sequence[start:stop], keep=0)).data)
            start, stop = stop, stop + size


def _write_header(stream: BinaryIO, shape: tuple[int, ...]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _answer_sentences(encoder: Encoder, sequences: Sequence[Sequence[int]], answers: Path) -> float:
    """One forward per sentence; then one padded batch, which must say the same. Returns the smallest cosine of both."""
    for index, sequence in enumerate(sequences):
        save_array(answers / f"{index:04d}.npy", encoder.forward([sequence])[0])
    batched = encoder.forward(sequences[: BATCH if encoder.interface.image is None else IMAGE_BATCH])
    smallest = 1.0
    for index, together in enumerate(batched):
        alone = np.load(answers / f"{index:04d}.npy").ravel()
        same = together.ravel()[: alone.size]
        norm = float(np.linalg.norm(alone)) * float(np.linalg.norm(same))
        smallest = min(smallest, float(alone @ same) / norm if norm else 0.0)
    return smallest


def _seconds(model: Model, work: Callable[[], object]) -> float:
    started = model.seconds()
    work()
    return model.seconds() - started


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
