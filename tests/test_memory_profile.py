"""From a bundle to its memory profile, and how the command line shows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeq import cli, memory_profile, pipeline
from edgeq.core.images import ImageInput
from edgeq.core.memory_profile import ContextMemory, ContextPoint, MemoryProfile, MemoryTrial, MinimumMemory
from edgeq.core.records import from_plain, to_plain
from edgeq.core.report import Report, Verdict
from edgeq.errors import CorruptInputError, EdgeqError, RuntimeUnavailableError, UsageError
from edgeq.memory_profile import profile_memory
from edgeq.reports.memory_profile import fits, memory_profile_text
from edgeq.validation.memory_profile import MemoryMeasurement
from tests.bundle.samples import encoder_interface, sealed_bundle
from tests.reports.samples import passed_report

MIB = 1 << 20
MINIMUM = MinimumMemory(
    minimum_bytes=39 * MIB,
    failed_bytes=38 * MIB,
    peak_dirty_bytes=39 * MIB,
    peak_phase="prefill",
    backend="cgroup_v2",
    phases={"load": 33 * MIB, "prefill": 39 * MIB},
    trials=(MemoryTrial(limit_bytes=39 * MIB, survived=True, peak_dirty_bytes=39 * MIB, reason=""),),
)
CONTEXT = ContextMemory(
    target="android-4gb",
    limit_bytes=512 * MIB,
    context_length=4096,
    fits_tokens=3100,
    bound="memory",
    cache_bytes_per_token=6 << 10,
    growth_bytes_per_token=36.0 * 1024,
    backend="cgroup_v2",
    points=(
        ContextPoint(
            tokens=3100,
            survived=True,
            peak_dirty_bytes=500 * MIB,
            runtime_bytes=32 * MIB,
            weights_bytes=100 * MIB,
            cache_bytes=68 * MIB,
            scratch_bytes=300 * MIB,
            peak_phase="prefill",
            phases={"load": 132 * MIB, "prefill": 500 * MIB},
        ),
        ContextPoint(tokens=4096, survived=False, reason="killed at the limit"),
    ),
)


class Measured:
    """Stands in for a measurement: keeps what it was asked for, and raises what it was given."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.asked: dict[str, Any] = {}
        self.error: EdgeqError | None = None

    def of_bundle(self, bundle: Path, **named: object) -> Measured:
        self.asked |= named
        return self

    def minimum(self) -> MinimumMemory:
        self.calls.append("minimum")
        return MINIMUM

    def by_context(self, **named: object) -> ContextMemory:
        self.calls.append("by_context")
        self.asked |= named
        if self.error is not None:
            raise self.error
        return CONTEXT


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    measured = Measured()
    monkeypatch.setattr(MemoryMeasurement, "of_bundle", measured.of_bundle)
    return measured


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return sealed_bundle(tmp_path / "work", tmp_path / "bundle")


@pytest.mark.parametrize(
    ("bisect", "context", "calls"),
    [(True, False, ["minimum"]), (False, True, ["by_context"]), (True, True, ["minimum", "by_context"])],
)
def test_only_what_is_asked_for_is_measured(
    bundle: Path, measured: Measured, bisect: bool, context: bool, calls: list[str]
) -> None:
    profile = profile_memory(bundle, bisect=bisect, context=context)
    assert measured.calls == calls
    assert (profile.minimum is MINIMUM, profile.context is CONTEXT, profile.reason) == (bisect, context, "")


def test_the_context_is_measured_under_the_target_s_limit(bundle: Path, measured: Measured) -> None:
    profile_memory(bundle, bisect=False, context=True, backend="sampler")
    manifest = json.loads((bundle / "edgeq.json").read_text())
    limits, ((heads, size),) = manifest["profile"], manifest["interface"]["cache"]
    assert measured.asked["limit_bytes"] == (limits["memory_limit_mib"] - limits["memory_reserve_mib"]) * MIB
    assert measured.asked["planned_length"] == limits["context_length"]
    assert measured.asked["cache_bytes_per_token"] == 2 * 4 * heads * size
    assert measured.asked["target"] == manifest["target"]
    assert measured.asked["backend"] == "sampler"


def test_a_memory_limit_replaces_the_target_s(bundle: Path, measured: Measured) -> None:
    profile_memory(bundle, bisect=False, context=True, memory_limit=45 * MIB)
    assert measured.asked["limit_bytes"] == 45 * MIB


@pytest.mark.parametrize("error", [CorruptInputError, RuntimeUnavailableError])
def test_what_cannot_be_measured_has_a_reason(
    bundle: Path, measured: Measured, error: type[CorruptInputError | RuntimeUnavailableError]
) -> None:
    measured.error = error("It did not run.", remedy="Run it.")
    profile = profile_memory(bundle, bisect=True, context=True)
    assert profile == MemoryProfile(minimum=MINIMUM, context=None, reason="It did not run. Run it.")


def test_a_limit_of_nothing_is_refused(bundle: Path, measured: Measured) -> None:
    with pytest.raises(UsageError, match="above 0"):
        profile_memory(bundle, bisect=False, context=True, memory_limit=0)


