"""Frozen dataclasses to plain JSON values and back; reading refuses what the dataclass does not announce."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from edgeq.errors import CorruptInputError

T = TypeVar("T")
_NOT_FINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_SCALARS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def to_plain(value: object) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """Dataclasses, tuples, dicts and enums as dicts, lists and scalars that `json.dumps(allow_nan=False)` accepts.

    Floats that JSON cannot hold become the strings "Infinity", "-Infinity" and "NaN".
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def from_plain(kind: type[T], data: object, where: str) -> T:
    """Build `kind` from plain JSON values. `where` names the place for messages, such as "report.json".

    Raises CorruptInputError for unknown, missing or wrongly typed entries.
    """
    return cast("T", _read(kind, data, where))


def _read(kind: object, data: object, where: str) -> object:
    reader = _GENERIC.get(get_origin(kind))
    if reader is not None:
        return reader(get_args(kind), data, where)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(cast("type[object]", kind), data, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _read_enum(kind, data, where)
    return data if kind is Any else _read_scalar(cast("type[object]", kind), data, where)


def _read_dataclass(kind: type[object], data: object, where: str) -> object:
    if not isinstance(data, dict):
        raise _corrupt(where, "an object", data)
    fields = {field.name: field for field in dataclasses.fields(cast("Any", kind))}
    if unknown := sorted(set(data) - set(fields)):
        raise CorruptInputError(f"{where} has the unknown entry {unknown[0]!r}.", remedy="Export it again.")
    hints = get_type_hints(kind)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _read(hints[name], data[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise CorruptInputError(f"{where} lacks {name!r}.", remedy="Export it again.")
    return kind(**values)


def _read_union(kinds: tuple[object, ...], data: object, where: str) -> object:
    """The first kind that fits; the last one's complaint where none does."""
    if data is None and type(None) in kinds:
        return None
    *first, last = (kind for kind in kinds if kind is not type(None))
    for kind in first:
        try:
            return _read(kind, data, where)
        except CorruptInputError:
            continue
    return _read(last, data, where)


def _read_literal(choices: tuple[object, ...], data: object, where: str) -> object:
    if data not in choices:
        raise _corrupt(where, f"one of {', '.join(map(str, choices))}", data)
    return data


def _read_tuple(kinds: tuple[object, ...], data: object, where: str) -> object:
    if not isinstance(data, list):
        raise _corrupt(where, "a list", data)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(data)
    if len(kinds) != len(data):
        raise _corrupt(where, f"{len(kinds)} entries", data)
    pairs = zip(kinds, data, strict=True)
    return tuple(_read(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(pairs))


def _read_dict(kinds: tuple[object, ...], data: object, where: str) -> object:
    if not isinstance(data, dict):
        raise _corrupt(where, "an object", data)
    return {key: _read(kinds[1], item, f"{where}.{key}") for key, item in data.items()}


def _read_enum(kind: type[Enum], data: object, where: str) -> Enum:
    try:
        return kind(data)
    except ValueError:
        raise _corrupt(where, f"one of {', '.join(str(item.value) for item in kind)}", data) from None


def _read_scalar(kind: type[object], data: object, where: str) -> object:
    if kind is float:
        if isinstance(data, str) and data in _NOT_FINITE:
            return _NOT_FINITE[data]
        if isinstance(data, int | float) and not isinstance(data, bool):
            return float(data)
    elif isinstance(data, kind) and (kind is bool or not isinstance(data, bool)):
        return data
    raise _corrupt(where, _SCALARS.get(kind, kind.__name__), data)


def _corrupt(where: str, expected: str, data: object) -> CorruptInputError:
    return CorruptInputError(f"{where} must be {expected}, not {str(data)[:60]!r}.", remedy="Export it again.")


_GENERIC: dict[object, Callable[[tuple[object, ...], object, str], object]] = {
    Union: _read_union,
    types.UnionType: _read_union,
    Literal: _read_literal,
    tuple: _read_tuple,
    dict: _read_dict,
}
