"""Recipes as TOML: written to be read and edited, read with every key checked."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import TypeVar

from edgeq.core.recipe import Recipe, Rule
from edgeq.core.records import from_plain
from edgeq.core.scheme import Scheme
from edgeq.errors import CorruptInputError, UnknownNameError, UsageError

HEADER = """\
# A recipe of edgeq. Use it with `--recipe FILE`, with export or quantize.
# `bits` is for linears and `embedding_bits` for embeddings and the head, where no rule says otherwise.
# A rule gives the weights that its `tensors` match (names, or patterns with *) one scheme; later rules win.
# group_size counts the inputs that share a scale; "channel" is one scale per output.
"""
CHANNEL = "channel"
T = TypeVar("T")
_SCHEME_KEYS = tuple(field.name for field in fields(Scheme))
_RECIPE_KEYS = tuple(field.name for field in fields(Recipe))


def recipe_to_toml(recipe: Recipe) -> str:
    """The recipe as text that `recipe_from_toml` reads back. Neighbouring rules of one scheme and method are one table,
    unless that would change which rule is the last."""
    lines = [HEADER, *_lines({name: getattr(recipe, name) for name in _RECIPE_KEYS if name != "rules"})]
    for rule, tensors in _merged(recipe.rules):
        lines += ["", "[[rules]]", *_lines(_scheme_values(rule.scheme)), f"method = {json.dumps(rule.method)}"]
        if len(tensors) == 1:
            lines.append(f"tensors = {_text(tensors[0])}")
        else:
            lines += ["tensors = [", *(f"    {_text(name)}," for name in tensors), "]"]
    return "\n".join(lines) + "\n"


def recipe_from_toml(text: str, where: str) -> Recipe:
    """Read a recipe. `where` names the file for messages. Raises UsageError, and UnknownNameError for unknown keys."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not TOML: {error}.", remedy="Correct that line.") from error
    _check_keys(table, _RECIPE_KEYS, where)
    entries = table.pop("rules", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"The rules of {where} are not tables.", remedy="Begin each with [[rules]].")
    rules = [rule for number, entry in enumerate(entries, 1) for rule in _rules(entry, f"{where}, rule {number}")]
    return replace(_checked(Recipe, _grouped(table), where), rules=tuple(rules))


def _merged(rules: tuple[Rule, ...]) -> list[tuple[Rule, list[str]]]:
    """Rules by scheme and method, in the order of the first; in their own order where a pattern could overlap."""
    is_plain = not any(set(rule.tensors) & set("*?[") for rule in rules) and len(
        {rule.tensors for rule in rules}
    ) == len(rules)
    merged: list[tuple[Rule, list[str]]] = []
    places: dict[tuple[Scheme, str], int] = {}
    for rule in rules:
        key = (rule.scheme, rule.method)
        place = places.get(key)
        if place is None or not (is_plain or place == len(merged) - 1):
            places[key] = len(merged)
            merged.append((rule, [rule.tensors]))
        else:
            merged[place][1].append(rule.tensors)
    return merged


def _scheme_values(scheme: Scheme) -> dict[str, object]:
    """What tells the scheme from others of its bits; what has no meaning at 16 bits, or is as usual, is left out."""
    if scheme.is_float:
        return {"bits": scheme.bits}
    usual = Scheme(bits=4)
    always = ("bits", "group_size", "symmetric")
    values = {name: getattr(scheme, name) for name in _SCHEME_KEYS}
    kept = {name: value for name, value in values.items() if name in always or value != getattr(usual, name)}
    return {**kept, "group_size": CHANNEL if scheme.group_size is None else scheme.group_size}


def _lines(values: Mapping[str, object]) -> Iterator[str]:
    """Keys with values, those without a value left out."""
    for name, value in values.items():
        if value is not None:
            yield f"{name} = {json.dumps(value)}"


def _text(name: str) -> str:
    """A TOML string: JSON's escapes are TOML's, apart from one that names do not hold."""
    return json.dumps(name, ensure_ascii=False)


def _rules(entry: dict[str, object], where: str) -> Iterator[Rule]:
    _check_keys(entry, ("tensors", "method", *_SCHEME_KEYS), where)
    tensors, method = entry.pop("tensors", None), entry.pop("method", "auto")
    names = [tensors] if isinstance(tensors, str) else tensors
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{where} names no tensors.", remedy='Write tensors = "model.layers.0.*", or a list.')
    if not isinstance(method, str):
        raise UsageError(f"{where} has the method {method!r}.", remedy='Write method = "auto".')
    scheme = _checked(Scheme, _grouped(entry), where)
    for name in names:
        yield Rule(tensors=name, scheme=scheme, method=method)


def _grouped(table: dict[str, object]) -> dict[str, object]:
    """`"channel"` is no group size in a scheme."""
    return {**table, "group_size": None} if table.get("group_size") == CHANNEL else table


def _check_keys(table: Mapping[str, object], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"Use one of {', '.join(known)}."
            raise UnknownNameError(f"{where} has the unknown key {key!r}.", remedy=remedy)


def _checked(kind: type[T], table: dict[str, object], where: str) -> T:
    try:
        return from_plain(kind, table, where)
    except CorruptInputError as error:
        raise UsageError(error.what, remedy="Correct the recipe.") from error