def test_no_bundle_is_an_error(tmp_path: Path, measured: Measured) -> None:
    with pytest.raises(UsageError, match="no bundle"):
        profile_memory(tmp_path / "none", bisect=True, context=True)


@pytest.mark.parametrize(
    ("tokens", "bound", "words"),
    [
        (3100, "memory", "fits up to 3,100 tokens on android-4gb, under 512.0 MiB: the memory limit ends it"),
        (512, "model", "fits up to 512 tokens on android-4gb, under 512.0 MiB: the model's own context ends there"),
        (4096, "target", "fits up to 4,096 tokens on android-4gb, under 512.0 MiB: the target plans for no more"),
        (0, "memory", "fits no tokens on android-4gb, under 512.0 MiB"),
    ],
)
def test_the_answer_is_a_sentence(tokens: int, bound: Any, words: str) -> None:  # noqa: ANN401
    assert fits(replace(CONTEXT, fits_tokens=tokens, bound=bound)) == words


def test_a_profile_is_shown_as_text() -> None:
    text = memory_profile_text(MemoryProfile(minimum=MINIMUM, context=CONTEXT, reason="it was cold"))
    assert text.splitlines() == [
        "runs in 39.0 MiB, not in 38.0 MiB (cgroup_v2, 1 runs)",
        "  peak without a limit 39.0 MiB, reached in prefill",
        "  by phase: load 33.0 MiB, prefill 39.0 MiB",
        "",
        "fits up to 3,100 tokens on android-4gb, under 512.0 MiB: the memory limit ends it",
        "  tokens       peak   runtime    weights     cache    scratch  highest in",
        "   3,100  500.0 MiB  32.0 MiB  100.0 MiB  68.0 MiB  300.0 MiB  prefill",
        "   4,096          -         -          -         -          -  killed at the limit",
        "  one more token takes 36.0 KiB on average, 6.0 KiB of them the key-value cache",
        "memory profile not complete: it was cold",
    ]


def test_a_profile_survives_json() -> None:
    profile = MemoryProfile(minimum=MINIMUM, context=CONTEXT)
    assert from_plain(MemoryProfile, json.loads(json.dumps(to_plain(profile))), "profile") == profile


class Library:
    """Stands in for the two calls of `edgeq validate`."""

    def __init__(self) -> None:
        self.profile = MemoryProfile(minimum=MINIMUM, context=CONTEXT)
        self.report = passed_report()
        self.asked: dict[str, Any] = {}

    def validate(self, bundle: Path, **named: object) -> Report:
        return self.report

    def profile_memory(self, bundle: Path, **named: object) -> MemoryProfile:
        self.asked = named
        return self.profile


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    monkeypatch.setattr(pipeline, "validate", library.validate)
    monkeypatch.setattr(memory_profile, "profile_memory", library.profile_memory)
    return library


def test_without_the_flags_nothing_is_measured(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["validate", "b", "--json"]) == 0
    assert library.asked == {}
    assert "memory_profile" not in json.loads(capsys.readouterr().out)


def test_the_flags_are_handed_on(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["validate", "b", "--bisect", "--memory-limit", "20MB", "--json"]) == 0
    asked = {name: library.asked[name] for name in ("bisect", "context", "memory_limit")}
    assert asked == {"bisect": True, "context": False, "memory_limit": 20_000_000}
    assert cli.run(["validate", "b", "--context-memory", "--json"]) == 0
    assert (library.asked["bisect"], library.asked["context"]) == (False, True)


def test_json_is_the_report_with_the_profile_beside_it(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["validate", "b", "--bisect", "--context-memory", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("memory_profile") == json.loads(json.dumps(to_plain(library.profile)))
    assert printed == json.loads(json.dumps(to_plain(library.report)))


def test_people_see_the_summary_and_then_the_profile(library: Library, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["validate", "b", "--bisect"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("verdict  passed") < printed.index("runs in 39.0 MiB, not in 38.0 MiB")


@pytest.mark.parametrize(
    ("flags", "verdict", "reason", "code"),
    [
        ([], Verdict.PASSED, "", 0),
        ([], Verdict.PASSED, "no runtime", 0),
        (["--require"], Verdict.PASSED, "", 0),
        (["--require"], Verdict.PASSED, "no runtime", 3),
        (["--require"], Verdict.FAILED, "no runtime", 1),
        ([], Verdict.FAILED, "", 1),
    ],
)
def test_a_profile_that_is_missing_counts_where_it_is_required(
    library: Library, flags: list[str], verdict: Verdict, reason: str, code: int
) -> None:
    library.report = replace(library.report, verdict=verdict)
    library.profile = MemoryProfile(reason=reason)
    assert cli.run(["validate", "b", "--bisect", "--json", *flags]) == code


def test_a_model_of_images_has_no_context(tmp_path: Path) -> None:
    image = ImageInput(channels=1, height=8, width=8, mean=(0.5,), std=(0.5,))
    interface = replace(encoder_interface(), task="image-classification", inputs=("pixel_values",), image=image)
    bundle = sealed_bundle(tmp_path, tmp_path / "bundle", interface=interface)
    with pytest.raises(UsageError, match="no context"):
        profile_memory(bundle, bisect=False, context=True)
