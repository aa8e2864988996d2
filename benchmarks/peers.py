"""The commands that are compared: edgeq, and onnxruntime-genai's model builder in a virtual environment of its own."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
BUILDER = "onnxruntime-genai==0.18.0"
BUILDER_NEEDS = ("onnx", "onnx-ir", "onnxruntime", "torch", "transformers")


def prepare_model(cache: Path) -> Path:
    """The random model's directory, made by a child process at the first call."""
    directory = cache / "random-llama-135m"
    if not (directory / "tokenizer.json").is_file():
        subprocess.run([sys.executable, "-m", "benchmarks.random_llama", str(directory)], check=True, cwd=REPOSITORY)
    return directory


def prepare_builder(cache: Path) -> Path:
    """The Python that has the builder, with edgeq's own versions of everything that both use."""
    environment = cache / "builder-venv"
    python, done = environment / "bin" / "python", environment / "installed"
    if not done.is_file():
        venv.create(environment, with_pip=True, clear=True)
        constraints = REPOSITORY / "constraints.txt"
        install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), BUILDER, *BUILDER_NEEDS]
        subprocess.run(install, check=True)
        done.touch()
    return python


def edgeq_command(model: Path, output: Path, more: Sequence[str] = ()) -> list[str]:
    """`edgeq export` without validation, as the builder validates nothing; `more` are flags to add."""
    options = [
        "--target",
        "edge",
        "--bits",
        "4",
        "--method",
        "mse",
        "--no-validate",
        "--force",
        "--output",
        str(output),
    ]
    return [sys.executable, "-m", "edgeq", "export", str(model), *options, *more]


def builder_command(python: Path, model: Path, output: Path) -> list[str]:
    """The builder with its defaults for 4 bits on a CPU."""
    module = [str(python), "-m", "onnxruntime_genai.models.builder"]
    return [*module, "-i", str(model), "-o", str(output), "-p", "int4", "-e", "cpu"]
