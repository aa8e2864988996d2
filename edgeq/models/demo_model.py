"""The embedded demo model, trained by examples/train_demo_model.py and installed with the package."""

from __future__ import annotations

from pathlib import Path

from edgeq.errors import SourceNotFoundError

DEMO_NAME = "edgeq-demo"


def demo_directory() -> Path:
    """The directory of the demo model. Raises SourceNotFoundError where the package was built without it."""
    directory = Path(__file__).parent / "demo"
    if not (directory / "config.json").is_file():
        raise SourceNotFoundError(
            "This installation of edgeq carries no demo model.",
            remedy="Name a model, or install edgeq again from its wheel or a whole checkout.",
        )
    return directory
