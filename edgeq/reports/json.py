"""`report.json`: a Report as JSON and back, field by field as the dataclasses name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeq.core.records import from_plain, to_plain
from edgeq.core.report import REPORT_SCHEMA, Report
from edgeq.errors import CorruptInputError, UsageError

_LARGEST = 32 * 2**20


def report_to_dict(report: Report) -> dict[str, Any]:
    """Plain values, ready for `json.dumps`."""
    plain: dict[str, Any] = to_plain(report)
    return plain


def report_from_dict(data: object, where: str = "report.json") -> Report:
    """Raises CorruptInputError for another schema, and for unknown, missing or wrongly typed fields."""
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != REPORT_SCHEMA:
        raise CorruptInputError(
            f"{where} is of schema {schema}; this edgeq reads {REPORT_SCHEMA}.",
            remedy="Use the edgeq that wrote it, or export the bundle again.",
        )
    return from_plain(Report, data, where)


def report_to_json(report: Report) -> str:
    """The text of report.json; what `--json` prints."""
    return json.dumps(report_to_dict(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_report(path: Path) -> Report:
    """The report in a file. Raises UsageError where there is none, CorruptInputError where it is not one."""
    try:
        if path.stat().st_size > _LARGEST:
            raise CorruptInputError(f"{path} is too large for a report.", remedy="Export the bundle again.")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).", remedy="Name a report.json.") from error
    except (ValueError, RecursionError):
        raise CorruptInputError(f"{path} is not JSON.", remedy="Export the bundle again.") from None
    return report_from_dict(data, str(path))
