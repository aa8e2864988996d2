"""The float model and the dequantized model in torch, one after the other, in a process of their own.

Run as `python -m edgeq.models.reference REQUEST.json`, so that their memory goes back to the system.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.core.details import Continuation, ReferenceDetails
from edgeq.core.images import pictures
from edgeq.core.model import Task
from edgeq.core.records import to_plain
from edgeq.core.task import takes_pixels
from edgeq.errors import (
    EXIT_BAD_INPUT,
    EXIT_INTERNAL,
    EXIT_USAGE,
    CorruptInputError,
    EdgeqError,
    InternalError,
    UsageError,
)
from edgeq.files import output_errors, save_array

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from edgeq.store import QuantizedModel

FLOAT, DEQUANTIZED = "float", "dequantized"
PROMPTS, PROMPT_TOKENS, CONTINUED_TOKENS = 4, 20, 24
"""Sequences whose beginnings are continued, tokens of a beginning, and tokens written behind it."""
INPUTS_FILE, DETAILS_FILE = "inputs.json", "details.json"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin while they wait make a busy machine ten times slower


@dataclass(frozen=True, kw_only=True)
class ReferenceRequest:
    """What the child is to do; paths are absolute, `store` None asks for the float pass alone."""

    source: str
    store: str | None
    task: Task
    sequences: tuple[tuple[int, ...], ...]
    output: str


def run_reference(
    *, source: Path, store: Path | None, task: Task, sequences: Iterable[tuple[int, ...]], output: Path
) -> None:
    """Write `inputs.json`, `float/0000.npy` ... and, with a store, `dequantized/0000.npy` ... into `output`, and
    `details.json` as ReferenceDetails describes it.

    Each array is float32: logits `[tokens, vocabulary]`, the pooled and normalised embedding `[dimension]`
    (`[tokens, dimension]` without pooling), or a classifier's logits `[labels]`, `[tokens, labels]` for tokens. For
    models of images each of `sequences` is the number of one of edgeq's pictures. Raises what went wrong in the child,
    with its last line as the message.
    """
    request = ReferenceRequest(
        source=str(source.resolve()),
        store=None if store is None else str(store.resolve()),
        task=task,
        sequences=tuple(sequences),
        output=str(output.resolve()),
    )
    package = str(Path(__file__).parents[2])
    search_path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    with output_errors(output), _lifeline() as lifeline:
        output.mkdir(parents=True, exist_ok=True)
        path = output / "request.json"
        path.write_text(json.dumps(asdict(request)))
        child = subprocess.run(
            [sys.executable, "-m", "edgeq.models.reference", str(path)],
            env={**PATIENT, **os.environ, **OFFLINE, "PYTHONPATH": search_path},
            stdin=lifeline,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    if child.returncode != 0:
        raise _child_error(child.returncode, child.stderr)


@contextmanager
def _lifeline() -> Iterator[int]:
    """The end of a pipe that is closed when this process ends, however it ends: the child is to follow."""
    ours, held = os.pipe()
    try:
        yield ours
    finally:
        os.close(ours)
        os.close(held)


def _follow_parent() -> None:
    """End this process when its parent is gone: a killed export must not leave a whole float model computing."""

    def wait() -> None:
        os.read(0, 1)
        os._exit(EXIT_INTERNAL)

    threading.Thread(target=wait, daemon=True).start()


def _child_error(code: int, stderr: str) -> EdgeqError:
    lines = [line for line in stderr.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "it said nothing"
    if code < 0:
        return InternalError(
            f"The float reference was killed by signal {-code}.",
            remedy="If memory ran out, free some, or export with --no-validate.",
        )
    if code in (EXIT_USAGE, EXIT_BAD_INPUT) and "\t" in last:
        what, remedy = last.split("\t", 1)
        return (UsageError if code == EXIT_USAGE else CorruptInputError)(what, remedy=remedy)
    return InternalError(f"The float reference failed: {last}", remedy="Report this with the name of the model.")


def compute(request: ReferenceRequest) -> None:
    """Both passes in this process. One model is in memory: the dequantized weights replace the float ones in place."""
    import torch

    from edgeq.models.architecture import load_module
    from edgeq.models.layers import LayerStates
    from edgeq.models.source import is_multi_label

    source, output = Path(request.source), Path(request.output)
    model, missing = load_module(source, request.task, dtype="float32")
    if missing:
        raise CorruptInputError(f"{source} lacks {missing[0]}.", remedy="Copy or download the model again.")
    inputs: dict[str, object] = {"task": request.task, "sequences": request.sequences}
    if is_multi_label(model.config, request.task):
        inputs["multi_label"] = True
    with output_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        (output / INPUTS_FILE).write_text(json.dumps(inputs))
    with tempfile.TemporaryDirectory(dir=output) as scratch, torch.inference_mode():
        states = LayerStates(Path(scratch))
        with states.recording(model):
            _forward_all(model, request, output / FLOAT)
        continuations = _continuations(model, request)
        if request.store is not None:
            from edgeq.store import QuantizedModel

            _replace_weights(model, QuantizedModel.open(Path(request.store)))
            with states.comparing(model):
                _forward_all(model, request, output / DEQUANTIZED)
    details = ReferenceDetails(layers=states.divergences(), continuations=continuations)
    with output_errors(output):
        (output / DETAILS_FILE).write_text(json.dumps(to_plain(details), allow_nan=False))


def _continuations(model: PreTrainedModel, request: ReferenceRequest) -> tuple[Continuation, ...]:
    """What a language model writes behind the beginnings of the first sequences, cut to one length to share a batch."""
    import torch

    from edgeq.models.architecture import context_length
    from edgeq.models.self_text import continued

    if request.task != "text-generation":
        return ()
    first = request.sequences[:PROMPTS]
    size = min(PROMPT_TOKENS, *map(len, first))
    room = context_length(model.config)
    length = size + CONTINUED_TOKENS if room is None else min(size + CONTINUED_TOKENS, room)
    rows = torch.tensor([sequence[:size] for sequence in first], dtype=torch.int64)
    written = continued(model, rows, length, lambda logits: logits.argmax(-1, keepdim=True)).tolist()
    return tuple(Continuation(prompt=tuple(row[:size]), tokens=tuple(row[size:])) for row in written)


def _replace_weights(model: torch.nn.Module, store: QuantizedModel) -> None:
    """Overwrite every weight by the store's value. Raises CorruptInputError where names or shapes disagree."""
    import torch

    targets: dict[str, torch.Tensor] = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    names = set(store.names())
    uncovered = sorted(name for name, _ in model.named_parameters() if name not in names)
    unknown = sorted(names - set(targets))
    if uncovered or unknown:
        raise CorruptInputError(
            f"The store and the model disagree about {(uncovered + unknown)[0]}.", remedy="Quantize the model again."
        )
    for name in sorted(names):
        values = store.dequantized(name) if store.is_quantized(name) else store.floating(name)
        if tuple(values.shape) != tuple(targets[name].shape):
            raise CorruptInputError(f"{name} has the wrong shape in the store.", remedy="Quantize the model again.")
        targets[name].copy_(torch.from_numpy(np.array(values)))


