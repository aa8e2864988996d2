"""Allocate: which scheme and method for which tensor of this model on this target."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from edgeq.core.model import ModelInfo, WeightInfo
from edgeq.core.recipe import Assignment, Effort, Plan, Recipe, Rule
from edgeq.core.scheme import FLOAT_BITS, ScaleDtype, Scheme
from edgeq.core.target import Format, TargetProfile
from edgeq.errors import UsageError
from edgeq.quantization.methods import (
    AUTO,
    CALIBRATED,
    CODEBOOKS,
    DEFAULT_METHOD,
    DISTILL,
    NO_METHOD,
    REFIT,
    function_for,
    plain_method,
    resolve_method,
)
from edgeq.quantization.stage import FloatModel
from edgeq.targets.formats import FORMATS, FormatGrid

PALETTE_ROWS = (16, 8, 4, 2, 1)
"""Outputs that share a palette, the first that divides them: the Neural Engine has one table per group of channels."""
MOST_TRAINED_BITS = 4
"""Of a weight whose codes distillation moves."""
SMALLEST_GROUP = 32
FILTER_BITS = 8
"""Of convolutions, with one scale per filter: ONNX Runtime unpacks them, so fewer bits would make a download smaller,
and nothing else."""
SMALL_MODEL = 1_000_000_000
"""Below this many parameters, embeddings and head are a large share of the error but a small one of the bytes."""
SMALLEST_MATRIX = 1024
"""Matrices with fewer weights stay float32: they cost nothing, and tables of two rows matter."""


def allocate(
    model: FloatModel,
    recipe: Recipe,
    target: TargetProfile,
    formats: tuple[Format, ...] | None = None,
    *,
    has_text: bool = False,
) -> Plan:
    """Resolve `recipe` for `model` and `target`, with schemes that each of `formats` (by default the target's first)
    can hold: ONNX holds all that there are, XNNPACK symmetric 4-bit groups and 8-bit channels, Core ML 16-bit scales.

    Linears get `recipe.bits`; convolutions 8 unless `recipe.bits` are 16; embeddings and the head
    `recipe.embedding_bits`, by default 8 with fewer than a thousand
    million parameters and `recipe.bits` above. Zero points are the default: with 4 bits they cost 1/8 bit and take 14 %
    off the squared error, and the kernels are as fast with them. A tied head and embedding are one tensor and share one
    scheme. The methods with codebooks are Core ML's; where the user has text (`has_text`), or with the effort "best",
    those of linears are refitted to what the blocks read. Raises UsageError for a rule without a matrix and for a
    method that does not go with the scheme or the formats, UnknownNameError for an unknown method.
    """
    return plan_for(model.info, recipe, target, formats, has_text=has_text)


def plan_for(
    info: ModelInfo,
    recipe: Recipe,
    target: TargetProfile,
    formats: tuple[Format, ...] | None = None,
    *,
    has_text: bool = False,
) -> Plan:
    """`allocate` for a model of which only names and shapes are known."""
    _check_rules(recipe.rules, info)
    method = resolve_method(recipe.method)
    grid = Grid(target=target, formats=target.formats[:1] if formats is None else formats)
    _check_codebook(recipe, method, grid)
    assignments = {}
    for name, weight in info.weights.items():
        rule = _rule_for(recipe.rules, _names(info, name))
        if not weight.is_matrix or (rule is None and _size(weight) < SMALLEST_MATRIX):
            continue
        scheme = rule.scheme if rule else _default_scheme(recipe, info, weight, grid)
        method = _method(scheme, rule.method if rule else recipe.method, recipe.effort, weight, has_text=has_text)
        assignments[name] = Assignment(scheme=scheme, method=method)
    return Plan(assignments=assignments, effort=recipe.effort)


SCALE_DTYPES: tuple[ScaleDtype, ...] = ("bfloat16", "float16", "float32")
"""The coarsest first: what it stores, those behind it hold too, in the range that scales have."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What the formats of one export leave to choose."""

    target: TargetProfile
    formats: tuple[Format, ...]

    @property
    def _held(self) -> list[FormatGrid]:
        return [FORMATS[format] for format in self.formats]

    @property
    def scale_dtype(self) -> ScaleDtype:
        return min((held.scale_dtype for held in self._held), key=SCALE_DTYPES.index)

    @property
    def signed_scales(self) -> bool:
        return all(held.signed_scales for held in self._held)

    @property
    def has_codebooks(self) -> bool:
        return all(held.has_codebooks for held in self._held)

    def group_size(self, bits: int, inputs: int) -> int | None:
        """The default for linears and a head. None is one scale per channel: the Neural Engine refuses groups."""
        sizes = [held.group_sizes.get(bits, SMALLEST_GROUP) for held in self._held]
        preferred = [size for size in sizes if size is not None]
        if len(preferred) < len(sizes) or self._is_neural_engine:
            return None
        return _dividing_group(min(preferred), inputs)

    def symmetric(self, bits: int) -> bool:
        """Whether zero points are not free: the Neural Engine wants none either."""
        bounds = (held.symmetric_from for held in self._held)
        return self._is_neural_engine or any(bound is not None and bits >= bound for bound in bounds)

    @property
    def _is_neural_engine(self) -> bool:
        return self.target.compute_unit == "neural_engine"


def _default_scheme(recipe: Recipe, info: ModelInfo, weight: WeightInfo, grid: Grid) -> Scheme:
    if weight.role == "convolution" and recipe.bits != FLOAT_BITS:
        return Scheme(bits=FILTER_BITS, group_size=None, symmetric=True, scale_dtype=grid.scale_dtype)
    bits = recipe.bits if weight.role in ("linear", "convolution") else _embedding_bits(recipe, info)
    if bits == FLOAT_BITS:
        return Scheme(bits=FLOAT_BITS)
    group_size = grid.group_size(bits, weight.outputs_inputs[1]) if recipe.group_size is None else recipe.group_size
    codebook = CODEBOOKS.get(resolve_method(recipe.method))
    if codebook == "palette":
        rows = next(rows for rows in PALETTE_ROWS if weight.outputs_inputs[0] % rows == 0)
        return Scheme(
            bits=bits,
            group_size=None,
            symmetric=True,
            scale_dtype=grid.scale_dtype,
            codebook=codebook,
            palette_rows=rows,
        )
    if codebook == "nf4" and bits == 4:
        return Scheme(bits=4, group_size=group_size, symmetric=True, scale_dtype=grid.scale_dtype, codebook=codebook)
    return Scheme(
        bits=bits,
        group_size=group_size,
        symmetric=grid.symmetric(bits) if recipe.symmetric is None else recipe.symmetric,
        scale_dtype=grid.scale_dtype,
        signed_scales=grid.signed_scales,
    )


def _method(scheme: Scheme, asked: str, effort: Effort, weight: WeightInfo, *, has_text: bool) -> str:
    """The method of a tensor: the default where a codebook method leaves an integer grid, as NF4 does with 8 bits, and
    one without calibration where a calibrated one has nothing to read."""
    if scheme.is_float:
        return NO_METHOD
    method = resolve_method(asked)
    if scheme.codebook is None:
        method = DEFAULT_METHOD if method in CODEBOOKS else method
    elif asked == AUTO or method in CODEBOOKS:
        plain = plain_method(scheme) if asked == AUTO else method
        method = REFIT if effort == "best" or (has_text and asked != AUTO) else plain
    if method in CALIBRATED:
        method = _calibrated(method, scheme, weight)
    function_for(method, scheme)
    return method


def _calibrated(method: str, scheme: Scheme, weight: WeightInfo) -> str:
    """Training moves tables too, but not where 256 levels leave nothing to win; the others read a block's inputs."""
    if method == DISTILL and scheme.codebook is None and scheme.bits > MOST_TRAINED_BITS:
        method = REFIT
    return method if weight.is_block_linear or method == DISTILL else plain_method(scheme)


def _check_codebook(recipe: Recipe, method: str, grid: Grid) -> None:
    if method not in CODEBOOKS:
        return
    if not grid.has_codebooks:
        raise UsageError(
            f"The method {method!r} makes codebooks, which only Core ML holds.",
            remedy="Use --target ios --format coreml, or the method mse.",
        )
    if recipe.symmetric is False or (method == "kmeans" and recipe.group_size is not None):
        raise UsageError(
            f"The method {method!r} has no zero points, and palettes no groups.",
            remedy="Leave out --asymmetric and --group-size.",
        )


def _embedding_bits(recipe: Recipe, info: ModelInfo) -> int:
    if recipe.embedding_bits is not None:
        return recipe.embedding_bits
    return max(recipe.bits, 8) if info.parameters < SMALL_MODEL else recipe.bits


def _dividing_group(preferred: int, inputs: int) -> int:
    """The largest group up to `preferred` that divides `inputs`, as padding costs bytes and time; never below 32."""
    while preferred > SMALLEST_GROUP and inputs % preferred:
        preferred //= 2
    return preferred


def _size(weight: WeightInfo) -> int:
    outputs, inputs = weight.outputs_inputs
    return outputs * inputs


def _names(info: ModelInfo, stored: str) -> list[str]:
    """The stored name and those of its tied copies: a rule may call the tensor by any of them."""
    return [stored, *(copy for copy, original in info.tied.items() if original == stored)]


def _rule_for(rules: tuple[Rule, ...], names: list[str]) -> Rule | None:
    matching = [rule for rule in rules if any(fnmatchcase(name, rule.tensors) for name in names)]
    return matching[-1] if matching else None


def _check_rules(rules: tuple[Rule, ...], info: ModelInfo) -> None:
    matrices = [name for stored, weight in info.weights.items() if weight.is_matrix for name in _names(info, stored)]
    for rule in rules:
        if not any(fnmatchcase(name, rule.tensors) for name in matrices):
            near = get_close_matches(rule.tensors, matrices, n=1, cutoff=0.3)
            hint = f"Did you mean {near[0]!r}?" if near else "`edgeq inspect` lists them."
            raise UsageError(f"The rule {rule.tensors!r} matches no weight matrix of {info.source}.", remedy=hint)
