"""What an allocation could come to: the cost of each number of bits, and the best drift for each size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BitsCost:
    """All linears at one number of bits, with every default of the target.

    Bytes. nominal_bytes: parameters times bits, the number that is often quoted. weights_bytes: codes, scales, zero
    points, embeddings and what stays float. scale_bytes: scales and zero points alone. embedding_bytes: embeddings and
    head, scales included. file_bytes: the weights in the target's format, whose kernels may want wider codes.
    cache_bytes: the key-value cache at the full context. needed_bytes: file, cache and runtime. fits: targets whose
    memory and bundle limits hold that in their own first format and context.
    """

    bits: int
    nominal_bytes: int
    weights_bytes: int
    scale_bytes: int
    embedding_bytes: int
    file_bytes: int
    cache_bytes: int
    needed_bytes: int
    fits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """One allocation. bytes: the weights in the file. drift: predicted, see PlanReport. schemes: parameters by label.
    is_uniform: all linears alike, for comparison."""

    bytes: int
    bits_per_weight: float
    drift: float
    schemes: dict[str, int]
    is_uniform: bool = False


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """What a recipe was chosen from. points: the best for their size, by rising bytes; uniform: all linears alike.
    drift_unit and is_measured as in PlanReport."""

    points: tuple[FrontierPoint, ...]
    uniform: tuple[FrontierPoint, ...]
    chosen: FrontierPoint | None
    drift_unit: str
    is_measured: bool


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """The answer of `edgeq plan`. context_length: of the cache, the shorter of the target's and the model's.

    frontier and uniform are empty where there are no weights to measure on; chosen is None without a budget. Drift is
    in nats per token, or 1 - cosine for encoders; is_measured tells costs that were measured unit by unit from those
    that gradients predict. bundle_bytes: what the chosen recipe's bundle takes, as tried out; 0 without a budget.
    """

    source: str
    architecture: str
    parameters: int
    target: str
    format: str
    context_length: int
    costs: tuple[BitsCost, ...]
    frontier: tuple[FrontierPoint, ...] = ()
    uniform: tuple[FrontierPoint, ...] = ()
    chosen: FrontierPoint | None = None
    bundle_bytes: int = 0
    drift_unit: str = "nats per token"
    is_measured: bool = False
