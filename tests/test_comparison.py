"""Two bundles, two reports, two builds: what changed, and what may not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgeq.bundle.manifest import MANIFEST, manifest_bytes, read_manifest
from edgeq.cli import run
from edgeq.comparison import GrowthLimits, compare
from edgeq.core.artifact import WeightLocation
from edgeq.core.comparison import BundlePair, Change, Comparison, GrowthLimit
from edgeq.core.report import MemorySection, Report, SpeedSection, Verdict
from edgeq.errors import CorruptInputError, UsageError
from edgeq.reports.comparison import comparison_markdown, comparison_text
from edgeq.reports.json import report_to_json
from tests.bundle.samples import sealed_bundle
from tests.reports.samples import encoder_report, language_drift, passed_report, unvalidated_report

MIB = 2**20


def written(path: Path, report: Report) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report_to_json(report), encoding="utf-8")
    return path


def worse() -> Report:
    """A tenth more of everything: size, memory, drift; and a tenth slower."""
    report = passed_report()
    assert report.memory is not None
    assert report.drift is not None
    assert report.speed is not None
    peak = int(1.1 * report.memory.peak_dirty_bytes)
    memory: MemorySection = dataclasses.replace(
        report.memory, peak_dirty_bytes=peak, process_dirty_bytes=peak, baseline_dirty_bytes=0
    )
    return dataclasses.replace(
        report,
        artifact=dataclasses.replace(report.artifact, bytes=int(1.1 * report.artifact.bytes)),
        memory=memory,
        drift=dataclasses.replace(report.drift, total=language_drift(1.1 * 0.0317)),
        speed=dataclasses.replace(report.speed, decode_tokens_per_second=0.9 * 233.0),
    )


def only_pair(found: Comparison) -> BundlePair:
    (pair,) = found.pairs
    return pair


def change(found: Comparison, name: str) -> Change:
    return next(one for one in only_pair(found).changes if one.name == name)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return written(tmp_path / "old.json", passed_report()), written(tmp_path / "new.json", worse())


def test_the_same_report_is_the_same(tmp_path: Path) -> None:
    path = written(tmp_path / "report.json", passed_report())
    found = compare(path, path, GrowthLimits(max_size_growth=GrowthLimit(amount=0, is_percent=True)))
    assert (found.verdict, found.reason) == (Verdict.PASSED, "")
    assert all(one.old == one.new for one in only_pair(found).changes)
    assert change(found, "artifact_bytes").verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("limit", "figure"),
    [
        ("max_size_growth", "artifact_bytes"),
        ("max_memory_growth", "peak_dirty_bytes"),
        ("max_drift_growth", "total_drift"),
        ("max_slowdown", "decode_tokens_per_second"),
    ],
)
@pytest.mark.parametrize(("percent", "verdict"), [(10.1, Verdict.PASSED), (9.9, Verdict.FAILED)])
def test_growth_past_a_limit_fails(
    sides: tuple[Path, Path], limit: str, figure: str, percent: float, verdict: Verdict
) -> None:
    limits = GrowthLimits(**{limit: GrowthLimit(amount=percent, is_percent=True)})
    found = compare(*sides, limits)
    assert found.verdict is verdict
    assert change(found, figure).verdict is verdict
    assert (figure in found.reason) is (verdict is Verdict.FAILED)
    assert compare(sides[1], sides[0], limits).verdict is Verdict.PASSED  # better is never past a limit


@pytest.mark.parametrize(("amount", "verdict"), [(52 * MIB, Verdict.PASSED), (51 * MIB, Verdict.FAILED)])
def test_limits_in_absolute_terms(sides: tuple[Path, Path], amount: int, verdict: Verdict) -> None:
    limits = GrowthLimits(max_memory_growth=GrowthLimit(amount=amount, is_percent=False))
    assert compare(*sides, limits).verdict is verdict


def test_without_limits_everything_is_told_and_nothing_judged(sides: tuple[Path, Path]) -> None:
    found = compare(*sides)
    assert found.verdict is Verdict.PASSED
    assert {one.verdict for one in only_pair(found).changes} == {None}


def test_a_verdict_that_got_worse_fails(tmp_path: Path) -> None:
    old = written(tmp_path / "old.json", passed_report())
    new = written(tmp_path / "new.json", unvalidated_report())
    assert "the verdict was passed and is not_validated" in compare(old, new).reason
    assert compare(new, old).verdict is Verdict.PASSED


def test_a_limit_on_what_one_side_did_not_measure_fails(tmp_path: Path) -> None:
    report = passed_report()
    old = written(tmp_path / "old.json", dataclasses.replace(report, speed=SpeedSection(load_seconds=1.0)))
    new = written(tmp_path / "new.json", report)
    found = compare(old, new, GrowthLimits(max_slowdown=GrowthLimit(amount=5, is_percent=True)))
    assert "measured on one side only" in found.reason


def test_encoders_drift_by_their_cosine(tmp_path: Path) -> None:
    path = written(tmp_path / "report.json", encoder_report())
    drift = change(compare(path, path), "total_drift").old
    total = encoder_report().drift
    assert total is not None
    assert drift == pytest.approx(1 - total.total.cosine_mean)  # type: ignore[union-attr]


def rewritten(bundle: Path, **changes: object) -> None:
    """Put other entries into a bundle's manifest, sealed anew."""
    manifest = dataclasses.replace(read_manifest(bundle), **changes)  # type: ignore[arg-type]
    (bundle / MANIFEST).write_bytes(manifest_bytes(manifest))


