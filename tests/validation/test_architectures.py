"""The device's kernels beside this machine's: when they are run, and what of each run counts."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeq.core.report import Gate, LanguageDrift, Verdict
from edgeq.core.target import Architecture, Cpu, Format
from edgeq.errors import RuntimeUnavailableError, UsageError
from edgeq.progress import SilentProgress
from edgeq.runtimes.arm64.emulator import Emulator
from edgeq.validation import architectures
from edgeq.validation.architectures import WHOLE_REFERENCE, Plan, plan_for, unmet, with_architectures
from edgeq.validation.child import ANSWERS
from edgeq.validation.configurations import Configuration, configurations_of
from edgeq.validation.gates import ENOUGH_TOKENS, Criteria, drift_gates, same
from edgeq.validation.launching import Launch, emulated_launch, native_launch
from edgeq.validation.reference_set import ReferenceSet
from edgeq.validation.running import Judgement
from edgeq.validation.subject import Subject
from tests.validation.test_gates import GOOD, section
from tests.validation.test_subject import make_manifest

CRITERIA = Criteria(bits=8, parameters=10_000_000, accuracy_level=4, memory_limit_bytes=1 << 30)
COMPLETED = same("completed", "yes", "yes", "")
SURVIVED = same("survived", "yes", "yes", "")
BAD = replace(GOOD, kld_mean=0.9)
NOT_INSTALLED = "The arm64 emulator is not installed. Install it: edgeq doctor --install arm64."


@pytest.fixture(autouse=True)
def x86(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An x86-64 machine with the emulator."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(architectures, "find_emulator", lambda: Emulator(directory=tmp_path))
    monkeypatch.setattr("edgeq.validation.launching.find_emulator", lambda: Emulator(directory=tmp_path))


def subject_of(
    directory: Path, *, cpus: tuple[Cpu, ...] = ("cortex-a76", "cortex-a53"), format: Format = "onnx"
) -> Subject:
    manifest = make_manifest(directory) | {"format": format}
    manifest["profile"] = {"compute_unit": "cpu", "validate_cpus": list(cpus)}
    return Subject.from_manifest(directory, manifest)


@pytest.mark.parametrize(
    ("arch", "all_cpus", "cpus", "is_asked"),
    [
        (None, False, ("cortex-a76",), False),
        ("arm64", False, ("cortex-a76",), True),
        ("x86_64", False, (), False),
        (None, True, ("cortex-a76", "cortex-a53"), True),
        ("arm64", True, ("cortex-a76", "cortex-a53"), True),
    ],
)
def test_the_target_says_what_is_run_unless_the_user_does(
    tmp_path: Path, arch: Architecture | None, all_cpus: bool, cpus: tuple[Cpu, ...], is_asked: bool
) -> None:
    assert plan_for(subject_of(tmp_path), arch=arch, all_cpus=all_cpus) == Plan(cpus=cpus, is_asked=is_asked)


def test_a_target_without_cpus_is_run_on_the_usual_one_where_asked(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, cpus=())
    assert plan_for(subject) == Plan()
    assert plan_for(subject, arch="arm64") == Plan(cpus=("cortex-a76",), is_asked=True)


def test_on_an_arm64_machine_its_own_kernels_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    subject = subject_of(tmp_path)
    assert plan_for(subject) == plan_for(subject, arch="arm64") == Plan()
    with pytest.raises(UsageError, match="Leave --all-cpus out"):
        plan_for(subject, all_cpus=True)
    found = plan_for(subject, arch="x86_64")
    assert (found.missing, found.is_asked) == ("This machine is aarch64, and x86_64 is not emulated on it.", True)


def test_an_emulator_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> Emulator:
        raise RuntimeUnavailableError(
            "The arm64 emulator is not installed.", remedy="Install it: edgeq doctor --install arm64."
        )

    monkeypatch.setattr(architectures, "find_emulator", find)
    subject = subject_of(tmp_path)
    assert plan_for(subject) == Plan(cpus=("cortex-a76",), missing=NOT_INSTALLED)
    assert plan_for(subject, arch="arm64").missing == NOT_INSTALLED
    assert plan_for(subject, arch="x86_64").missing == ""


def test_executorch_is_not_emulated(tmp_path: Path) -> None:
    plan = plan_for(subject_of(tmp_path, format="executorch"))
    assert plan.cpus == ("cortex-a76",)
    assert "Validate on an arm64 machine instead" in plan.missing
    assert not plan.is_asked


@pytest.mark.parametrize("format", ["coreml", "transformersjs"])
def test_runtimes_of_other_systems_have_no_architecture(tmp_path: Path, format: Format) -> None:
    subject = subject_of(tmp_path, cpus=(), format=format)
    assert plan_for(subject) == Plan()
    with pytest.raises(UsageError, match=f"{format} is not emulated"):
        plan_for(subject, arch="arm64")
    with pytest.raises(UsageError, match=f"{format} is not emulated"):
        plan_for(subject, all_cpus=True)


def test_all_cpus_are_those_of_arm64(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        plan_for(subject_of(tmp_path), arch="x86_64", all_cpus=True)


def judgement(lowering: LanguageDrift = GOOD, *, first: tuple[Gate, ...] = (COMPLETED,)) -> Judgement:
    drift = section(lowering=lowering)
    return Judgement(gates=(*first, *drift_gates(drift, CRITERIA, 1000)), drift=drift, runtime_version="1.2")


NATIVE = judgement(BAD, first=(SURVIVED, COMPLETED))
"""What this machine's own kernels say, which is not what the device would."""
Answer = Callable[[Launch, Configuration], Judgement]


