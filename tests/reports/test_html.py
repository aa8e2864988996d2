"""The HTML page: all figures of a report, nothing that runs or is fetched, and text from outside that stays text."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser

import pytest

from edgeq.core.artifact import FileEntry
from edgeq.core.details import (
    Answer,
    Details,
    LayerDivergence,
    MemorySample,
    NextWord,
    TokenDivergence,
    WeightGroup,
)
from edgeq.core.frontier import Frontier, FrontierPoint
from edgeq.core.report import ClassDrift, Gate, Report, Verdict
from edgeq.errors import UsageError
from edgeq.reports.html import LARGEST, Page, reports_to_html
from edgeq.reports.html_drawing import Height
from edgeq.reports.html_drift import tint
from edgeq.reports.html_markup import element, plain
from edgeq.reports.html_words import allowance, drift_origin, drift_sentence
from tests.reports.samples import (
    MIB,
    arm64_report,
    browser_report,
    classifier_report,
    encoder_report,
    killed_report,
    language_drift,
    passed_report,
    unvalidated_report,
)

HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202eevil\x1b[31m\ud800"
ALLOWED = set(
    re.findall(
        r"\w+",
        """html head meta link title style body main mark footer article header section h1 h2 h3 p ul ol li dl dt dd div
        span code bdi a table caption thead tbody tr th td details summary svg rect line circle polyline text""",
    )
)
VOID = {"meta", "link"}
EVERY = (
    arm64_report,
    passed_report,
    classifier_report,
    encoder_report,
    killed_report,
    unvalidated_report,
    browser_report,
)


class Read(HTMLParser):
    """A page as a parser sees it: its elements with their attributes, its text, and whether they nest."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(report: Report, details: Details | None = None) -> Read:
    return Read(reports_to_html([Page(report=report, details=details or Details())]))


def recorded(report: Report) -> Report:
    """With all that a run leaves to be shown, where it ran."""

    def word(text: str) -> NextWord:
        return NextWord(text=text, probability=0.41)

    if report.drift is None or report.memory is None:
        return report
    samples = (
        MemorySample(seconds=0.0, dirty_bytes=10 * MIB, phase="load"),
        MemorySample(seconds=0.02, dirty_bytes=512 * MIB, phase="load"),
        MemorySample(seconds=0.03, dirty_bytes=100 * MIB, phase="decode"),
        MemorySample(seconds=9.0, dirty_bytes=90 * MIB, phase="decode"),
    )
    tokens = (
        TokenDivergence(text="Once", quantization=0.0, lowering=0.0, total=0.001),
        TokenDivergence(text=" upon", quantization=0.5, lowering=0.0, total=0.5),
    )
    answer = Answer(prompt="The cat sat on the", original=(word(" mat"),), exported=(word(" hat"),))
    told = dataclasses.replace(answer, both=" mat and", original_text=" purred.", exported_text=" slept <b>well</b>.")
    answers = (told, dataclasses.replace(answer, both=" mat."), answer)
    layers = tuple(LayerDivergence(layer=i, relative_error=e, cosine=1 - e) for i, e in enumerate((0.01, 0.03)))
    point = FrontierPoint(bytes=3 * MIB, bits_per_weight=4.0, drift=0.02, schemes={"int4 g32": 3, "int8 g64": 1})
    frontier = Frontier(
        points=(point, dataclasses.replace(point, bytes=5 * MIB, drift=0.001)),
        uniform=(dataclasses.replace(point, bytes=4 * MIB, drift=0.03),),
        chosen=point,
        drift_unit="nats per token",
        is_measured=True,
    )
    return dataclasses.replace(
        report,
        frontier=frontier,
        memory=dataclasses.replace(report.memory, samples=samples),
        drift=dataclasses.replace(report.drift, tokens=tokens, answers=answers, layers=layers),
    )


def full_details() -> Details:
    """All that is beside a report."""
    return Details(
        weight_groups=(
            WeightGroup(name="embedding", tensors=1, parameters=9, bytes=MIB, schemes={"int8 g64 asym": 1}),
            WeightGroup(name="rest", tensors=0, parameters=0, bytes=3 * MIB, schemes={}),
        ),
    )


