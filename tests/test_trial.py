"""`edgeq run` with models whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import edgeq
from edgeq import cli
from edgeq.cli.trial import PROMPT, SENTENCES
from edgeq.core.images import ImageInput
from edgeq.runtimes.onnxruntime import Encoder, TextGenerator
from tests.bundle.samples import encoder_interface


class Parrot(TextGenerator):
    """Continues every text with the same words."""

    def __init__(self) -> None:
        pass

    def stream(
        self, prompt: str, *, max_new_tokens: int = 64, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
    ) -> Iterator[str]:
        yield from (" and", " so", " on")[:max_new_tokens]


class Lengths(Encoder):
    """Embeds a text as its length and one."""

    def __init__(self) -> None:
        self.interface = encoder_interface()

    def encode(self, texts: Sequence[str], *, batch_size: int = 32) -> npt.NDArray[np.float32]:
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)


def _open(monkeypatch: pytest.MonkeyPatch, model: TextGenerator | Encoder) -> None:
    def load(path: Path) -> TextGenerator | Encoder:
        return model

    monkeypatch.setattr(edgeq, "load", load, raising=False)


def test_a_language_model_continues_the_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _open(monkeypatch, Parrot())
    assert cli.run(["run", "bundle", "--prompt", "On", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out == "On and so\n"


def test_a_language_model_has_a_prompt_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _open(monkeypatch, Parrot())
    assert cli.run(["run", "bundle"]) == 0
    assert capsys.readouterr().out == f"{PROMPT} and so on\n"


def test_a_language_model_takes_one_prompt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _open(monkeypatch, Parrot())
    assert cli.run(["run", "bundle", "--prompt", "a", "--prompt", "b"]) == 2
    assert "Give --prompt once." in capsys.readouterr().err


def test_an_encoder_compares_sentences(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _open(monkeypatch, Lengths())
    assert cli.run(["run", "bundle", "--prompt", "a", "--prompt", "bbbbbbb"]) == 0
    assert capsys.readouterr().out == " 1  1.000  0.800  a\n 2  0.800  1.000  bbbbbbb\n"


def test_an_encoder_compares_one_sentence_with_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _open(monkeypatch, Lengths())
    assert cli.run(["run", "bundle", "--prompt", "a"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(SENTENCES)


class Classes(Lengths):
    """Gives short texts to the first class, and long ones to the second."""

    def __init__(self, labels: tuple[str, ...], *, image: ImageInput | None = None) -> None:
        self.interface = replace(encoder_interface(), task="text-classification", labels=labels, image=image)

    def encode(self, texts: Sequence[str], *, batch_size: int = 32) -> npt.NDArray[np.float32]:
        logits = np.array([[0.0, len(text) - 3] for text in texts], dtype=np.float32)
        return logits[:, -len(self.interface.labels) :]


def test_a_classifier_names_the_best_class(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _open(monkeypatch, Classes(("short", "long")))
    assert cli.run(["run", "bundle", "--prompt", "a", "--prompt", "bbbbb"]) == 0
    assert capsys.readouterr().out == " 88.1%  short  a\n 88.1%  long  bbbbb\n"


def test_a_single_logit_is_the_chance_of_its_class(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _open(monkeypatch, Classes(("long",)))
    assert cli.run(["run", "bundle", "--prompt", "a", "--prompt", "bbbbb"]) == 0
    assert capsys.readouterr().out == " 11.9%  long  a\n 88.1%  long  bbbbb\n"


def test_images_are_not_texts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    image = ImageInput(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
    _open(monkeypatch, Classes(("cat",), image=image))
    assert cli.run(["run", "bundle", "--prompt", "a"]) == 2
    assert "takes images" in capsys.readouterr().err
