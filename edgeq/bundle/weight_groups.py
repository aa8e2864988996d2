"""Where a bundle's bytes are: its weights by what they are for, told by their names."""

from __future__ import annotations

import math
import re
from collections import Counter

from edgeq.bundle.manifest import Manifest
from edgeq.core.artifact import TABLE_SUFFIX, WeightLocation
from edgeq.core.details import WeightGroup
from edgeq.core.scheme import Scheme

REST = "rest"
GROUPS: dict[str, str] = {
    "head": r"lm_head|embed_out|(^|\.)(output|score|classifier)$",
    "embedding": r"embed|wte|wpe|tok_table",
    "attention output": r"(attn|attention)\.(c_proj|dense|output\.dense|out_lin|wo)|o_proj|out_proj|\.o$",
    "query, key, value": (
        r"[qkv]_proj|qkv|query|key|value|in_proj|\.(q|k|v)$|[qkv]_lin|(attn|attention)\.(c_attn|wqkv|w[qkv])"
    ),
    "gate and up": r"gate|up_proj|fc1|fc_in|c_fc|intermediate|dense_h_to_4h|\.wi(_\d)?$|\.w[13]$|lin1",
    "down": r"down_proj|fc2|fc_out|c_proj|dense_4h_to_h|output\.dense|\.wo$|\.w2$|lin2",
}
"""Names as transformers' models use them, the first that fits counts; what fits none is `other linear`."""
OTHER = "other linear"


def weight_groups(manifest: Manifest) -> tuple[WeightGroup, ...]:
    """The groups of one model of a bundle in the order of a model's data flow; `rest` is what its files hold beside.

    Of a bundle with several models (variants) the first one's. Empty where the manifest places no weight.
    """
    if not manifest.weights:
        return ()
    found: dict[str, list[WeightLocation]] = {}
    for name, location in manifest.weights.items():
        found.setdefault(group_of(name), []).append(location)
    order = ("embedding", "query, key, value", "attention output", "gate and up", "down", OTHER, "head")
    groups = [_group(name, found[name]) for name in order if name in found]
    rest = _model_bytes(manifest) - sum(group.bytes for group in groups)
    if rest > 0:
        groups.append(WeightGroup(name=REST, tensors=0, parameters=0, bytes=rest, schemes={}))
    return tuple(groups)


def group_of(weight: str) -> str:
    """What a weight is for, by its name."""
    name = weight.removesuffix(TABLE_SUFFIX).removesuffix(".weight").lower()
    return next((group for group, pattern in GROUPS.items() if re.search(pattern, name)), OTHER)


def _group(name: str, locations: list[WeightLocation]) -> WeightGroup:
    return WeightGroup(
        name=name,
        tensors=len(locations),
        parameters=sum(math.prod(location.shape) for location in locations),
        bytes=sum(_scheme(location, location.stored_bits).stored_bytes(*location.shape) for location in locations),
        schemes=dict(Counter(_scheme(location, location.bits).label() for location in locations).most_common()),
    )


def _scheme(location: WeightLocation, bits: int) -> Scheme:
    return Scheme(
        bits=bits,
        group_size=location.group_size,
        symmetric=location.symmetric,
        scale_dtype=location.scale_dtype,
        codebook=location.codebook_kind,
        palette_rows=location.palette_rows,
    )


def _model_bytes(manifest: Manifest) -> int:
    """Bytes of the files at the manifest's model: the file and its data beside it, or all below it."""
    model = manifest.model
    return sum(
        entry.bytes
        for entry in manifest.files
        if entry.path == model or entry.path.startswith((f"{model}_data", f"{model}.data", f"{model}/"))
    )