def test_builds_are_paired_by_path(tmp_path: Path) -> None:
    for side, names in (("old", ("a/android", "a/ios", "gone")), ("new", ("a/android", "a/ios", "added"))):
        for name in names:
            sealed_bundle(tmp_path / f"{side}-{name.replace('/', '-')}", tmp_path / side / name)
    written(tmp_path / "new" / "a" / "ios" / "report.json", worse())
    found = compare(
        tmp_path / "old", tmp_path / "new", GrowthLimits(max_size_growth=GrowthLimit(amount=1, is_percent=True))
    )
    assert [(pair.name, pair.verdict) for pair in found.pairs] == [
        ("a/android", Verdict.PASSED),
        ("a/ios", Verdict.FAILED),
    ]
    assert (found.removed, found.added) == (("gone",), ("added",))
    assert found.reason.startswith("a/ios: artifact_bytes went from")
    text = comparison_text(found)
    assert "only in old: gone" in text
    assert "only in new: added" in text


def test_a_weight_with_another_grid_is_named(tmp_path: Path) -> None:
    weight = WeightLocation(
        bits=4, group_size=32, symmetric=False, scale_dtype="float32", shape=(8, 32), codes="c", scales="s",
        zero_points="z", rows=(0, 8),
    )  # fmt: skip
    old, new = (sealed_bundle(tmp_path / f"work-{side}", tmp_path / side) for side in ("old", "new"))
    rewritten(old, weights={"q": weight, "gone": weight})
    rewritten(new, weights={"q": dataclasses.replace(weight, bits=8)})
    schemes = only_pair(compare(old, new)).schemes
    assert [(one.weight, one.old, one.new) for one in schemes] == [
        ("gone", "int4 g32 asym", None),
        ("q", "int4 g32 asym", "int8 g32 asym"),
    ]
    assert "q: int4 g32 asym -> int8 g32 asym" in comparison_text(compare(old, new))
    assert "- gone: int4 g32 asym -\\> absent" in comparison_markdown(compare(old, new))
    (new / MANIFEST).write_text("{}")
    with pytest.raises(CorruptInputError):
        compare(old, new)


def test_what_holds_no_bundle_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "report.json", passed_report())
    with pytest.raises(UsageError, match="no report at"):
        compare(path, tmp_path / "nowhere")
    (tmp_path / "text.json").write_text("no json")
    with pytest.raises(CorruptInputError):
        compare(path, tmp_path / "text.json")


def test_text_and_markdown_tell_the_same(sides: tuple[Path, Path]) -> None:
    found = compare(*sides, GrowthLimits(max_size_growth=GrowthLimit(amount=5, is_percent=True)))
    text, markdown = comparison_text(found), comparison_markdown(found)
    assert max(map(len, text.splitlines()[:-1])) <= 80
    assert "artifact_bytes              3.9 MiB    4.3 MiB  +10.0 %    5 %  failed" in text
    assert "| artifact_bytes | 3.9 MiB | 4.3 MiB | +10.0 % | 5 % | failed |" in markdown
    assert "❌ failed" in markdown


def test_the_verb_has_exit_codes(sides: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = map(str, sides)
    assert run(["compare", old, new]) == 0
    assert run(["compare", old, new, "--max-size-growth", "5%", "--markdown", str(tmp_path / "c.md")]) == 1
    assert (tmp_path / "c.md").read_text().startswith("# Changes")
    assert run(["compare", old, new, "--max-size-growth", "1MB", "--max-drift-growth", "0.5"]) == 0
    assert run(["compare", old, new, "--max-slowdown", "much"]) == 2
    capsys.readouterr()
    assert run(["compare", old, new, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "passed"
