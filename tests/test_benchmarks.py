"""The measuring that benchmarks rely on; the benchmarks themselves are run by hand, with `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measuring import Row, markdown_table, measure_process

MIB = 2**20
REPOSITORY = Path(__file__).parents[1]


def test_measure_process_sees_the_memory_of_the_child() -> None:
    """From a small process, as the benchmarks are: a child starts with its parent's peak."""
    program = f"""
import sys
from pathlib import Path
from benchmarks.measuring import measure_process
held = "held = bytearray({64 * MIB}); held[::4096] = bytes(len(held[::4096]))"
idle, busy = (measure_process([sys.executable, "-c", code], cwd=Path()) for code in ("", held))
print(busy.peak_rss_bytes - idle.peak_rss_bytes)
assert busy.cpu_seconds > 0 and busy.wall_seconds > 0
"""
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert 48 * MIB < int(finished.stdout) < 90 * MIB


def test_measure_process_raises_with_the_output_of_a_failure(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        measure_process([sys.executable, "-c", "print('why'); raise SystemExit(3)"], cwd=tmp_path)
    assert caught.value.returncode == 3
    assert b"why" in caught.value.output


def test_markdown_table_shows_medians_and_ratios() -> None:
    table = markdown_table([Row(name="wall time", unit="s", edgeq=[1, 2, 9], peer=[2, 4, 3])], peer="builder")
    assert table.splitlines()[0] == "| | edgeq | builder | ratio | of pairs |"
    assert table.splitlines()[2] == "| wall time | 2.00 s | 3.00 s | 0.67 | 0.50 to 3.00 |"