def _forward_all(model: torch.nn.Module, request: ReferenceRequest, directory: Path) -> None:
    """One forward per sequence, with a mask of ones; `directory/0000.npy` and so on."""
    import torch

    from edgeq.models.architecture import read_config
    from edgeq.models.preprocessing import read_image_input
    from edgeq.models.sentence_modules import read_pooling
    from edgeq.models.task_modules import task_module

    with output_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    source, task = Path(request.source), request.task
    pooling = read_pooling(source) if task == "feature-extraction" else ("none", False)
    image = read_image_input(source, read_config(source))[0] if takes_pixels(task) else None
    whole = task_module(task, model, *pooling)
    for index, sequence in enumerate(request.sequences):
        input_ids = torch.tensor([sequence], dtype=torch.int64)
        mask = torch.ones_like(input_ids)
        if image is not None and whole is not None:
            result = whole(torch.from_numpy(pictures(list(sequence), image)))[0]
        elif whole is None:
            result = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits[0]
        else:
            result = whole(input_ids, mask)[0]
        save_array(directory / f"{index:04d}.npy", result.numpy())


def main() -> int:
    """The child: exit code 0, or the error's own code with `what <tab> remedy` as the last line on stderr."""
    _follow_parent()
    data = json.loads(Path(sys.argv[1]).read_text())
    data["sequences"] = tuple(tuple(sequence) for sequence in data["sequences"])
    try:
        compute(ReferenceRequest(**data))
    except EdgeqError as error:
        what = " ".join(error.what.split())
        sys.stderr.write(f"\n{what}\t{error.remedy}\n")
        return error.exit_code
    except MemoryError:
        sys.stderr.write("\nit ran out of memory\n")
        return EXIT_INTERNAL
    return 0


if __name__ == "__main__":
    sys.exit(main())
