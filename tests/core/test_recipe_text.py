"""Recipes as TOML: the round trip, edits by hand, and what is refused."""

from __future__ import annotations

import pytest

from edgeq.core.recipe import Recipe, Rule
from edgeq.core.recipe_text import recipe_from_toml, recipe_to_toml
from edgeq.core.scheme import Scheme
from edgeq.errors import UnknownNameError, UsageError

FOUR = Scheme(bits=4, group_size=64)
CHANNELS = Scheme(bits=8, group_size=None, symmetric=True, scale_dtype="bfloat16", signed_scales=False)
PALETTE = Scheme(bits=6, group_size=None, symmetric=True, scale_dtype="float16", codebook="palette", palette_rows=16)


def rule(tensors: str, scheme: Scheme, method: str = "auto") -> Rule:
    return Rule(tensors=tensors, scheme=scheme, method=method)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(bits=8, method="rtn", group_size=32, symmetric=True, embedding_bits=4),
        Recipe(rules=(rule("a.weight", FOUR), rule("b.weight", FOUR), rule('odd "name"', PALETTE, "kmeans"))),
        Recipe(rules=(rule("layers.*", FOUR), rule("layers.1.*", CHANNELS), rule("layers.1.up", FOUR))),
        Recipe(rules=(rule("a", Scheme(bits=16)),)),
    ],
)
def test_round_trip(recipe: Recipe) -> None:
    assert recipe_from_toml(recipe_to_toml(recipe), "r.toml") == recipe


def test_weights_with_one_scheme_are_one_table() -> None:
    recipe = Recipe(rules=(rule("a", FOUR), rule("b", CHANNELS), rule("c", FOUR)))
    text = recipe_to_toml(recipe)
    assert text.count("[[rules]]") == 2
    assert 'group_size = "channel"' in text
    assert {(r.tensors, r.scheme) for r in recipe_from_toml(text, "r").rules} == {
        ("a", FOUR),
        ("b", CHANNELS),
        ("c", FOUR),
    }


def test_patterns_keep_their_order() -> None:
    recipe = Recipe(rules=(rule("*", FOUR), rule("b*", CHANNELS), rule("bb", FOUR)))
    assert recipe_from_toml(recipe_to_toml(recipe), "r").rules == recipe.rules


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("bits = ", "r.toml is not TOML"),
        ("rules = 3", "not tables"),
        ("bits = 'four'", "must be an integer"),
        ("[[rules]]\nbits = 4", "names no tensors"),
        ("[[rules]]\ntensors = 'a'", "lacks 'bits'"),
        ("[[rules]]\ntensors = 'a'\nbits = 5", "5 bits cannot be stored"),
        ("[[rules]]\ntensors = 'a'\nbits = 4\nmethod = 4", "has the method 4"),
    ],
)
def test_what_makes_no_recipe_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        recipe_from_toml(text, "r.toml")


@pytest.mark.parametrize("text", ["bts = 4", "[[rules]]\ntensors = 'a'\nbts = 4"])
def test_unknown_keys_get_a_suggestion(text: str) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'bits'"):
        recipe_from_toml(text, "r.toml")
