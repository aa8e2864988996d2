"""What an export to each format costs: wall time, CPU time and peak RSS of whole processes, and the size of the result.

python -m benchmarks.executorch_coreml [--runs 1] [--cache .bench] [--model DIRECTORY] [--options=FLAGS] [FORMAT ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import peers
from benchmarks.measuring import Usage, measure_process

MIB = 2**20
TARGETS = {"onnx": "android", "executorch": "android", "coreml": "ios"}
"""The target that each format is exported for."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one format. `file_bytes` are the model's files in the bundle; `packed_bytes` what codes, scales, zero points
    and float weights take, so that a format which unpacks weights shows."""

    format: str
    usages: Sequence[Usage]
    file_bytes: int
    packed_bytes: int


def export_command(model: Path, output: Path, format: str, more: Sequence[str]) -> list[str]:
    """`edgeq export` of one format without validation; `more` are flags to add."""
    options = [
        "--target",
        TARGETS[format],
        "--format",
        format,
        "--bits",
        "4",
        "--method",
        "mse",
        "--no-validate",
        "--force",
    ]
    return [sys.executable, "-m", "edgeq", "export", str(model), *options, "--output", str(output), *more]


def measure(model: Path, format: str, runs: int, options: Sequence[str], scratch: Path) -> Cost:
    """Export `runs` times into `scratch`, each in a process of its own. Raises CalledProcessError."""
    output = scratch / format
    command = export_command(model, output, format, options)
    usages = [measure_process(command, cwd=peers.REPOSITORY) for _ in range(runs)]
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return Cost(
        format=format,
        usages=usages,
        file_bytes=report["artifact"]["bytes"],
        packed_bytes=report["weights"]["bytes"],
    )


def markdown_table(costs: Sequence[Cost]) -> str:
    """Medians, one format a line."""
    lines = [
        "| format | wall time | CPU time | peak RSS | files | packed | files / packed |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for cost in costs:
        wall = median(usage.wall_seconds for usage in cost.usages)
        cpu = median(usage.cpu_seconds for usage in cost.usages)
        peak = median(usage.peak_rss_bytes for usage in cost.usages)
        cells = [
            cost.format,
            f"{wall:,.1f} s",
            f"{cpu:,.1f} s",
            f"{peak / MIB:,.0f} MiB",
            f"{cost.file_bytes / MIB:,.1f} MiB",
            f"{cost.packed_bytes / MIB:,.1f} MiB",
            f"{cost.file_bytes / cost.packed_bytes:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(".bench"), help="the random model, kept")
    parser.add_argument("--model", type=Path, help="another model than the random one")
    parser.add_argument("--options", default="", help="flags to add to edgeq's, such as '--embedding-bits 4'")
    arguments = parser.parse_args()
    formats = arguments.formats or list(TARGETS)
    if unknown := sorted(set(formats) - set(TARGETS)):
        parser.error(f"unknown format {unknown[0]}")
    cache = arguments.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    model = arguments.model.resolve() if arguments.model else peers.prepare_model(cache)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        costs = [measure(model, format, arguments.runs, arguments.options.split(), Path(scratch)) for format in formats]
    print(f"Export of {model.name} to 4 bits, median of {arguments.runs} runs.\n")
    print(markdown_table(costs))


if __name__ == "__main__":
    main()