def judge(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plan: Plan,
    answer: Answer,
    *,
    native: Judgement = NATIVE,
    parameters: int = 10_000_000,
) -> Judgement:
    """`with_architectures` on four sequences, with `answer` in the place of the emulated child."""
    tmp_path.mkdir(exist_ok=True)
    reference = tmp_path / "reference"
    sequences = [[1] * 300, [2] * 300, [3] * 300]
    for part in ("float", "dequantized"):
        (reference / part).mkdir(parents=True)
    (reference / "inputs.json").write_text(json.dumps({"task": "text-generation", "sequences": sequences}))
    here = tmp_path / "native" / ANSWERS
    here.mkdir(parents=True)
    for index in range(3):
        np.save(here / f"{index:04d}.npy", np.full((300, 4), [0, 1, 2, 3], dtype=np.float32))

    def run(
        subject: Subject,
        configuration: Configuration,
        references: ReferenceSet,
        *rest: object,
        directory: Path,
        progress: object,
        launch: Launch,
    ) -> Judgement:
        assert launch.is_emulated
        judged = answer(launch, configuration)
        (directory / ANSWERS).mkdir()
        for index in range(len(references.leading(configuration.tokens).sequences)):
            np.save(directory / ANSWERS / f"{index:04d}.npy", np.full((300, 4), [0, 1, 2, 3.03], dtype=np.float32))
        return judged

    monkeypatch.setattr(architectures, "run", run)
    subject = subject_of(tmp_path)
    return with_architectures(
        native,
        plan,
        subject=subject,
        configuration=configurations_of(subject)[0],
        references=ReferenceSet.open(reference),
        criteria=replace(CRITERIA, parameters=parameters),
        timeout=10,
        directory=tmp_path / "native",
        progress=SilentProgress(),
    )


ONE = Plan(cpus=("cortex-a76",), is_asked=True)
TWO = Plan(cpus=("cortex-a76", "cortex-a53"), is_asked=True)


def verdicts(judged: Judgement) -> dict[str, Verdict]:
    return {gate.name: gate.verdict for gate in judged.gates}


def test_drift_is_the_device_s_and_memory_this_machine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = judge(tmp_path, monkeypatch, ONE, lambda *_: judgement())
    names = list(verdicts(found))
    assert names[:4] == ["survived", "completed", "arm64_completed", "quantization_kld_mean"]
    assert Verdict.FAILED not in verdicts(found).values()
    assert found.drift is not None
    assert found.drift.lowering == GOOD
    here, there = found.drift.architectures
    assert (here.architecture, here.cpu, here.verdict) == ("x86_64", "", Verdict.FAILED)
    assert (here.lowering, here.difference) == (BAD, None)
    assert (there.architecture, there.cpu, there.verdict) == ("arm64", "cortex-a76", Verdict.PASSED)
    assert (there.lowering, there.total) == (GOOD, GOOD)
    assert there.runtime == "onnxruntime 1.2, qemu 10.0.2"
    assert unmet(ONE, found) == ""


def test_the_difference_is_of_the_answers_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = judge(tmp_path, monkeypatch, ONE, lambda *_: judgement())
    assert found.drift is not None
    difference = found.drift.architectures[1].difference
    assert isinstance(difference, LanguageDrift)
    assert difference.tokens == 900
    assert difference.max_abs == pytest.approx(0.03, rel=1e-5)
    assert difference.relative_error == pytest.approx(0.03 / np.sqrt(14), rel=1e-5)
    p, q = (np.exp(x) / np.exp(x).sum() for x in (np.array([0, 1, 2, 3.0]), np.array([0, 1, 2, 3.03])))
    assert difference.kld_mean == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-3)


