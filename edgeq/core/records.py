"""Frozen dataclasses to plain JSON values and back; reading refuses what the dataclass does not announce."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from edgeq.errors import CorruptInputError

T = TypeVar("T")
_NOT_FINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def to_plain(value: object) -> Any:
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


def _read(kind: Any, data: object, where: str) -> Any:
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(cast("type[Any]", kind), data, where)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_union(get_args(kind), data, where)
    if origin is Literal:
        if data not in get_args(kind):
            raise _corrupt(where, f"one of {', '.join(map(str, get_args(kind)))}", data)
        return data
    if origin is tuple:
        return _read_tuple(get_args(kind), data, where)
    if origin is dict:
        if not isinstance(data, dict):
            raise _corrupt(where, "an object", data)
        value_kind = get_args(kind)[1]
        return {key: _read(value_kind, item, f"{where}.{key}") for key, item in data.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _read_enum(kind, data, where)
    return _read_scalar(kind, data, where)


def _read_dataclass(kind: type[Any], data: object, where: str) -> Any:
    if not isinstance(data, dict):
        raise _corrupt(where, "an object", data)
    fields = {field.name: field for field in dataclasses.fields(kind)}
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


def _read_union(kinds: tuple[Any, ...], data: object, where: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    candidates = [kind for kind in kinds if kind is not type(None)]
    for kind in candidates[:-1]:
        try:
            return _read(kind, data, where)
        except CorruptInputError:
            continue
    return _read(candidates[-1], data, where)


def _read_tuple(kinds: tuple[Any, ...], data: object, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _corrupt(where, "a list", data)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(data)
    if len(kinds) != len(data):
        raise _corrupt(where, f"{len(kinds)} entries", data)
    return tuple(_read(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(zip(kinds, data, strict=True)))


def _read_enum(kind: type[Enum], data: object, where: str) -> Enum:
    try:
        return kind(data)
    except ValueError:
        raise _corrupt(where, f"one of {', '.join(str(item.value) for item in kind)}", data) from None


def _read_scalar(kind: Any, data: object, where: str) -> Any:
    if kind is float:
        if isinstance(data, str) and data in _NOT_FINITE:
            return _NOT_FINITE[data]
        if isinstance(data, int | float) and not isinstance(data, bool):
            return float(data)
        raise _corrupt(where, "a number", data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise _corrupt(where, {int: "an integer", str: "a string", bool: "true or false"}.get(kind, str(kind)), data)
    return data


def _corrupt(where: str, expected: str, data: object) -> CorruptInputError:
    return CorruptInputError(f"{where} must be {expected}, not {str(data)[:60]!r}.", remedy="Export it again.")
