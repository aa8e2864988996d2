"""The examples, run as a user would run them, on small random models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.tiny_models import tiny_bert, tiny_llama

REPOSITORY = Path(__file__).parents[1]


def _run(*arguments: str | Path) -> str:
    command = [sys.executable, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_export_model_prints_the_gates(tmp_path: Path) -> None:
    shown = _run("examples/export_model.py", tiny_llama(tmp_path / "model"), tmp_path / "bundle")
    assert "LlamaForCausalLM: " in shown
    assert "(limit " in shown
    assert (tmp_path / "bundle" / "edgeq.json").is_file()


def test_embed_sentences_ranks_every_other_sentence(tmp_path: Path) -> None:
    model, bundle = tiny_bert(tmp_path / "model"), tmp_path / "bundle"
    _run("-m", "edgeq", "export", model, "--bits", "8", "--no-validate", "--output", bundle)
    similarities = [float(line.split()[0]) for line in _run("examples/embed_sentences.py", bundle).splitlines()]
    assert len(similarities) == 3
    assert similarities == sorted(similarities, reverse=True)
