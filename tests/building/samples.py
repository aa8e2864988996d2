"""A directory with settings and a model that takes no time to write, and bundles that take none to make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from edgeq.building.work import DONE, BundleTask, StoreTask, Task
from edgeq.errors import UnsupportedModelError
from edgeq.progress import Progress
from tests.bundle.samples import sealed_bundle

SETTINGS = """
targets = ["android", "rpi5-8gb"]

[models]
writer = "models/writer"
search = "models/search"
"""


def project(directory: Path, settings: str = SETTINGS) -> Path:
    """An `edgeq.toml` with two models beside it; its path."""
    for name in ("writer", "search"):
        model(directory / "models" / name)
    path = directory / "edgeq.toml"
    path.write_text(settings, encoding="utf-8")
    return path


def model(directory: Path) -> Path:
    """What a content address reads of a model: a configuration, weights and a tokenizer."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "name": directory.name}))
    (directory / "tokenizer.json").write_text("{}")
    save_file({"w": np.ones((2, 2), np.float32)}, directory / "model.safetensors")
    return directory


class Worker:
    """Stands in for `perform`: writes sample bundles, and keeps what it was asked for, in order.

    broken: the names of the tasks that fail. before: is called with each task first.
    """

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.broken: set[str] = set()
        self.before: Callable[[Task], None] = lambda _: None

    @property
    def names(self) -> list[str]:
        """The cells that were built since `forget`."""
        return [task.name for task in self.tasks if isinstance(task, BundleTask)]

    @property
    def stores(self) -> list[StoreTask]:
        return [task for task in self.tasks if isinstance(task, StoreTask)]

    def forget(self) -> None:
        self.tasks.clear()

    def __call__(self, task: Task, progress: Progress) -> None:
        self.before(task)
        self.tasks.append(task)
        progress.stage("working")
        if task.name in self.broken:
            raise UnsupportedModelError(f"{task.name} is too strange.", remedy="Take another.")
        if isinstance(task, StoreTask):
            task.directory.mkdir(parents=True, exist_ok=True)
            (task.directory / DONE).write_text("{}")
            return
        task.work.mkdir(parents=True)
        sealed_bundle(task.work / "artifact", task.output, force=True)
        shutil.rmtree(task.work)