@pytest.mark.parametrize("make", EVERY)
def test_every_page_is_whole_and_fetches_nothing(make: object) -> None:
    assert callable(make)
    read = page_of(recorded(make()), full_details())
    assert {tag for tag, _ in read.elements} <= ALLOWED
    addresses = [value for _, found in read.elements for key, value in found.items() if key in ("src", "href")]
    assert [value for value in addresses if value and not value.startswith(("#", "data:,"))] == []
    assert not [key for _, found in read.elements for key in found if key.startswith("on")]
    assert "url(" not in reports_to_html([Page(report=make())])
    assert "@import" not in reports_to_html([Page(report=make())])


@pytest.mark.parametrize("make", EVERY)
def test_pictures_have_words_and_tables_have_headers(make: object) -> None:
    assert callable(make)
    read = page_of(recorded(make()), full_details())
    pictures = [found for found in read.named("svg") if "preserveaspectratio" not in found]
    assert pictures
    assert all(found["role"] == "img" and found["aria-label"] for found in pictures)
    assert all(found.get("scope") in ("col", "row") for found in read.named("th"))
    assert len(read.named("h1")) == 1


def test_the_verdict_is_first_and_says_why() -> None:
    text = page_of(encoder_report()).text
    assert text.index("Not fit for android.") < text.index("drift_total_cosine_min: one sentence moved") < 400
    assert "Not proven on android." in page_of(unvalidated_report()).text
    assert "--no-validate was given" in page_of(unvalidated_report()).text
    assert "Fit for android." in page_of(passed_report()).text
    assert "All 2 gates passed" in page_of(passed_report()).text


def test_a_pass_with_a_reason_shows_its_reservation() -> None:
    text = page_of(dataclasses.replace(passed_report(), reason="two gates could not be judged")).text
    assert "Fit for android, with reservations." in text
    assert "two gates could not be judged" in text


def test_the_title_begins_with_the_worst_verdict() -> None:
    page = reports_to_html([Page(report=passed_report()), Page(report=killed_report())])
    assert "<title>failed: edgeq: 2 bundles</title>" in page
    assert "2 bundles: 1 failed, 1 passed" in Read(page).text


@pytest.mark.parametrize("name", ["model", "target", "reason", "note", "gate", "file", "platform", "backend"])
def test_text_from_outside_stays_text(name: str) -> None:
    report = browser_report()
    gate = Gate(name=HOSTILE, value=HOSTILE, limit=HOSTILE, verdict=Verdict.FAILED, reason=HOSTILE)
    assert report.memory is not None
    hostile = {
        "model": {"model": dataclasses.replace(report.model, source=HOSTILE, architecture=HOSTILE, revision=HOSTILE)},
        "target": {"target": HOSTILE},
        "reason": {"reason": HOSTILE},
        "note": {"notes": (HOSTILE,)},
        "gate": {"gates": (gate,)},
        "file": {
            "artifact": dataclasses.replace(report.artifact, files=(FileEntry(path=HOSTILE, bytes=1, sha256=HOSTILE),))
        },
        "platform": {"environment": dataclasses.replace(report.environment, platform=HOSTILE, runtime=HOSTILE)},
        "backend": {
            "backends": (dataclasses.replace(report.backends[0], name=HOSTILE, facts={HOSTILE: HOSTILE}),),
            "memory": dataclasses.replace(report.memory, phases={HOSTILE: 5 * MIB}, backend=HOSTILE),
        },
    }[name]
    page = reports_to_html([Page(report=dataclasses.replace(report, **hostile))])  # type: ignore[arg-type]
    read = Read(page)
    assert "alert(1)" in read.text or name == "gate"
    assert {tag for tag, _ in read.elements} <= ALLOWED
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\ud800-\udfff]", page)
    assert page.encode()


