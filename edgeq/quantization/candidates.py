"""What an allocation chooses from: weights that go together, and the schemes that the formats hold for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from edgeq.core.model import ModelInfo, WeightInfo
from edgeq.core.recipe import Recipe
from edgeq.core.scheme import FLOAT_BITS, Scheme
from edgeq.core.target import Format, TargetProfile
from edgeq.quantization.allocate import PALETTE_ROWS, SMALLEST_MATRIX, Grid
from edgeq.targets.formats import FORMATS

INTEGER_BITS = (2, 3, 4, 8)
PALETTE_BITS = (2, 3, 4, 6)
GROUPS = (32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One scheme for a unit. bytes: what the unit's weights take in the model's file, over all formats the most."""

    scheme: Scheme
    method: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Weights that get one scheme, since they read the same input, or a table of its own. tensors: stored names."""

    name: str
    tensors: tuple[str, ...]
    candidates: tuple[Candidate, ...]


def is_choosable(weight: WeightInfo) -> bool:
    """Whether an allocation decides about a weight; the default decides about small matrices."""
    outputs, inputs = weight.outputs_inputs if weight.is_matrix else (0, 0)
    return outputs * inputs >= SMALLEST_MATRIX


def unit(
    name: str,
    tensors: tuple[str, ...],
    info: ModelInfo,
    recipe: Recipe,
    *,
    target: TargetProfile,
    formats: tuple[Format, ...],
) -> Unit:
    """The unit with every candidate that the formats hold and that `recipe` leaves open: its group size, symmetry, bits
    of embeddings and codebook method bind the choice where they are given. Raises nothing; there is always float16."""
    weights = [info.weights[tensor] for tensor in tensors]
    grid = Grid(target=target, formats=formats)
    is_table = weights[0].role != "linear"
    is_tied = tensors[0] in info.tied.values()
    candidates = []
    for scheme, method in _schemes(weights, recipe, grid):
        if is_table and recipe.embedding_bits not in (None, scheme.bits):
            continue
        held = (
            sum(FORMATS[format].held_bytes(weight, scheme, target.accuracy_level, is_tied) for weight in weights)
            for format in formats
        )
        candidates.append(Candidate(scheme=scheme, method=method, bytes=max(held)))
    return Unit(name=name, tensors=tensors, candidates=tuple(c for c in candidates if not _is_wasteful(c, candidates)))


def _is_wasteful(candidate: Candidate, others: Sequence[Candidate]) -> bool:
    """Whether more bits on the same grid take as little: where 3-bit codes are stored in 4."""
    if candidate.scheme.codebook is not None:
        return False
    return any(
        other.bytes <= candidate.bytes and replace(other.scheme, bits=candidate.scheme.bits) == candidate.scheme
        for other in others
        if other.scheme.bits > candidate.scheme.bits and not other.scheme.is_float and other.scheme.codebook is None
    )


def _schemes(weights: Sequence[WeightInfo], recipe: Recipe, grid: Grid) -> Iterator[tuple[Scheme, str]]:
    """Schemes with their methods; float16 last."""
    if recipe.method != "kmeans":
        for bits in INTEGER_BITS:
            for group_size, symmetric in _grids(bits, weights[0].outputs_inputs[1], recipe, grid):
                yield (
                    Scheme(
                        bits=bits,
                        group_size=group_size,
                        symmetric=symmetric,
                        scale_dtype=grid.scale_dtype,
                        signed_scales=grid.signed_scales,
                    ),
                    recipe.method,
                )
    if grid.has_codebooks and recipe.method in ("auto", "kmeans") and recipe.group_size is None:
        rows = next(rows for rows in PALETTE_ROWS if all(w.outputs_inputs[0] % rows == 0 for w in weights))
        for bits in PALETTE_BITS:
            yield (
                Scheme(
                    bits=bits,
                    group_size=None,
                    symmetric=True,
                    scale_dtype=grid.scale_dtype,
                    codebook="palette",
                    palette_rows=rows,
                ),
                recipe.method,
            )
    yield Scheme(bits=FLOAT_BITS), recipe.method


def _grids(bits: int, inputs: int, recipe: Recipe, grid: Grid) -> Iterator[tuple[int | None, bool]]:
    """Group sizes and symmetries: all that divide the inputs, as padding costs bytes; the formats' own where they have
    no other."""
    default = grid.group_size(bits, inputs)
    groups: tuple[int | None, ...] = tuple(size for size in GROUPS if inputs % size == 0) or (GROUPS[0],)
    if default is None:
        groups = (None,)
    if recipe.group_size is not None:
        groups = (recipe.group_size,)
    symmetries = (True,) if grid.symmetric(bits) else (False, True)
    if recipe.symmetric is not None:
        symmetries = (recipe.symmetric,)
    return product(groups, symmetries)
