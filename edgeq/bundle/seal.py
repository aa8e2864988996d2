"""Seal: reports and README into the staged bundle, `edgeq.json` last, all of it flushed, then one rename into place."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from edgeq.bundle.manifest import MANIFEST, REPORT_FILES, ReportEntry, list_files, manifest_bytes
from edgeq.bundle.readme import readme
from edgeq.bundle.stage import StagedBundle, discard
from edgeq.core.report import Report
from edgeq.errors import InternalError
from edgeq.files import output_errors, publish_directory, sync_directory


def seal(staged: StagedBundle, report: Report, texts: Mapping[str, str]) -> Path:
    """Finish the bundle and return where it is. texts: `report` as `edgeq.reports` renders it, by REPORT_FILES.

    Files that validation put into the staged directory become part of the bundle. Raises OutputError; the staged
    directory is removed then, and a bundle that was there before stays.
    """
    try:
        if report.weights.digest != staged.manifest.weights_digest:
            raise InternalError("The report is about other weights than the bundle.", remedy="Report this.")
        verdict = report.verdict
        manifest = dataclasses.replace(staged.manifest, report=ReportEntry(verdict=verdict, files=()))
        # A format that ran elsewhere than in its runtime has no memory to show for it.
        in_its_runtime = manifest.format != "coreml" or report.memory is not None
        described = {"README.md": readme(manifest, in_its_runtime=in_its_runtime)}
        with output_errors(staged.final):
            for name, text in {**texts, **described}.items():
                (staged.directory / name).write_text(text, encoding="utf-8")
            files = list_files(staged.directory, staged.manifest.files)
            if any(entry.path == MANIFEST for entry in files):
                raise InternalError(f"{staged.directory} is sealed already.", remedy="Report this.")
            manifest = dataclasses.replace(
                manifest,
                files=tuple(entry for entry in files if entry.path not in REPORT_FILES),
                report=ReportEntry(
                    verdict=verdict, files=tuple(entry for entry in files if entry.path in REPORT_FILES)
                ),
            )
            (staged.directory / MANIFEST).write_bytes(manifest_bytes(manifest))
            _flush(staged.directory)
        publish_directory(staged.directory, staged.final, force=staged.force)
    finally:
        discard(staged)
    return staged.final


def _flush(directory: Path) -> None:
    """Force every file and folder to the disk, so that the rename never survives a power cut without them."""
    for parent, _, names in os.walk(directory, topdown=False):
        for name in names:
            with (Path(parent) / name).open("rb") as stream:
                os.fsync(stream.fileno())
        sync_directory(Path(parent))
