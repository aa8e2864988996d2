"""Export beside onnxruntime-genai's model builder: wall time, CPU time and peak RSS of whole processes.

python -m benchmarks.export_speed [--runs 5] [--cache .bench] [--options=FLAGS]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import peers
from benchmarks.measuring import Row, Usage, markdown_table, measure_process

GIB = 2**30


def measure(cache: Path, runs: int, options: Sequence[str]) -> list[Row]:
    """Alternate both commands, so that whatever else the machine does touches both; the first pair warms caches."""
    model, python = peers.prepare_model(cache), peers.prepare_builder(cache)
    ours: list[Usage] = []
    theirs: list[Usage] = []
    for _ in range(runs + 1):
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            edgeq = peers.edgeq_command(model, Path(scratch) / "edgeq", options)
            builder = peers.builder_command(python, model, Path(scratch) / "builder")
            ours.append(measure_process(edgeq, cwd=peers.REPOSITORY))
            theirs.append(measure_process(builder, cwd=Path(scratch)))
    ours, theirs = ours[1:], theirs[1:]
    return [
        Row(
            name="wall time",
            unit="s",
            edgeq=[usage.wall_seconds for usage in ours],
            peer=[usage.wall_seconds for usage in theirs],
        ),
        Row(
            name="CPU time",
            unit="s",
            edgeq=[usage.cpu_seconds for usage in ours],
            peer=[usage.cpu_seconds for usage in theirs],
        ),
        Row(
            name="peak RSS",
            unit="GiB",
            edgeq=[usage.peak_rss_bytes / GIB for usage in ours],
            peer=[usage.peak_rss_bytes / GIB for usage in theirs],
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path(".bench"), help="model and builder environment, kept")
    parser.add_argument("--options", default="", help="flags to add to edgeq's, such as '--embedding-bits 4'")
    arguments = parser.parse_args()
    cache = arguments.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    print(
        f"Export of a random Llama (135 M) to 4 bits, median of {arguments.runs} alternating runs; below 1 is better.\n"
    )
    print(markdown_table(measure(cache, arguments.runs, arguments.options.split()), peer="model builder"))
    free = shutil.disk_usage(cache).free / GIB
    print(f"\n{cache.name}/ keeps the model and the builder's environment ({free:.0f} GiB free).")


if __name__ == "__main__":
    main()
