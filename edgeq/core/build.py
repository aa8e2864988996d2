"""Build: what came of every cell of a matrix of models and targets. Field names are those of `build.json`."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.core.report import Gate, Report, Verdict

BUILD_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One model for one target in one format.

    key: hex sha256 of what the bundle was made from; "" where that could not be read. bundle: its directory, relative
    to `build.json`, None where there is none. report: the bundle's, judged by the budgets; its gates are what CI shows.
    warnings: budgets that only warn and were passed over, as failed gates. error: what kept the bundle from being
    built; the verdict is then `failed` and there is no report.
    """

    name: str
    model: str
    target: str
    format: str
    key: str
    verdict: Verdict
    reason: str
    reused: bool
    bundle: str | None
    warnings: tuple[Gate, ...] = ()
    error: str = ""
    report: Report | None

    def gates(self) -> tuple[Gate, ...]:
        """The report's gates; where none of them has its verdict, also one that stands for it. Empty for an error."""
        if self.report is None:
            return ()
        gates = self.report.gates
        if any(gate.verdict is self.verdict for gate in gates):
            return gates
        return (*gates, Gate(name="verdict", value=None, limit=None, verdict=self.verdict, reason=self.reason))


@dataclass(frozen=True, kw_only=True)
class Build:
    """All cells that were asked for, in the order of the settings: targets first, models within them."""

    schema: int = BUILD_SCHEMA
    edgeq_version: str
    settings: str
    verdict: Verdict
    cells: tuple[CellResult, ...]


def verdict_of_cells(cells: tuple[CellResult, ...]) -> Verdict:
    """The worst: one failed cell fails the build."""
    verdicts = {cell.verdict for cell in cells}
    for verdict in (Verdict.FAILED, Verdict.NOT_VALIDATED):
        if verdict in verdicts:
            return verdict
    return Verdict.PASSED
