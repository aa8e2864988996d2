"""The command line against a library that records its calls: flags, settings, exit codes, and what goes where."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

import edgeq
from edgeq import cli, pipeline
from edgeq.cli.settings import Settings
from edgeq.cli.watch import PlainProgress
from edgeq.core.report import Report, Verdict
from edgeq.errors import CorruptInputError, RuntimeUnavailableError, SourceNotFoundError, UsageError
from edgeq.values import parse_size
from tests.reports.samples import passed_report

REPORT = passed_report()


class Library:
    """Stands in for edgeq.pipeline: keeps the arguments of the last call, returns `report` or raises `error`."""

    def __init__(self) -> None:
        self.call: dict[str, object] = {}
        self.report = REPORT
        self.error: BaseException | None = None

    def instead_of(self, function: Callable[..., object]) -> Callable[..., object]:
        """A double of one function, with its very parameters."""
        signature = inspect.signature(function)

        def answer(*positional: object, **named: object) -> object:
            self.call = dict(signature.bind(*positional, **named).arguments)
            if self.error is not None:
                raise self.error
            return (self.report,) if function.__name__ == "export_formats" else self.report

        return answer


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Library:
    """The library's double, in an empty working directory."""
    double = Library()
    for name in ("export_formats", "quantize", "lower", "validate"):
        monkeypatch.setattr(pipeline, name, double.instead_of(getattr(pipeline, name)))
    monkeypatch.chdir(tmp_path)
    return double


def test_export_without_arguments_takes_the_defaults(library: Library) -> None:
    assert cli.run(["export", "--json"]) == 0
    call = library.call
    assert {name: call[name] for name in ("model", "target", "bits", "method", "output")} == {
        "model": None,
        "target": "android",
        "bits": 4,
        "method": "auto",
        "output": None,
    }
    assert call["validate"] is True
    assert call["force"] is False


def test_export_hands_every_flag_on(library: Library) -> None:
    Path("e.txt").write_text("Some text.\n")
    Path("c.jsonl").write_text("[1, 2]\n")
    flags = (
        "--target edge --bits 8 --method rtn --group-size 64 --symmetric --embedding-bits 8 --format onnx"
        " --task feature-extraction --accuracy-level 1 --effort best --calibration c.jsonl"
        " --evaluation e.txt --tokenizer graph --max-memory 2GB --max-drift 0.1"
        " --max-size 1MiB --recipe r.toml --output out --no-validate --json --force"
    )
    assert cli.run(["export", "some/model", *flags.split()]) == 0
    del library.call["progress"]
    assert library.call == {
        "model": "some/model",
        "target": "edge",
        "bits": 8,
        "method": "rtn",
        "group_size": 64,
        "symmetric": True,
        "embedding_bits": 8,
        "format": "onnx",
        "task": "feature-extraction",
        "accuracy_level": 1,
        "effort": "best",
        "calibration": Path("c.jsonl"),
        "evaluation": Path("e.txt"),
        "tokenizer": "graph",
        "max_memory": 2 * 10**9,
        "max_drift": 0.1,
        "max_size": 2**20,
        "recipe": Path("r.toml"),
        "output": Path("out"),
        "validate": False,
        "force": True,
    }


def test_bits_may_be_left_to_the_budget(library: Library) -> None:
    assert cli.run(["export", "--bits", "auto", "--max-size", "3MB", "--json"]) == 0
    assert (library.call["bits"], library.call["max_size"]) == ("auto", 3_000_000)
    Path("edgeq.toml").write_text('bits = "auto"\n')
    assert cli.run(["export", "--json"]) == 0
    assert library.call["bits"] == "auto"


def test_every_setting_is_an_argument_of_export_with_the_same_default() -> None:
    parameters = inspect.signature(pipeline.export_formats).parameters
    assert {field.name: field.default for field in fields(Settings)} == {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in ("validate", "force", "progress")
    }


def test_settings_come_from_edgeq_toml_and_flags_override_them(library: Library) -> None:
    Path("edgeq.toml").write_text('model = "mine"\nbits = 8\nmax_size = "3MB"\nsymmetric = true\noutput = "o"\n')
    Path("pyproject.toml").write_text('[tool.edgeq]\nmodel = "not this one"\n')
    assert cli.run(["export", "--bits", "4", "--asymmetric", "--json"]) == 0
    assert library.call["model"] == "mine"
    assert library.call["bits"] == 4
    assert library.call["symmetric"] is False
    assert library.call["max_size"] == 3_000_000
    assert library.call["output"] == Path("o")