def test_hostile_details_stay_text() -> None:
    details = full_details()
    word = NextWord(text=HOSTILE, probability=0.5)
    hostile = dataclasses.replace(
        details, weight_groups=(dataclasses.replace(details.weight_groups[0], name=HOSTILE, schemes={HOSTILE: 1}),)
    )
    report = passed_report()
    assert report.drift is not None
    drift = dataclasses.replace(
        report.drift,
        tokens=(TokenDivergence(text=HOSTILE, quantization=0, lowering=0, total=0.3),),
        answers=(Answer(prompt=HOSTILE, original=(word,), exported=(word,)),),
    )
    read = page_of(dataclasses.replace(report, drift=drift), hostile)
    assert {tag for tag, _ in read.elements} <= ALLOWED
    assert read.text.count("<script>alert(1)</script>") >= 6


def test_markup_escapes_children_and_attributes() -> None:
    made = element("p", {"title": '"><b>'}, "<b>&amp;", None, element("i", {}, "x"))
    assert made.text == '<p title="&quot;&gt;&lt;b&gt;">&lt;b&gt;&amp;amp;<i>x</i></p>'
    assert plain("a\x00b\ud83d") == "a\ufffdb?"
    assert len(plain("x" * 10_000)) < 2100


def test_the_same_reports_give_the_same_bytes() -> None:
    pages = [Page(report=recorded(make()), details=full_details()) for make in EVERY]
    assert reports_to_html(pages) == reports_to_html(list(pages))


def test_every_gate_has_a_row_worst_first() -> None:
    bad = Gate(name="total_kld_mean", value=0.16, limit=0.08, verdict=Verdict.FAILED, reason="0.16 is above 0.08")
    report = dataclasses.replace(passed_report(), gates=(*passed_report().gates, bad))
    text = page_of(report).text
    table = text[text.index("Of the allowance") :]
    assert table.index("total_kld_mean") < table.index("peak_dirty_bytes") < table.index("drift_total_kld_mean")
    assert "200 %" in table
    assert "25 %" in table  # 512 MiB of 2 GiB


@pytest.mark.parametrize(
    ("name", "value", "limit", "share"),
    [
        ("total_kld_mean", 0.02, 0.08, 0.25),
        ("total_top1_agreement", 0.93, 0.86, 0.5),
        ("total_top1_agreement", 0.79, 0.86, 1.5),
        ("total_perplexity_ratio", 1.02, 1.08, 0.25),
        ("total_perplexity_ratio", 0.98, 1.08, 0.0),
        ("total_kld_mean", float("inf"), 0.08, float("inf")),
        ("total_kld_mean", 0.1, 0.0, None),
        ("tokenizer", "as expected", "as expected", None),
        ("peak_dirty_bytes", 5.0, None, None),
    ],
)
def test_allowances(name: str, value: float | str, limit: float | str | None, share: float | None) -> None:
    found = allowance(Gate(name=name, value=value, limit=limit, verdict=Verdict.PASSED))
    assert found == (None if share is None else pytest.approx(share))


def test_drift_in_words() -> None:
    words = drift_sentence(language_drift(0.0317))
    assert words.startswith("94 of 100 next tokens")
    assert "loses 3.1 % of its probability" in words  # 1 - exp(-0.0317)
    broken = dataclasses.replace(language_drift(0.1), kld_mean=float("inf"))
    assert drift_sentence(broken).startswith("The predictions are broken")
    encoder = encoder_report().drift
    assert encoder is not None
    assert "0.9712 of its direction" in drift_sentence(encoder.total)


def test_where_the_drift_comes_from() -> None:
    drift = passed_report().drift
    assert drift is not None
    assert drift_origin(drift).startswith("Nearly all of the change is the price of fewer bits")
    turned = dataclasses.replace(drift, quantization=drift.lowering, lowering=drift.quantization)
    assert drift_origin(turned).startswith("Most of the change happens in the runtime")
    both = dataclasses.replace(drift, lowering=language_drift(0.01))
    assert drift_origin(both).startswith("Fewer bits and the runtime both")


def test_memory_is_drawn_against_its_limit_where_it_is_near() -> None:
    assert "far above this picture" in page_of(passed_report()).text  # four times the peak
    near = killed_report()
    page = reports_to_html([Page(report=near)])
    assert "limit 20.0 MiB</text>" in page
    assert 'class="bar bad"' in page
    assert "The process was ended by the limit." in Read(page).text


