"""What a path holds (a model, a store or a bundle), told without running it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeq.errors import BadInputError

if TYPE_CHECKING:
    from edgeq.core.model import ModelInfo
    from edgeq.core.recipe import Plan
    from edgeq.models.source import SourceModel
    from edgeq.store import QuantizedModel

SIZES_AT_BITS = (16, 8, 4)
SIZES_FOR = "android"


@dataclass(frozen=True, kw_only=True)
class RoleCount:
    tensors: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class ModelInspection:
    """`bytes_at_bits`: the weights at 16, 8 and 4 bits with every default of the android target, scales and all."""

    kind: Literal["model"] = "model"
    source: str
    revision: str
    task: str
    architecture: str
    parameters: int
    tensors: int
    roles: dict[str, RoleCount]
    tied: dict[str, str]
    context_length: int | None
    licence: str | None
    bytes_at_bits: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class StoreInspection:
    """`schemes`: how many tensors each scheme holds, by its label. `float_bytes` is the model at 16 bits."""

    kind: Literal["store"] = "store"
    source: str
    task: str
    architecture: str
    parameters: int
    schemes: dict[str, int]
    weights_digest: str
    bits_per_weight: float
    weights_bytes: int
    float_bytes: int


@dataclass(frozen=True, kw_only=True)
class BundleInspection:
    """`intact`: every file is there and has the sha256 that the manifest says; else `problem` names the first one."""

    kind: Literal["bundle"] = "bundle"
    name: str
    target: str
    format: str
    root: str
    task: str
    verdict: str
    weights_digest: str
    runtime: str
    accuracy_level: int
    files: int
    total_bytes: int
    intact: bool
    problem: str


Inspection = ModelInspection | StoreInspection | BundleInspection


def inspect(path: str | Path | None) -> Inspection:
    """Look at a model (directory, hub id, or None for the embedded demo), a store or a bundle.

    Raises what reading them raises: SourceNotFoundError, CorruptInputError, UnsafeInputError, UnsupportedModelError.
    """
    directory = None if path is None else Path(path)
    if directory is not None and (directory / "edgeq.json").is_file():
        return of_bundle(directory)
    if directory is not None and (directory / "store.json").is_file():
        from edgeq.store import QuantizedModel

        return of_store(QuantizedModel.open(directory))
    from edgeq.models import source

    return of_model(source.load(path))


def of_model(model: SourceModel) -> ModelInspection:
    """Names, shapes and roles of a model's weights, and what they would take at 16, 8 and 4 bits."""
    from edgeq.core.recipe import Recipe
    from edgeq.quantization.allocate import allocate
    from edgeq.targets.profiles import load_profile

    target = load_profile(SIZES_FOR)
    info = model.info
    plans = {bits: allocate(model, Recipe(bits=bits), target) for bits in SIZES_AT_BITS}
    return ModelInspection(
        source=info.source,
        revision=info.revision,
        task=info.task,
        architecture=info.architecture,
        parameters=info.parameters,
        tensors=len(info.weights),
        roles=_roles(info),
        tied=info.tied,
        context_length=info.context_length,
        licence=info.licence,
        bytes_at_bits={str(bits): planned_bytes(info, plan) for bits, plan in plans.items()},
    )


def of_store(store: QuantizedModel) -> StoreInspection:
    """What a quantized store holds."""
    info = store.info
    schemes = [store.plan.scheme(name) for name in store.names()]
    return StoreInspection(
        source=info.source,
        task=info.task,
        architecture=info.architecture,
        parameters=info.parameters,
        schemes=dict(Counter("float" if scheme is None else scheme.label() for scheme in schemes).most_common()),
        weights_digest=store.weights_digest,
        bits_per_weight=8 * store.weights_bytes / info.parameters,
        weights_bytes=store.weights_bytes,
        float_bytes=info.float_bytes,
    )


def of_bundle(directory: Path) -> BundleInspection:
    """What a bundle's manifest says, and whether its files agree. Raises CorruptInputError for a broken manifest."""
    from edgeq.bundle.manifest import read_manifest, verify

    manifest = read_manifest(directory)
    problem = ""
    try:
        verify(directory)
    except BadInputError as error:
        problem = error.what
    return BundleInspection(
        name=manifest.name,
        target=manifest.target,
        format=manifest.format,
        root=manifest.root,
        task=manifest.interface.task,
        verdict=manifest.report.verdict.value,
        weights_digest=manifest.weights_digest,
        runtime=f"{manifest.runtime.name} {manifest.runtime.version}",
        accuracy_level=manifest.runtime.accuracy_level,
        files=len(manifest.files) + len(manifest.report.files),
        total_bytes=sum(entry.bytes for entry in (*manifest.files, *manifest.report.files)),
        intact=not problem,
        problem=problem,
    )


def planned_bytes(info: ModelInfo, plan: Plan) -> int:
    """Bytes of all weights under a plan: codes, scales and zero points; float32 for what the plan does not name."""
    total = 0
    for name, weight in info.weights.items():
        scheme = plan.scheme(name)
        total += 4 * math.prod(weight.shape) if scheme is None else scheme.stored_bytes(*weight.outputs_inputs)
    return total


def _roles(info: ModelInfo) -> dict[str, RoleCount]:
    tensors: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    for weight in info.weights.values():
        tensors[weight.role] += 1
        parameters[weight.role] += math.prod(weight.shape)
    return {role: RoleCount(tensors=count, parameters=parameters[role]) for role, count in tensors.most_common()}
