"""What each number of bits costs in true bytes, and which targets hold that: from names and shapes alone."""

from __future__ import annotations

import math

from edgeq.bundle.memory import RUNTIME_BYTES, bytes_per_token
from edgeq.core.frontier import BitsCost
from edgeq.core.model import ModelInfo
from edgeq.core.recipe import Plan, Recipe
from edgeq.core.target import Format, TargetProfile
from edgeq.models.structure import Cache
from edgeq.quantization.allocate import plan_for
from edgeq.targets.formats import FORMATS
from edgeq.targets.profiles import available_profiles, load_profile

BITS = (16, 8, 4, 3, 2)


def bits_costs(info: ModelInfo, cache: Cache, target: TargetProfile, format: Format) -> tuple[BitsCost, ...]:
    """One row per number of bits, with every default of the target for it, as `edgeq export` would choose."""
    profiles = [load_profile(name) for name in available_profiles()]
    return tuple(_cost(bits, info, cache, target, format, profiles=profiles) for bits in BITS)


def cache_bytes(info: ModelInfo, cache: Cache, target: TargetProfile, format: Format) -> int:
    """The key-value cache at the context that the target plans for, or the model's where that is shorter."""
    return bytes_per_token(cache, format) * context_of(info, target)


def context_of(info: ModelInfo, target: TargetProfile) -> int:
    """Tokens: the shorter of what the target plans for and what the model was made for."""
    return min(target.context_length, info.context_length or target.context_length)


def _cost(
    bits: int,
    info: ModelInfo,
    cache: Cache,
    target: TargetProfile,
    format: Format,
    *,
    profiles: list[TargetProfile],
) -> BitsCost:
    plan = plan_for(info, Recipe(bits=bits), target, (format,))
    stored = {name: _stored(info, name, plan) for name in info.weights}
    tables = [name for name, weight in info.weights.items() if weight.role in ("embedding", "head")]
    cached = cache_bytes(info, cache, target, format)
    held = file_bytes(info, plan, target, format)
    return BitsCost(
        bits=bits,
        nominal_bytes=info.parameters * bits // 8,
        weights_bytes=sum(stored.values()),
        scale_bytes=_scale_bytes(info, plan),
        embedding_bytes=sum(stored[name] for name in tables),
        file_bytes=held,
        cache_bytes=cached,
        needed_bytes=held + unpacked_bytes(info, plan) + cached + RUNTIME_BYTES,
        fits=tuple(profile.name for profile in profiles if _fits(bits, info, cache, profile)),
    )


def file_bytes(info: ModelInfo, plan: Plan, target: TargetProfile, format: Format) -> int:
    """All weights of a plan in a format's file, graph and alignment left out."""
    total = 0
    for name, weight in info.weights.items():
        scheme = plan.scheme(name)
        is_tied = name in info.tied.values()
        if scheme is None:
            total += 4 * math.prod(weight.shape)
        else:
            total += FORMATS[format].held_bytes(weight, scheme, target.accuracy_level, is_tied)
    return total


def unpacked_bytes(info: ModelInfo, plan: Plan) -> int:
    """What the runtime makes of convolutions when it loads them: float32."""
    convolutions = (info.weights[name] for name in plan.assignments if info.weights[name].role == "convolution")
    return sum(4 * math.prod(weight.shape) for weight in convolutions)


def _fits(bits: int, info: ModelInfo, cache: Cache, profile: TargetProfile) -> bool:
    """Whether the profile's first format, at its own context, stays within its limits of memory and bundle."""
    format = profile.formats[0]
    plan = plan_for(info, Recipe(bits=bits), profile, (format,))
    held = file_bytes(info, plan, profile, format)
    needed = held + unpacked_bytes(info, plan) + cache_bytes(info, cache, profile, format) + RUNTIME_BYTES
    limit = math.inf if profile.bundle_limit_mib is None else profile.bundle_limit_mib * 2**20
    return needed <= profile.memory_budget_bytes and held <= limit


def _stored(info: ModelInfo, name: str, plan: Plan) -> int:
    weight, scheme = info.weights[name], plan.scheme(name)
    return 4 * math.prod(weight.shape) if scheme is None else scheme.stored_bytes(*weight.outputs_inputs)


def _scale_bytes(info: ModelInfo, plan: Plan) -> int:
    """What quantized matrices take beside their codes."""
    total = 0
    for name, assignment in plan.assignments.items():
        if not assignment.scheme.is_float:
            outputs, inputs = info.weights[name].outputs_inputs
            codes = outputs * -(-inputs * assignment.scheme.bits // 8)
            total += assignment.scheme.stored_bytes(outputs, inputs) - codes
    return total
