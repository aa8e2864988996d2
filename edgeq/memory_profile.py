"""How much memory a bundle needs: the smallest limit that it runs in, and what its context may grow to."""

from __future__ import annotations

from pathlib import Path

from edgeq.bundle.manifest import Manifest, read_manifest
from edgeq.bundle.memory import bytes_per_token
from edgeq.core.memory_profile import ContextMemory, MemoryProfile
from edgeq.errors import BadInputError, RuntimeUnavailableError, UsageError
from edgeq.progress import Progress
from edgeq.validation.memory_profile import MemoryMeasurement


def profile_memory(
    bundle: Path,
    *,
    bisect: bool,
    context: bool,
    memory_limit: int | None = None,
    backend: str | None = None,
    progress: Progress | None = None,
) -> MemoryProfile:
    """Measure a bundle's memory, each figure by runs of its own.

    bisect: find the smallest limit. context: measure lengths of the context under `memory_limit` bytes, by default the
    target's. backend: a memory limit by name, by default the best one of this machine. What cannot be measured is None,
    with the reason. Raises UsageError where there is no bundle, a limit of nothing, or no context.
    """
    if memory_limit is not None and memory_limit <= 0:
        raise UsageError("The memory limit must be above 0.", remedy="Give a size such as 512MB.")
    manifest = read_manifest(bundle)
    if context and manifest.interface.image is not None:
        raise UsageError("A model of images has no context.", remedy="Ask for --bisect alone.")
    minimum, lengths = None, None
    try:
        measurement = MemoryMeasurement.of_bundle(bundle, backend=backend, progress=progress)
        if bisect:
            minimum = measurement.minimum()
        if context:
            lengths = _by_context(measurement, manifest, memory_limit)
    except (BadInputError, RuntimeUnavailableError) as error:
        return MemoryProfile(minimum=minimum, reason=str(error))
    return MemoryProfile(minimum=minimum, context=lengths)


def _by_context(measurement: MemoryMeasurement, manifest: Manifest, memory_limit: int | None) -> ContextMemory:
    profile = manifest.profile
    return measurement.by_context(
        target=manifest.target,
        limit_bytes=profile.memory_budget_bytes if memory_limit is None else memory_limit,
        planned_length=profile.context_length,
        cache_bytes_per_token=bytes_per_token(manifest.interface.cache, manifest.format),
    )
