"""What every format tells an app about the model itself: its vocabulary and special tokens."""

from __future__ import annotations

import json
from pathlib import Path

from edgeq.core.model import ModelInfo


def vocabulary(info: ModelInfo) -> int:
    """Rows of the largest embedding or head."""
    return max(
        (weight.outputs_inputs[0] for weight in info.weights.values() if weight.role in ("embedding", "head")),
        default=0,
    )


def special_tokens(directory: Path) -> tuple[tuple[int, ...], int | None]:
    """End-of-text ids and the begin-of-text id, from generation_config.json first, then config.json."""
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        if path.exists():
            config = json.loads(path.read_text(encoding="utf-8"))
            end = config.get("eos_token_id")
            if end is not None:
                ends = tuple(end) if isinstance(end, list) else (int(end),)
                return ends, config.get("bos_token_id")
    return (), None
