"""What the driver asks of ExecuTorch, with a program that counts."""

from __future__ import annotations

import builtins
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgeq.core.artifact import Interface
from edgeq.errors import CorruptInputError, RuntimeUnavailableError, UsageError
from edgeq.runtimes import executorch as driver
from edgeq.runtimes.executorch import Encoder, TextGenerator

LONGEST = 4
INTERFACE = Interface(
    task="text-generation",
    inputs=("tokens", "input_pos"),
    outputs=("logits",),
    vocabulary=10,
    context_length=12,
    end_of_text_ids=(9,),
)
ENCODER = Interface(
    task="feature-extraction",
    inputs=("input_ids", "attention_mask"),
    outputs=("sentence_embedding",),
    vocabulary=10,
    context_length=4,
    pooling="mean",
    dimension=1,
)


class Counting:
    """A method whose next token is the last one plus one. Logit 0 is the sum of the cache up to the last position; the
    output is the same memory every time, as a planned buffer is."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], list[int]]] = []
        self.cache = torch.zeros(INTERFACE.context_length, dtype=torch.long)
        self.output = torch.zeros(1, 1, 10)

    def execute(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        tokens, positions = inputs
        assert tokens.dtype == positions.dtype == torch.long
        assert tokens.shape == (1, len(positions))
        assert len(positions) <= LONGEST
        self.calls.append((tokens[0].tolist(), positions.tolist()))
        self.cache[positions] = tokens[0]
        self.output.zero_()
        self.output[0, 0, (int(tokens[0, -1]) + 1) % 10] = 1000.0
        self.output[0, 0, 0] += self.cache[: int(positions[-1]) + 1].sum()
        return [self.output]


class Summing:
    """An encoder's method."""

    def __init__(self) -> None:
        self.calls: list[list[list[int]]] = []
        self.output = torch.zeros(1, 1)

    def execute(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        self.calls.append([value[0].tolist() for value in inputs])
        assert all(value.shape[0] == 1 for value in inputs)
        self.output[0, 0] = (inputs[0] * inputs[1]).sum()
        return [self.output]


class Program:
    """Methods by name."""

    def __init__(self, methods: Mapping[str, Any]) -> None:
        self.methods = methods
        self.method_names = set(methods)

    def load_method(self, name: str) -> Any:  # noqa: ANN401
        if isinstance(self.methods[name], Exception):
            raise self.methods[name]
        return self.methods[name]


def use(monkeypatch: pytest.MonkeyPatch, methods: Mapping[str, object]) -> None:
    longest = SimpleNamespace(execute=lambda inputs: [LONGEST])
    program = Program({"get_max_seq_len": longest, **methods})
    monkeypatch.setattr(driver, "open_program", lambda *_, **__: program)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    method = Counting()
    use(monkeypatch, {"forward": method})
    return method


def generator() -> TextGenerator:
    return TextGenerator(Path("model.pte"), INTERFACE)


def test_one_call_answers_a_prompt(counting: Counting) -> None:
    model = generator()
    logits = model.prefill([3, 4])
    assert logits.shape == (1, 10)
    assert logits.dtype == np.float32
    assert int(model.step(5).argmax()) == 6
    assert counting.calls == [([3, 4], [0, 1]), ([5], [2])]
    assert model.length == 3


def test_the_logits_that_are_kept_are_computed_one_by_one(counting: Counting) -> None:
    model = generator()
    kept = model.prefill([1, 2, 3], keep=2)
    assert kept.argmax(-1).tolist() == [3, 4]
    assert counting.calls == [([1, 2], [0, 1]), ([3], [2])]
    assert model.prefill([1, 2, 3], keep=0).argmax(-1).tolist() == [2, 3, 4]
    assert model.prefill([1, 2, 3], keep=9)[:, 0].tolist() == [1.0, 3.0, 6.0]
    assert model.forward([4, 5], keep=0)[:, 0].tolist() == [10.0, 15.0]
    assert counting.calls[-2:] == [([4], [3]), ([5], [4])]


def test_a_prompt_longer_than_one_call_is_split(counting: Counting) -> None:
    model = generator()
    assert model.prefill(list(range(1, 7)))[0, 0] == 21.0
    assert counting.calls == [([1, 2, 3, 4], [0, 1, 2, 3]), ([5, 6], [4, 5])]
    counting.calls.clear()
    assert model.prefill([1] * 7, keep=2)[:, 0].tolist() == [6.0, 7.0]
    assert [len(tokens) for tokens, _ in counting.calls] == [4, 2, 1]


def test_a_chunk_behind_the_cache_continues_it(counting: Counting) -> None:
    model = generator()
    model.prefill([1, 2])
    assert model.forward([3, 4, 5])[0, 0] == 15.0
    assert counting.calls[1] == ([3, 4, 5], [2, 3, 4])


def test_a_new_sequence_starts_at_the_first_position(counting: Counting) -> None:
    model = generator()
    model.prefill([7] * 8)
    model.reset()
    assert model.length == 0
    assert model.forward([1, 2])[0, 0] == 3.0
    assert counting.calls[-1] == ([1, 2], [0, 1])


def test_logits_stay_as_they_were(counting: Counting) -> None:
    model = generator()
    first = model.prefill([3])
    model.step(5)
    assert int(first[0].argmax()) == 4


def test_generation_is_the_common_one(counting: Counting) -> None:
    assert list(generator().generate_tokens([6])) == [7, 8]
    with pytest.raises(UsageError, match="13 tokens do not fit a context of 12"):
        generator().prefill([1] * 13)


def test_an_encoder_takes_one_sentence_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    method = Summing()
    use(monkeypatch, {"forward": method})
    output = Encoder(Path("model.pte"), ENCODER).forward([[1, 2, 3], [4]])
    assert output.tolist() == [[6.0], [4.0]]
    assert output.dtype == np.float32
    assert method.calls == [[[1, 2, 3], [1, 1, 1]], [[4, 0, 0], [1, 0, 0]]]
    interface = replace(ENCODER, inputs=(*ENCODER.inputs, "token_type_ids"))
    Encoder(Path("model.pte"), interface).forward([[1, 2]])
    assert method.calls[-1] == [[1, 2], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({}, "no method 'forward'"),
        ({"forward": RuntimeError("Missing operator: [0] a::b.out\nmore")}, r"refuses model\.pte: Missing operator"),
        ({"forward": Counting(), "get_max_seq_len": RuntimeError()}, "RuntimeError"),
    ],
)
def test_methods_that_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, methods: dict[str, object], message: str
) -> None:
    use(monkeypatch, methods)
    with pytest.raises(CorruptInputError, match=message) as caught:
        generator()
    assert "\n" not in str(caught.value)


