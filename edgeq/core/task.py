"""What a task means: what a model takes, what it gives, and under which name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeq.core.model import Task


@dataclass(frozen=True, kw_only=True)
class TaskTraits:
    """takes: token ids, or `pixel_values`. gives: logits of the next token, vectors, or logits of classes. by_token:
    one answer per token instead of one per input. output: the artifact's first output."""

    takes: Literal["tokens", "pixels", "tensors"]
    gives: Literal["next tokens", "vectors", "classes", "tensors"]
    by_token: bool
    output: str

    @property
    def is_classifier(self) -> bool:
        return self.gives == "classes"


TASKS: dict[Task, TaskTraits] = {
    "text-generation": TaskTraits(takes="tokens", gives="next tokens", by_token=True, output="logits"),
    # without pooling the output is `last_hidden_state`, one vector per token
    "feature-extraction": TaskTraits(takes="tokens", gives="vectors", by_token=False, output="sentence_embedding"),
    "text-classification": TaskTraits(takes="tokens", gives="classes", by_token=False, output="logits"),
    "token-classification": TaskTraits(takes="tokens", gives="classes", by_token=True, output="logits"),
    "image-classification": TaskTraits(takes="pixels", gives="classes", by_token=False, output="logits"),
    "image-feature-extraction": TaskTraits(takes="pixels", gives="vectors", by_token=False, output="image_embedding"),
    # a plain torch module names its own outputs
    "module": TaskTraits(takes="tensors", gives="tensors", by_token=False, output=""),
}


def takes_pixels(task: Task) -> bool:
    return TASKS[task].takes == "pixels"
