"""How far each candidate's dequantized weights take the model's answers from the float ones.

python -m benchmarks.quality_evaluate INPUTS.json THREADS CANDIDATE ...; each directory gets a drift.json.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.quality_job import Inputs, read_inputs, write_json
from edgeq.models.architecture import load_module
from edgeq.models.pooling import SentenceEmbedding
from edgeq.models.sentence_modules import read_pooling
from edgeq.validation.drift import Values, embedding_drift, language_drift

if TYPE_CHECKING:
    import torch
    from torch import nn

DRIFT = "drift.json"


def replaced(module: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """Overwrite parameters by those of a safetensors file; returns the originals. Raises KeyError, ValueError."""
    from safetensors.torch import load_file

    parameters, originals = dict(module.named_parameters()), {}
    for name, values in load_file(path).items():
        target = parameters[name].data
        if target.shape != values.shape:
            msg = f"{name} has the shape {tuple(values.shape)}, not {tuple(target.shape)}"
            raise ValueError(msg)
        originals[name] = target.clone()
        target.copy_(values)
    return originals


def answers(module: nn.Module, inputs: Inputs, chosen: Sequence[tuple[int, ...]]) -> Iterator[Values]:
    """Logits `[tokens, vocabulary]` or an embedding `[dimension]` for each sequence, float32."""
    import torch

    encoder = SentenceEmbedding(module, *read_pooling(Path(inputs.model))) if _is_encoder(inputs) else None
    for sequence in chosen:
        ids = torch.tensor([sequence], dtype=torch.int64)
        mask = torch.ones_like(ids)
        if encoder is None:
            yield module(input_ids=ids, attention_mask=mask, use_cache=False).logits[0].numpy()
        else:
            yield encoder(ids, mask)[0].numpy()


def evaluate(module: nn.Module, inputs: Inputs, reference: Path, candidate: Path) -> None:
    """Write the candidate's drift.json; the module is left as it was."""
    originals = replaced(module, candidate / "weights.safetensors")
    found = answers(module, inputs, inputs.evaluation)
    known = (np.load(reference / f"{index:04d}.npy") for index in range(len(inputs.evaluation)))
    if _is_encoder(inputs):
        drift: Any = embedding_drift(np.stack(list(known)), np.stack(list(found)))
    else:
        drift = language_drift(zip(known, found, inputs.evaluation, strict=True))
    for name, values in originals.items():
        module.get_parameter(name).data.copy_(values)
    write_json(candidate / DRIFT, drift)


def _is_encoder(inputs: Inputs) -> bool:
    return inputs.task == "feature-extraction"


def main() -> None:
    import torch

    path, candidates = Path(sys.argv[1]), [Path(name) for name in sys.argv[3:]]
    torch.set_num_threads(int(sys.argv[2]))
    inputs = read_inputs(path)
    task: Any = inputs.task
    module, _ = load_module(Path(inputs.model), task, dtype="float32")
    with torch.inference_mode():
        for candidate in candidates:
            evaluate(module, inputs, path.parent / "reference" / "float", candidate)


if __name__ == "__main__":
    main()