def test_settings_come_from_pyproject_where_there_is_no_edgeq_toml(library: Library) -> None:
    Path("pyproject.toml").write_text('[project]\nname = "app"\n[tool.edgeq]\nmodel = "theirs"\n')
    assert cli.run(["export", "--json"]) == 0
    assert library.call["model"] == "theirs"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mdoel = 'x'", "Did you mean 'model'?"),
        ("bits = true", "bits the value True"),
        ("bits = '4'", "bits the value '4'"),
        ("task = 'text-generatoin'", "Did you mean 'text-generation'?"),
        ("effort = 'fats'", "Did you mean 'fast'?"),
        ("tokenizer = 'grahp'", "Did you mean 'graph'?"),
        ("calibration = 1", "calibration the value 1"),
        ("max_memory = 'much'", "is not a size"),
        ("model = ", "is not TOML"),
        ("model = 3", "model the value 3"),
        ("max_drift = -1", "max_drift the value -1"),
        ("task = 'module'", "task has no value"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    library: Library, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    Path("edgeq.toml").write_text(text)
    assert cli.run(["export"]) == 2
    _assert_one_line(capsys, complaint)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["exprt"], "Did you mean 'export'"),
        (["export", "--taget", "x"], "--target"),
        (["export", "--bits", "four"], "--bits"),
        (["export", "--bits"], "--bits"),
        (["export", "--task", "text-generatoin"], "Did you mean 'text-generation'?"),
        (["export", "--max-memory", "2XB"], "'2XB' is not a size"),
        (["export", "--evaluation", "no-such-file"], "no-such-file"),
        (["quantize", "--output", "o", "--calibration", "no-such-file"], "no-such-file"),
        (["export", "--effort", "bst"], "Did you mean 'best'?"),
        (["export", "--tokenizer", "file"], "Did you mean 'files'?"),
        (["quantize", "model"], "--output"),
        (["validate"], "bundle"),
        (["targets", "androd"], "Did you mean 'android'?"),
        (["run", "no-such-bundle", "--max-new-tokens", "0"], "--max-new-tokens"),
    ],
)
def test_a_wrong_command_line_is_exit_2_and_one_line(
    library: Library, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert cli.run(arguments) == 2
    _assert_one_line(capsys, complaint)
    assert library.call == {}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("What.", remedy="Do."), 2),
        (SourceNotFoundError("What.", remedy="Do."), 2),
        (RuntimeUnavailableError("What.", remedy="Do."), 3),
        (CorruptInputError("What\nand\nwhy.", remedy="Do."), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_its_exit_code_and_one_line(
    library: Library, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    library.error = error
    assert cli.run(["export", "--json"]) == code
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("edgeq: ")
    assert streams.err.count("\n") == 1


def test_a_defect_is_exit_5_and_says_how_to_see_more(
    library: Library, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEQ_TRACEBACK", raising=False)
    library.error = ZeroDivisionError("by zero")
    assert cli.run(["export"]) == 5
    _assert_one_line(capsys, "ZeroDivisionError: by zero (run again with EDGEQ_TRACEBACK=1)")


def test_a_traceback_is_shown_only_when_asked_for(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEQ_TRACEBACK", "1")
    library.error = ZeroDivisionError("by zero")
    with pytest.raises(ZeroDivisionError):
        cli.run(["export"])


@pytest.mark.parametrize(
    ("arguments", "verdict", "code"),
    [
        (["export", "--json"], Verdict.PASSED, 0),
        (["export", "--json"], Verdict.FAILED, 1),
        (["export", "--json", "--no-validate"], Verdict.NOT_VALIDATED, 0),
        (["lower", "store", "--output", "o", "--json"], Verdict.FAILED, 1),
        (["validate", "b", "--json"], Verdict.FAILED, 1),
        (["validate", "b", "--json"], Verdict.NOT_VALIDATED, 0),
        (["validate", "b", "--json", "--require"], Verdict.NOT_VALIDATED, 3),
        (["validate", "b", "--json", "--require"], Verdict.PASSED, 0),
    ],
)
def test_the_verdict_is_the_exit_code(library: Library, arguments: list[str], verdict: Verdict, code: int) -> None:
    library.report = replace(REPORT, verdict=verdict)
    assert cli.run(arguments) == code


def test_json_is_all_that_stdout_gets(
    library: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def narrate(*arguments: object, **more: object) -> tuple[Report, ...]:
        progress = more["progress"]
        assert isinstance(progress, PlainProgress)
        progress.stage("quantizing")
        progress.advance(1, 2, "block 0")
        progress.note("a fallback")
        return (REPORT,)

    monkeypatch.setattr(pipeline, "export_formats", narrate)
    assert cli.run(["export", "--json"]) == 0
    streams = capsys.readouterr()
    document = json.loads(streams.out)
    assert document["verdict"] == "passed"
    assert document["weights"]["bits_per_weight"] == REPORT.weights.bits_per_weight
    assert streams.err == "quantizing ...\nnote: a fallback\n"


def test_the_summary_names_what_a_user_looks_for(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["export"]) == 0
    assert "passed" in capsys.readouterr().out.lower()


def test_validate_hands_its_limits_on(library: Library) -> None:
    assert cli.run(["validate", "b", "--memory-limit", "20MB", "--max-drift", "0.5", "--require", "--json"]) == 0
    del library.call["progress"]
    limits = {"bundle": Path("b"), "memory_limit": 20_000_000, "max_drift": 0.5, "require": True}
    assert library.call == limits | {"arch": None, "all_cpus": False}
    assert cli.run(["validate", "b", "--arch", "arm64", "--all-cpus", "--json"]) == 0
    assert (library.call["arch"], library.call["all_cpus"]) == ("arm64", True)
    assert cli.run(["validate", "b", "--arch", "arm46", "--json"]) == 2


def test_lower_takes_the_settings_target(library: Library) -> None:
    Path("edgeq.toml").write_text('target = "edge"\n')
    assert cli.run(["lower", "store", "--output", "o", "--json"]) == 0
    assert library.call["store"] == Path("store")
    assert library.call["target"] == "edge"
    assert library.call["output"] == Path("o")


def test_targets_lists_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    from edgeq.targets.profiles import available_profiles

    assert cli.run(["targets"]) == 0
    first_words = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert set(available_profiles()) <= set(first_words)


def test_a_target_is_shown_with_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    from edgeq.targets.profiles import load_profile

    assert cli.run(["targets", "android"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for origin in load_profile("android").provenance.values():
        assert origin.source in shown
        assert origin.source_date in shown


def test_targets_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["targets", "android", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory_limit_mib"] == 2304


def test_doctor_names_versions_and_memory_limits(capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    assert cli.run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {tool["name"]: tool["version"] for tool in found["tools"]}["onnxruntime"] == onnxruntime.__version__
    assert any(limit["usable"] for limit in found["memory_limits"])
    assert found["missing"] == []


def test_doctor_gives_a_remedy_for_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgeq.doctor.REQUIREMENTS", (("no-such-runtime", "this test"),))
    assert cli.run(["doctor"]) == 3
    assert "pip install no-such-runtime" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20MB", 20_000_000),
        ("2GB", 2 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("4096", 4096),
        ("4096B", 4096),
        (" 1 kib ", 1024),
    ],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "0", "20M", "1e6", "2 G B", "nan"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="Write it as 20MB"):
        parse_size(text)


def test_help_is_shown_without_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    shown = capsys.readouterr().out
    for verb in ("export", "quantize", "lower", "validate", "inspect", "targets", "run", "doctor"):
        assert f"\n  {verb} " in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"edgeq {edgeq.__version__}\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m edgeq targets android | true"
    finished = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert finished.stderr == ""


def _assert_one_line(capsys: pytest.CaptureFixture[str], complaint: str) -> None:
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("edgeq: ")
    assert streams.err.count("\n") == 1
    assert complaint in streams.err


def test_several_formats_are_several_reports_and_the_worst_verdict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = replace(REPORT, verdict=Verdict.FAILED, format="executorch")
    monkeypatch.setattr(pipeline, "export_formats", lambda *_, **__: (REPORT, failed))
    monkeypatch.chdir(tmp_path)
    assert cli.run(["export", "--format", "all", "--json"]) == 1
    assert [report["verdict"] for report in json.loads(capsys.readouterr().out)] == ["passed", "failed"]
