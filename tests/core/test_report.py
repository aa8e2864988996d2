"""Reports that cannot be: a memory section whose parts do not fit together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeq.core.report import MemorySection
from edgeq.errors import CorruptInputError

MEMORY = MemorySection(
    peak_dirty_bytes=48,
    process_dirty_bytes=290,
    baseline_dirty_bytes=274,
    peak_rss_bytes=400,
    limit_bytes=100,
    backend="sampler",
    survived=True,
)


@pytest.mark.parametrize(
    "change",
    [
        {"baseline_dirty_bytes": -1},
        {"baseline_dirty_bytes": 291},
        {"peak_dirty_bytes": 291},
        {"peak_dirty_bytes": 15},  # less than the artifact added
    ],
)
def test_a_memory_section_that_does_not_add_up_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(CorruptInputError, match="does not follow"):
        replace(MEMORY, **change)  # type: ignore[arg-type]