def test_samples_take_the_place_of_phases() -> None:
    read = page_of(recorded(passed_report()))
    labels = [found.get("aria-label") or "" for found in read.named("svg")]
    assert "Memory over time: load up to 512.0 MiB, write up to 100.0 MiB; limit 2.0 GiB." in labels
    assert "load0.03 s" in read.text  # a short phase is as wide as a long one, and says how long it was
    assert "write8.97 s" in read.text
    assert not [label for label in labels if label.startswith("Peak memory by phase")]


def test_details_are_shown_where_they_are_known_only() -> None:
    titles = ("Where the bytes are", "Change by token", "Change by layer", "The same prompt", "Size and drift of")
    with_details = page_of(recorded(passed_report()), full_details()).text
    without = page_of(passed_report()).text
    assert [title for title in titles if title not in with_details] == []
    assert [title for title in titles if title in without] == []
    assert "Everything else takes most: 75 % of 4.0 MiB" in with_details
    assert "Chosen: 3.0 MiB of weights, 75 % as int4 g32, 25 % as int8 g64." in with_details
    assert "1 of 2 texts are the same. From where the others part" in with_details
    assert "keeps 0.9700 of its direction" in with_details
    assert "Most after \u201cupon\u201d: 0.5 nats" in with_details


@pytest.mark.parametrize(("divergence", "step"), [(0.0, 0), (0.01, 1), (0.19, 2), (5.0, 4), (float("nan"), 4)])
def test_tints_rise_with_the_divergence(divergence: float, step: int) -> None:
    assert tint(divergence) == step


@pytest.mark.parametrize("most", [1, 37 * MIB, 2048 * MIB, 6 * 2**40])
def test_axes_have_a_few_round_sizes(most: int) -> None:
    lines = [line.text for line in Height(most, 200).grid()]
    assert 2 <= sum("<line" in line for line in lines) <= 6


def test_every_run_is_a_row() -> None:
    text = page_of(arm64_report()).text
    assert "arm64, cortex-a76" in text
    assert "from x86_64" in text
    assert "Limited by cgroup v2, measured on x86_64." in text
    text = page_of(browser_report()).text
    assert "q4 on wasm, 2 threads" in text
    assert "fallback nodes Range x2" in text
    assert "The adapter has no shader-f16." in text


def test_thousands_of_files_notes_and_gates_leave_a_page_that_opens() -> None:
    report = passed_report()
    files = tuple(FileEntry(path=f"model/{index}", bytes=MIB, sha256="e" * 64) for index in range(5000))
    report = dataclasses.replace(
        report, artifact=dataclasses.replace(report.artifact, files=files), notes=("a note",) * 5000
    )
    page = reports_to_html([Page(report=report)] * 10)
    assert len(page.encode()) < LARGEST
    assert "and 4,800 more, 4.7 GiB" in Read(page).text
    assert "4,900 more, in report.json" in Read(page).text


def test_too_many_reports_lose_their_files_first() -> None:
    report = passed_report()
    files = tuple(FileEntry(path=f"model/{index}", bytes=MIB, sha256="e" * 64) for index in range(200))
    long = dataclasses.replace(report, artifact=dataclasses.replace(report.artifact, files=files))
    page = reports_to_html([Page(report=recorded(long), details=full_details())] * 30)
    assert len(page.encode()) < LARGEST
    assert "Model files" not in page
    assert "Change by token" not in page
    assert "Where the bytes are" in page


def test_more_reports_than_fit_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"larger than 1,000,000 bytes\. Render fewer"):
        reports_to_html([Page(report=browser_report())] * 200)
    with pytest.raises(UsageError, match="no report to show"):
        reports_to_html([])


def test_a_classifier_s_drift_is_told_by_its_answers() -> None:
    text = page_of(classifier_report()).text
    assert "31 of 32 answers are the original's own first choice" in text
    assert "96.9 %" in text
    assert "nats per answer" in text
    broken = classifier_report().drift
    assert broken is not None
    assert isinstance(broken.total, ClassDrift)
    assert "no chance at all" in drift_sentence(dataclasses.replace(broken.total, kld_mean=math.inf))