def test_a_bundle_that_drifts_on_the_device_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native = judgement(first=(SURVIVED, COMPLETED))
    found = judge(tmp_path, monkeypatch, ONE, lambda *_: judgement(BAD), native=native)
    assert verdicts(found)["lowering_kld_mean"] is Verdict.FAILED
    assert found.drift is not None
    assert [row.verdict for row in found.drift.architectures] == [Verdict.PASSED, Verdict.FAILED]


def test_each_other_cpu_is_one_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(launch: Launch, _: Configuration) -> Judgement:
        return judgement(BAD if "cortex-a53" in launch.interpreter else GOOD)

    found = judge(tmp_path, monkeypatch, TWO, answer)
    assert verdicts(found)["lowering_kld_mean"] is Verdict.PASSED
    last = found.gates[-1]
    assert (last.name, last.verdict) == ("arm64 cortex-a53", Verdict.FAILED)
    assert "lowering_kld_mean" in last.reason
    assert found.drift is not None
    assert [row.cpu for row in found.drift.architectures] == ["", "cortex-a76", "cortex-a53"]


def test_a_crash_on_the_device_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = same("completed", "no", "yes", "crashed with SIGILL")
    found = judge(tmp_path, monkeypatch, ONE, lambda *_: Judgement(gates=(crash,)))
    assert verdicts(found) == {
        "survived": Verdict.PASSED,
        "completed": Verdict.PASSED,
        "arm64_completed": Verdict.FAILED,
    }
    assert found.drift is not None
    there = found.drift.architectures[1]
    assert (there.verdict, there.total, there.difference) == (Verdict.FAILED, None, None)
    assert "SIGILL" in there.reason


@pytest.mark.parametrize("is_asked", [False, True])
def test_what_could_not_run_leaves_this_machine_s_gates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked: bool
) -> None:
    plans = {
        "before": Plan(cpus=("cortex-a76",), missing=NOT_INSTALLED, is_asked=is_asked),
        "when it starts": Plan(cpus=("cortex-a76",), is_asked=is_asked),
    }
    for name, plan in plans.items():
        found = judge(tmp_path / name, monkeypatch, plan, lambda *_: Judgement(missing=NOT_INSTALLED))
        assert found.gates == NATIVE.gates
        assert found.drift is not None
        assert found.drift.lowering == BAD
        assert [row.verdict for row in found.drift.architectures] == [Verdict.FAILED, Verdict.NOT_VALIDATED]
        assert found.drift.architectures[1].reason == NOT_INSTALLED
        assert unmet(plan, found) == (NOT_INSTALLED if is_asked else "")


def test_nothing_is_run_behind_a_run_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = Judgement(gates=(same("survived", "no", "yes", "killed"),))

    def answer(*_: object) -> Judgement:
        raise AssertionError

    assert judge(tmp_path, monkeypatch, ONE, answer, native=killed) == killed
    assert judge(tmp_path / "no", monkeypatch, Plan(), answer) == NATIVE


@pytest.mark.parametrize(("parameters", "tokens"), [(WHOLE_REFERENCE, None), (WHOLE_REFERENCE + 1, ENOUGH_TOKENS)])
def test_large_models_answer_as_much_as_the_gates_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: int, tokens: int | None
) -> None:
    def answer(_: Launch, configuration: Configuration) -> Judgement:
        assert configuration.tokens == tokens
        return judgement()

    found = judge(tmp_path, monkeypatch, ONE, answer, parameters=parameters)
    assert found.drift is not None
    difference = found.drift.architectures[1].difference
    assert isinstance(difference, LanguageDrift)
    assert difference.tokens == (900 if tokens is None else 600)


def test_only_the_interpreter_and_its_surroundings_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SETTING", "7")
    native, emulated = native_launch(), emulated_launch("cortex-a53")
    assert (native.is_emulated, emulated.is_emulated) == (False, True)
    for launch in (native, emulated):
        assert launch.environment["OPENBLAS_NUM_THREADS"] == "1"
        assert launch.environment["SOME_SETTING"] == "7"
        assert str(Path(__file__).parents[2]) in launch.environment["PYTHONPATH"]
    assert "cortex-a53" in emulated.interpreter
