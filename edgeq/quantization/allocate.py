"""Allocate: which scheme and method for which tensor of this model on this target."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase

from edgeq.core.model import ModelInfo, WeightInfo
from edgeq.core.recipe import Assignment, Plan, Recipe, Rule
from edgeq.core.scheme import FLOAT_BITS, Scheme
from edgeq.core.target import TargetProfile
from edgeq.errors import UsageError
from edgeq.quantization.methods import NO_METHOD, resolve_method
from edgeq.quantization.stage import FloatModel

GROUP_SIZES = {4: 64, 8: 64}
"""By bits. A float32 graph stores float32 scales: halving a group costs up to a bit per weight. With 4 bits, groups of
32, 64 and 128 take 5.1, 4.6 and 4.3 bits and leave a mean cosine of .977, .971 and .964 on all-MiniLM-L6-v2; 64 decodes
a tenth faster than 32. With 8 bits all three are nearly exact, but the kernels round activations by the same groups: 64
keeps .9995 in total, 128 only .9991, too near the gate of .999."""
SMALLEST_GROUP = 32
SMALL_MODEL = 1_000_000_000
"""Below this many parameters, embeddings and head are a large share of the error but a small one of the bytes."""
SMALLEST_MATRIX = 1024
"""Matrices with fewer weights stay float32: they cost nothing, and tables of two rows matter."""


def allocate(model: FloatModel, recipe: Recipe, target: TargetProfile) -> Plan:
    """Resolve `recipe` for `model` and `target`, whose format must hold the schemes: ONNX holds all that there are.

    Linears get `recipe.bits`; embeddings and the head `recipe.embedding_bits`, by default 8 with fewer than a thousand
    million parameters and `recipe.bits` above. Zero points are the default: with 4 bits they cost 1/8 bit and take 14 %
    off the squared error, and the kernels are as fast with them. A tied head and embedding are one tensor and share one
    scheme. Raises UsageError for a rule that matches no matrix, UnknownNameError for an unknown method.
    """
    info = model.info
    _check_rules(recipe.rules, info)
    method = resolve_method(recipe.method)
    assignments = {}
    for name, weight in info.weights.items():
        rule = _rule_for(recipe.rules, _names(info, name))
        if not weight.is_matrix or (rule is None and _size(weight) < SMALLEST_MATRIX):
            continue
        scheme = rule.scheme if rule else _default_scheme(recipe, info, weight)
        chosen = resolve_method(rule.method) if rule else method
        assignments[name] = Assignment(scheme=scheme, method=NO_METHOD if scheme.is_float else chosen)
    return Plan(assignments=assignments)


def _default_scheme(recipe: Recipe, info: ModelInfo, weight: WeightInfo) -> Scheme:
    bits = recipe.bits if weight.role == "linear" else _embedding_bits(recipe, info)
    if bits == FLOAT_BITS:
        return Scheme(bits=FLOAT_BITS)
    group_size = recipe.group_size
    if group_size is None:
        group_size = _dividing_group(GROUP_SIZES.get(bits, SMALLEST_GROUP), weight.outputs_inputs[1])
    return Scheme(bits=bits, group_size=group_size, symmetric=bool(recipe.symmetric))


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
