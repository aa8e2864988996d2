"""The verb `compare`: what changed from one bundle or build to the next."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from edgeq.cli import flags, show
from edgeq.core.comparison import GrowthLimit
from edgeq.core.report import Verdict
from edgeq.errors import EXIT_DONE, EXIT_GATE_FAILED, UsageError
from edgeq.values import parse_size

_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*")


def parse_size_growth(text: str) -> GrowthLimit:
    """`5%`, or a size such as `1MB`. Raises UsageError."""
    return _percent(text) or GrowthLimit(amount=float(parse_size(text)), is_percent=False)


def parse_growth(text: str) -> GrowthLimit:
    """`5%`, or a number in the figure's own unit. Raises UsageError."""
    match = _NUMBER.fullmatch(text)
    limit = _percent(text) or (None if match is None else GrowthLimit(amount=float(match[1]), is_percent=False))
    if limit is None:
        raise UsageError(f"{text!r} is no limit of growth.", remedy="Write 5% or a number such as 0.001.")
    return limit


def _percent(text: str) -> GrowthLimit | None:
    match = _PERCENT.fullmatch(text)
    return None if match is None else GrowthLimit(amount=float(match[1]), is_percent=True)


Old = Annotated[Path, Argument(help="A bundle, a report.json, or a directory of bundles.", show_default=False)]
New = Annotated[Path, Argument(help="What is compared with it.", show_default=False)]
SizeGrowth = Annotated[
    Any, Option(parser=parse_size_growth, help="How much larger the model files may be.", metavar="5%|SIZE")
]
MemoryGrowth = Annotated[
    Any, Option(parser=parse_size_growth, help="How much higher the peak of memory may be.", metavar="5%|SIZE")
]
DriftGrowth = Annotated[
    Any, Option(parser=parse_growth, help="How much the total drift may grow: KL, or 1 - cosine.", metavar="5%|X")
]
Slowdown = Annotated[
    Any, Option(parser=parse_growth, help="How much slower it may be, in percent or tokens per second.", metavar="5%|X")
]
MarkdownFile = Annotated[
    Path | None, Option("--markdown", help="Also write it as Markdown.", metavar="FILE.md", dir_okay=False)
]


def compare(
    *,
    old: Old,
    new: New,
    max_size_growth: SizeGrowth = None,
    max_memory_growth: MemoryGrowth = None,
    max_drift_growth: DriftGrowth = None,
    max_slowdown: Slowdown = None,
    markdown: MarkdownFile = None,
    json: flags.Json = False,
) -> int:
    """Say what changed from OLD to NEW; exit code 1 where a verdict got worse or a figure grew past its limit."""
    from edgeq import comparison as library
    from edgeq.files import write_bytes_atomic
    from edgeq.reports.comparison import comparison_markdown, comparison_text

    limits = library.GrowthLimits(
        max_size_growth=max_size_growth,
        max_memory_growth=max_memory_growth,
        max_drift_growth=max_drift_growth,
        max_slowdown=max_slowdown,
    )
    found = library.compare(old, new, limits)
    if markdown is not None:
        write_bytes_atomic(markdown, comparison_markdown(found).encode())
    if json:
        show.document(found)
    else:
        show.line(comparison_text(found))
    return EXIT_GATE_FAILED if found.verdict is Verdict.FAILED else EXIT_DONE
