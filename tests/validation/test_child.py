"""What the judged process writes behind prompts, with a generator whose answers and clock are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeq.core.artifact import Interface
from edgeq.runtimes.generation import Floats, TextGenerator
from edgeq.validation.child import SLOW_SECONDS, _continue

INTERFACE = Interface(
    task="text-generation",
    inputs=("input_ids",),
    outputs=("logits",),
    vocabulary=8,
    context_length=16,
    end_of_text_ids=(7,),
)


class Counting(TextGenerator):
    """The token after the last one; each pass takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(INTERFACE, None)
        self._now, self._step = 0.0, seconds

    def seconds(self) -> float:
        return self._now

    def _append(self, ids: Sequence[int], keep: int) -> Floats:
        self._now += self._step
        logits: Floats = np.eye(8, dtype=np.float32)[[(ids[-1] + 1) % 8]]
        return logits

    def _forget(self) -> None:
        pass


def test_each_prompt_is_continued_by_as_many_tokens_as_asked_or_to_the_end_of_the_text() -> None:
    prompts = [{"ids": [0, 1], "tokens": 3}, {"ids": [4], "tokens": 9}, {"ids": [2], "tokens": 0}]
    assert _continue(Counting(0.01), prompts) == [[2, 3, 4], [5, 6], []]


def test_a_slow_runtime_leaves_the_later_prompts_out() -> None:
    prompts = [{"ids": [0], "tokens": 2}] * 4
    assert _continue(Counting(SLOW_SECONDS / 3), prompts) == [[1, 2], [1, 2]]
