"""Whether a bundle's text graphs read and write text as its tokenizer does, and what they hold while they do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.core.artifact import TextGraphs
from edgeq.core.records import to_plain
from edgeq.core.report import Gate, TokenizerSection
from edgeq.errors import BadInputError
from edgeq.runtimes.generation import load_tokenizer
from edgeq.runtimes.hard_texts import hard_texts
from edgeq.validation.configurations import Configuration
from edgeq.validation.drift import embedding_drift
from edgeq.validation.gates import LOWERING_COSINE, Criteria, at_least, batch_gate, memory_gates, same
from edgeq.validation.reference_set import ReferenceSet
from edgeq.validation.running import Run, RunLimits, completed, run_child
from edgeq.validation.subject import Subject
from edgeq.validation.text_child import ANSWERS

_SHOWN = 40
_PREFIX = "text_"


@dataclass(frozen=True, kw_only=True)
class TextJudgement:
    """Gates of the run that reads text, and the report's section on it. `missing` says why it could not run, "" where
    it did."""

    section: TokenizerSection
    gates: tuple[Gate, ...] = ()
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """What the graphs are asked, and what the bundle's tokenizer answers. rows: ids, whole and cut within a text, that
    are to be spelled. sentences: texts of reference sequences, with the index of each."""

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    rows: tuple[tuple[int, ...], ...]
    spelled: tuple[str, ...]
    sentences: tuple[tuple[int, str], ...]


def section_of(text: TextGraphs | None) -> TokenizerSection:
    """The section of a bundle before its text graphs have run."""
    return TokenizerSection() if text is None else TokenizerSection(form="graph", extensions=text.extensions)


def judge_text(
    subject: Subject,
    graphs: TextGraphs,
    configuration: Configuration,
    *,
    references: ReferenceSet,
    criteria: Criteria,
    limits: RunLimits,
    directory: Path,
) -> TextJudgement:
    """Run the text graphs under the limits, with `directory`, which is empty, for what the child writes."""
    section = section_of(graphs)
    try:
        asked = _texts(subject, references)
    except BadInputError as error:
        gate = same(f"{_PREFIX}tokenizer", "unreadable", "readable", error.what)
        return TextJudgement(section=section, gates=(gate,))
    request = {
        "text": to_plain(graphs),
        "texts": asked.texts,
        "rows": asked.rows,
        "sentences": [sentence for _, sentence in asked.sentences],
    }
    done = run_child(subject, configuration, (), limits, directory=directory, work="text", more=request)
    if done.result.get("status") == "runtime_missing":
        return TextJudgement(section=section, missing=str(done.result["reason"]))
    judged = _judged(subject, done, asked, section, directory)
    if judged.section.strings and asked.sentences:
        gates = _embedding_gates(asked, done.result, references, criteria, directory / "artifact")
        judged = replace(judged, gates=(*judged.gates, *gates))
    return judged


def _texts(subject: Subject, references: ReferenceSet) -> _Texts:
    """Raises CorruptInputError where the bundle has no tokenizer to compare with."""
    path = subject.tokenizer or subject.directory / "tokenizer.json"
    tokenizer, longest = load_tokenizer(path), subject.interface.context_length
    texts = hard_texts(tokenizer, longest)
    if subject.interface.task == "text-generation":
        ids = tuple(tuple(tokenizer.encode(text).ids) for text in texts)
        rows = tuple(row[:length] for row in ids for length in (len(row), len(row) // 2))
        spelled = tuple(tokenizer.decode(list(row), skip_special_tokens=True) for row in rows)
        return _Texts(texts=texts, ids=ids, rows=rows, spelled=spelled, sentences=())
    tokenizer.enable_truncation(longest)
    ids = tuple(tuple(tokenizer.encode(text).ids) for text in texts)
    spellings = enumerate(tokenizer.decode_batch([list(row) for row in references.sequences], skip_special_tokens=True))
    sentences = [one for one in spellings if tuple(tokenizer.encode(one[1]).ids) == references.sequences[one[0]]]
    return _Texts(texts=texts, ids=ids, rows=(), spelled=(), sentences=tuple(sentences))


def _judged(subject: Subject, done: Run, asked: _Texts, section: TokenizerSection, directory: Path) -> TextJudgement:
    """From what the child left: memory, that it came to its end, and what it read and wrote."""
    gates: tuple[Gate, ...] = ()
    if done.memory is not None:
        gates += memory_gates(done.memory, done.outcome.failure)
        section = replace(section, peak_dirty_bytes=done.memory.peak_dirty_bytes)
    gates += (completed(done, directory, subject),)
    gates = tuple(replace(gate, name=_PREFIX + gate.name) for gate in gates)
    if not done.outcome.survived or done.result.get("status") != "done":
        return TextJudgement(section=section, gates=gates)
    answers = json.loads((directory / ANSWERS).read_text(encoding="utf-8"))
    gate, section = _compare(asked, answers, section)
    return TextJudgement(section=section, gates=(gate, *gates))


def _compare(asked: _Texts, answers: dict[str, Any], section: TokenizerSection) -> tuple[Gate, TokenizerSection]:
    """How many texts the graphs read, and for a decoder also write, as the tokenizer does."""
    problems = [""] * len(asked.texts)
    for index, (text, wanted, found) in enumerate(zip(asked.texts, asked.ids, answers["ids"], strict=True)):
        if list(wanted) != found:
            problems[index] = f"of {text[:_SHOWN]!r} the graph makes {_short(found)}, the tokenizer {_short(wanted)}"
    for index, (right, written) in enumerate(zip(asked.spelled, answers["spelled"], strict=True)):
        if right != written:
            problems[index // 2] = f"the graph writes {written[:_SHOWN]!r}, the tokenizer {right[:_SHOWN]!r}"
    wrong = [problem for problem in problems if problem]
    count = len(problems)
    gate = same("tokenizer_graph", f"{count - len(wrong)} of {count}", f"{count} of {count}", wrong[0] if wrong else "")
    return gate, replace(section, strings=count, equal=count - len(wrong))


def _short(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return f"[{shown}{', ...' if len(ids) > 8 else ''}]"


def _embedding_gates(
    asked: _Texts, result: dict[str, Any], references: ReferenceSet, criteria: Criteria, answers: Path
) -> tuple[Gate, ...]:
    """Strings in, embeddings out: as the dequantized model in torch says, and the same within a batch."""
    wanted = [np.atleast_2d(references.dequantized_values(index)) for index, _ in asked.sentences]
    found = [np.atleast_2d(np.load(answers / f"{index:04d}.npy")) for index in range(len(asked.sentences))]
    if any(one.shape != other.shape for one, other in zip(wanted, found, strict=True)):
        return (same(f"{_PREFIX}shape", "another", "as the reference's", "its answers have another shape"),)
    drift = embedding_drift(np.concatenate(wanted), np.concatenate(found))
    batch = batch_gate(float(result["batch_cosine_min"]), criteria)
    return (
        at_least(f"{_PREFIX}cosine_mean", drift.cosine_mean, LOWERING_COSINE[criteria.numerics]),
        replace(batch, name=_PREFIX + batch.name),
    )
