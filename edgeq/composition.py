"""From a recipe to a store: what the method "auto" comes to for the bits, the model and the time allowed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgeq.core.recipe import Recipe
from edgeq.core.target import Format, TargetProfile
from edgeq.core.task import takes_pixels
from edgeq.errors import UnsupportedModelError
from edgeq.models.blocks import BlockRunner
from edgeq.models.source import SourceModel
from edgeq.planning import calibration_for
from edgeq.progress import Progress
from edgeq.quantization import Selected, allocate, quantize, quantize_selected
from edgeq.quantization.distillation import LARGEST_TRAINED, TRAINABLE_TASKS
from edgeq.quantization.methods import AUTO, DISTILL, RECONSTRUCT, REFIT
from edgeq.store import QuantizedModel

CALIBRATED_BITS = 4
"""With more than these the divergence is below 1e-4 nats without calibration."""
TRAINED_BY_DEFAULT = 30_000_000
"""Parameters up to which training takes minutes."""
PROBE = ((1, 2, 3, 4),)


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A recipe without "auto" in it where calibration applies. `note` is what a report should say of the choice."""

    recipe: Recipe
    is_chosen: bool
    note: str | None = None


def compose(model: SourceModel, recipe: Recipe) -> Composition:
    """`recipe` with a method in place of "auto". Codebooks are refitted; recipes of 8 bits are left as they are."""
    rules = [rule for rule in recipe.rules if rule.method == AUTO]
    if recipe.method != AUTO and not rules:
        return Composition(recipe=recipe, is_chosen=False)
    bits = [recipe.bits, *([] if recipe.embedding_bits is None else [recipe.embedding_bits])]
    bits += [rule.scheme.bits for rule in rules]
    if min(bits) > CALIBRATED_BITS:
        return Composition(recipe=recipe, is_chosen=False)
    if takes_pixels(model.info.task):
        note = "quantized without calibration: the model takes images"
        return Composition(recipe=recipe, is_chosen=False, note=note)
    try:
        BlockRunner(model, PROBE)
    except UnsupportedModelError as error:
        return Composition(recipe=recipe, is_chosen=False, note=f"quantized without calibration: {error.what}")
    method = _method(model, recipe)
    return Composition(
        recipe=replace(
            recipe,
            method=method if recipe.method == AUTO else recipe.method,
            rules=tuple(
                replace(rule, method=method if rule.scheme.codebook is None else REFIT) if rule.method == AUTO else rule
                for rule in recipe.rules
            ),
        ),
        is_chosen=True,
    )


def _method(model: SourceModel, recipe: Recipe) -> str:
    largest = {"fast": 0, "default": TRAINED_BY_DEFAULT, "best": LARGEST_TRAINED}[recipe.effort]
    if model.info.parameters <= largest and model.info.task in TRAINABLE_TASKS:
        return DISTILL
    return RECONSTRUCT if recipe.effort == "best" else REFIT


def quantize_model(
    model: SourceModel,
    recipe: Recipe,
    target: TargetProfile,
    formats: tuple[Format, ...],
    directory: Path,
    *,
    calibration: Path | None,
    progress: Progress,
) -> tuple[QuantizedModel, tuple[str, ...]]:
    """Allocate and quantize into `directory`: the store, and what a report should say of how it came about.

    Raises EdgeqError as its steps do.
    """
    composed = compose(model, recipe)
    plan = allocate(model, composed.recipe, target, formats, has_text=calibration is not None)
    sequences = calibration_for(model, plan, calibration, progress)
    progress.stage("quantizing")
    if composed.is_chosen:
        selected = quantize_selected(model, plan, directory, calibration=sequences, progress=progress.advance)
    else:
        store = quantize(model, plan, directory, calibration=sequences, progress=progress.advance)
        selected = Selected(store=store)
    notes = tuple(note for note in (composed.note, selected.note) if note is not None)
    for note in notes:
        progress.note(note)
    return selected.store, notes
