"""What a checkpoint's modules.json says about pooling and normalisation; no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from edgeq.core.model import Pooling
from edgeq.errors import CorruptInputError, UnsupportedModelError
from edgeq.models.checkpoint import inside, read_json

MODULES_FILE = "modules.json"
# sentence-transformers before 5.4 wrote one switch per mode: pooling_mode_mean_tokens; since then pooling_mode: "mean".
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def read_pooling(directory: Path) -> tuple[Pooling, bool]:
    """`(pooling, normalize)` as modules.json says; ("none", False) without it.

    Raises UnsupportedModelError for steps that are neither a transformer, a pooling nor a normalisation.
    """
    if not (directory / MODULES_FILE).exists():
        return "none", False
    pooling: Pooling = "none"
    normalize = False
    for step in _read_steps(directory):
        kind, path = str(step["type"]).rsplit(".", 1)[-1], str(step["path"])
        if kind == "Transformer":
            if path not in ("", "."):
                raise UnsupportedModelError(
                    f"{MODULES_FILE} keeps the transformer in {path!r}.",
                    remedy=f"Move the files of {path!r} beside {MODULES_FILE} and set its path to the empty string.",
                )
        elif kind == "Pooling":
            pooling = _read_mode(read_json(inside(directory, f"{path}/config.json")))
        elif kind == "Normalize":
            normalize = True
        else:
            raise UnsupportedModelError(
                f"{MODULES_FILE} has a step of type {kind}.",
                remedy="Use a model of Transformer, Pooling and Normalize alone.",
            )
    return pooling, normalize


def pooling_files(directory: Path) -> tuple[str, ...]:
    """modules.json and the config.json of its pooling steps, relative to the directory."""
    if not (directory / MODULES_FILE).exists():
        return ()
    paths = [str(step["path"]) for step in _read_steps(directory) if str(step["type"]).endswith(".Pooling")]
    return (MODULES_FILE, *(f"{path}/config.json" for path in paths))


def _read_steps(directory: Path) -> list[dict[str, Any]]:
    try:
        steps = json.loads(inside(directory, MODULES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptInputError(f"{MODULES_FILE} cannot be read ({error}).", remedy="Download it again.") from error
    whole = isinstance(steps, list) and all(isinstance(step, dict) and {"type", "path"} <= set(step) for step in steps)
    if not whole:
        raise CorruptInputError(f"{MODULES_FILE} is not a list of modules.", remedy="Download it again.")
    return list(steps)


def _read_mode(configuration: dict[str, Any]) -> Pooling:
    named = configuration.get("pooling_mode")
    if named is None:
        modes = [mode for switch, mode in SWITCHES.items() if configuration.get(switch)]
    else:
        modes = [named] if isinstance(named, str) else list(named)
    for mode in get_args(Pooling):
        if modes == [mode] and mode != "none":
            return mode  # type: ignore[no-any-return]
    raise UnsupportedModelError(
        f"The pooling of this model is {' + '.join(map(str, modes)) or 'not named'}.",
        remedy="Use a model that pools by mean, cls, max or lasttoken.",
    )
