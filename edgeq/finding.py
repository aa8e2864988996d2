"""Finding reports: of a bundle, a report.json, a build, or a directory of bundles, each by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeq.bundle.manifest import MANIFEST, Manifest, read_manifest
from edgeq.core.report import Report, Verdict
from edgeq.errors import UsageError
from edgeq.reports.build import read_build
from edgeq.reports.json import read_report

REPORT, BUILD = "report.json", "build.json"
_DEEPEST = 4
"""Folders below a directory in which bundles are looked for: model, target, format, and one to spare."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A report, and the manifest of its bundle where that is beside it. A cell that could not be built has no report,
    and says why in `error`."""

    report: Report | None
    manifest: Manifest | None = None
    error: str = ""

    @property
    def verdict(self) -> Verdict:
        return Verdict.FAILED if self.report is None else self.report.verdict


def find_reports(path: Path) -> dict[str, Found]:
    """The reports at `path`: "" where it is one, the cells of a build as its budgets judged them, or the bundles of a
    directory by their path in it.

    Raises UsageError where there is none, CorruptInputError where a report, a build or a manifest cannot be read.
    """
    if path.name == BUILD or (path / BUILD).is_file():
        return _of_build(path if path.name == BUILD else path / BUILD)
    if path.is_file():
        return {"": _of_report(path)}
    if (path / REPORT).is_file():
        return {"": _of_report(path / REPORT)}
    patterns = ["/".join(["*"] * depth) + f"/{MANIFEST}" for depth in range(1, _DEEPEST + 1)]
    found = sorted(manifest.parent for pattern in patterns for manifest in path.glob(pattern))
    if not found:
        raise UsageError(
            f"There is no report at {path}.", remedy="Name a bundle, a report.json, or a build's directory."
        )
    return {bundle.relative_to(path).as_posix(): _of_report(bundle / REPORT) for bundle in found}


def _of_report(path: Path) -> Found:
    report = read_report(path)
    return Found(report=report, manifest=_manifest(path.parent, report))


def _of_build(path: Path) -> dict[str, Found]:
    return {
        cell.name: Found(
            report=cell.report,
            manifest=_manifest(path.parent / cell.bundle, cell.report) if cell.report and cell.bundle else None,
            error=cell.error,
        )
        for cell in read_build(path).cells
    }


def _manifest(bundle: Path, report: Report) -> Manifest | None:
    """None where there is no bundle, or one with other weights than the report is about."""
    if not (bundle / MANIFEST).is_file():
        return None
    manifest = read_manifest(bundle)
    return manifest if manifest.weights_digest == report.weights.digest else None