def test_refused_memory_is_no_corrupt_file(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {"forward": MemoryError()})
    with pytest.raises(MemoryError):
        generator()


def refusing(error: Exception) -> Any:  # noqa: ANN401
    """An `executorch.runtime` that loads nothing."""

    def load_program(path: Path, *, verification: str) -> None:
        assert verification == "InternalConsistency"
        raise error

    runtime = SimpleNamespace(load_program=load_program)
    levels = SimpleNamespace(InternalConsistency="InternalConsistency")
    return SimpleNamespace(Runtime=SimpleNamespace(get=lambda: runtime), Verification=levels)


def header(program: int, base: int, segments: int) -> bytes:
    """The first 40 bytes of a `.pte`."""
    numbers = b"".join(value.to_bytes(8, "little") for value in (program, base, segments))
    return bytes(4) + b"ET12eh00" + (32).to_bytes(4, "little") + numbers


PTE = header(64, 64, 16) + bytes(40)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "refuses model.pte: it is no program"),
        (b"\0\0\0\0ET", "refuses"),
        (PTE[:4] + b"XX12" + PTE[8:], "refuses model.pte: it is no program"),
        (PTE[:-1], "refuses model.pte: it has 79 of its 80 bytes"),
        (header(200, 0, 0), "refuses model.pte: it has 40 of its 200 bytes"),
    ],
)
def test_a_damaged_file_is_refused_before_the_runtime_speaks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes, problem: str
) -> None:
    (tmp_path / "model.pte").write_bytes(data)
    monkeypatch.setattr(driver, "import_executorch", lambda: refusing(RuntimeError("error: 0x23")))
    with pytest.raises(CorruptInputError, match=problem):
        driver.open_program(tmp_path / "model.pte")


def test_a_refused_program_is_corrupt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.pte").write_bytes(PTE)
    monkeypatch.setattr(driver, "import_executorch", lambda: refusing(RuntimeError("error: 0x23")))
    with pytest.raises(CorruptInputError, match=r"refuses model\.pte: error: 0x23"):
        driver.open_program(tmp_path / "model.pte")
    monkeypatch.setattr(driver, "import_executorch", lambda: refusing(MemoryError()))
    with pytest.raises(MemoryError):
        driver.open_program(tmp_path / "model.pte")
    with pytest.raises(CorruptInputError, match="missing"):
        driver.open_program(tmp_path / "nowhere.pte")


@pytest.mark.parametrize("error", [ImportError("No module named 'executorch'"), OSError("libtorch.so: not found")])
def test_a_missing_runtime_has_a_name(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:  # noqa: ANN401
        if name.startswith("executorch"):
            raise error
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'edgeq\[executorch\]'"):
        driver.import_executorch()
    with pytest.raises(RuntimeUnavailableError):
        driver.planned_memory(Path("model.pte"))


def test_what_is_said_while_loading_is_not_heard(capfd: pytest.CaptureFixture[str]) -> None:
    with driver.unheard():
        os.write(2, b"from below Python")
        logging.getLogger("torchao").warning("from a library")
    assert capfd.readouterr().err == ""
    assert logging.root.manager.disable == logging.NOTSET
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_loading_needs_no_standard_error() -> None:
    code = "import os; os.close(2)\nfrom edgeq.runtimes.executorch import unheard\nwith unheard(): print('done')"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.stdout.strip() == "done"


def test_importing_the_driver_loads_no_framework() -> None:
    code = "import sys, edgeq.runtimes.executorch; sys.exit(len({'torch', 'executorch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
