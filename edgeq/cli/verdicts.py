"""Verdicts as exit codes."""

from __future__ import annotations

from collections.abc import Iterable

from edgeq.core.report import Verdict
from edgeq.errors import EXIT_DONE, EXIT_GATE_FAILED, EXIT_RUNTIME_UNAVAILABLE


def exit_code(verdicts: Iterable[Verdict], *, require: bool) -> int:
    """Of the worst verdict. require: where there is none, that is a failure too."""
    found = set(verdicts)
    if Verdict.FAILED in found:
        return EXIT_GATE_FAILED
    return EXIT_RUNTIME_UNAVAILABLE if require and Verdict.NOT_VALIDATED in found else EXIT_DONE
