"""The measuring that benchmarks rely on; the benchmarks themselves are run by hand, with `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from benchmarks import executorch_coreml
from benchmarks.measuring import Row, Usage, markdown_table, measure_process
from edgeq.core.target import Format
from edgeq.targets.profiles import load_profile

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


def test_cost_of_a_format_is_one_line_of_medians() -> None:
    usages = [Usage(wall_seconds=wall, cpu_seconds=2 * wall, peak_rss_bytes=700 * MIB) for wall in (3.0, 1.0, 2.0)]
    cost = executorch_coreml.Cost(format="coreml", usages=usages, file_bytes=5 * MIB, packed_bytes=4 * MIB)
    table = executorch_coreml.markdown_table([cost])
    assert table.splitlines()[2] == "| coreml | 2.0 s | 4.0 s | 700 MiB | 5.0 MiB | 4.0 MiB | 1.250 |"


def test_every_format_is_exported_for_a_target_that_takes_it() -> None:
    assert set(executorch_coreml.TARGETS) == set(get_args(Format)) - {"transformersjs"}
    for format, target in executorch_coreml.TARGETS.items():
        assert format in load_profile(target).formats
        command = executorch_coreml.export_command(Path("model"), Path("out"), format, ("--embedding-bits", "4"))
        assert command[1:4] == ["-m", "edgeq", "export"]
        assert command[-2:] == ["--embedding-bits", "4"]
        assert {"--no-validate", format, target} <= set(command)
