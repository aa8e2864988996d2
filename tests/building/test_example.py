"""The sample repository: what its settings say, and that its script writes the model that they name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgeq.building.configuration import read_configuration
from edgeq.building.matrix import cells_of
from edgeq.models.source import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "ci"


def test_two_models_for_four_targets_with_budgets() -> None:
    cells = {cell.name: cell for cell in cells_of(read_configuration(EXAMPLE / "edgeq.toml"))}
    assert len(cells) == 8
    assert cells["android-8gb-search"].recipe.bits == 8
    assert cells["ios-6gb-assistant"].recipe.bits == 4
    budgets = cells["android-4gb-search"].settings.budgets
    assert budgets.max_memory is not None
    assert budgets.max_memory.limit == 400 * 2**20
    assert None not in (budgets.max_size, budgets.max_drift, budgets.min_decode_tokens_per_second)


def test_the_script_writes_an_encoder(tmp_path: Path) -> None:
    directory = tmp_path / "search"
    command = [sys.executable, str(EXAMPLE / "make_model.py"), str(directory)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    info = load(directory).info
    assert (info.task, info.pooling, info.normalize) == ("feature-extraction", "mean", True)
