"""Dataclasses survive the way to JSON and back; anything else is refused with the place where it is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.core.records import from_plain, to_plain
from edgeq.errors import CorruptInputError


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Inner:
    number: int


@dataclass(frozen=True, kw_only=True)
class Other:
    text: str


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    ratio: float
    flag: bool
    maybe: int | None
    either: Inner | Other
    pair: tuple[int, int]
    many: tuple[Inner, ...]
    table: dict[str, int]
    colour: Colour
    choice: Literal["a", "b"]
    anything: Any
    default: int = 5


OUTER = Outer(
    name="x",
    ratio=0.5,
    flag=True,
    maybe=None,
    either=Other(text="t"),
    pair=(1, 2),
    many=(Inner(number=1), Inner(number=2)),
    table={"a": 1},
    colour=Colour.RED,
    choice="b",
    anything={"free": [1, "form"]},
)


def test_round_trip_through_json_text() -> None:
    text = json.dumps(to_plain(OUTER), allow_nan=False)
    assert from_plain(Outer, json.loads(text), "x") == OUTER


def test_defaults_may_be_absent() -> None:
    plain = to_plain(OUTER)
    del plain["default"]
    assert from_plain(Outer, plain, "x").default == 5


@given(st.floats())
def test_every_float_survives(value: float) -> None:
    text = json.dumps(to_plain((value,)), allow_nan=False)
    (back,) = from_plain(tuple[float, ...], json.loads(text), "x")
    assert back == value or (math.isnan(back) and math.isnan(value))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", 5, "x.name must be a string"),
        ("ratio", "half", "x.ratio must be a number"),
        ("ratio", True, "x.ratio must be a number"),
        ("flag", 1, "x.flag must be true or false"),
        ("maybe", "1", "x.maybe must be an integer"),
        ("maybe", True, "x.maybe must be an integer"),
        ("either", {"number": "1"}, "x.either has the unknown entry 'number'"),
        ("pair", [1], "x.pair must be 2 entries"),
        ("pair", "12", "x.pair must be a list"),
        ("many", [{"number": 1}, {}], r"x.many\[1\] lacks 'number'"),
        ("many", [5], r"x.many\[0\] must be an object"),
        ("table", [], "x.table must be an object"),
        ("table", {"a": "b"}, "x.table.a must be an integer"),
        ("colour", "blue", "x.colour must be one of red"),
        ("choice", "c", "x.choice must be one of a, b"),
        ("extra", 1, "x has the unknown entry 'extra'"),
    ],
)
def test_wrong_values_are_refused_where_they_are(field: str, value: object, message: str) -> None:
    with pytest.raises(CorruptInputError, match=message):
        from_plain(Outer, {**to_plain(OUTER), field: value}, "x")


@pytest.mark.parametrize("field", ["name", "many", "anything"])
def test_missing_fields_are_refused(field: str) -> None:
    plain = to_plain(OUTER)
    del plain[field]
    with pytest.raises(CorruptInputError, match=f"x lacks '{field}'"):
        from_plain(Outer, plain, "x")
