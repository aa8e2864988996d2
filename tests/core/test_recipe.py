"""Rules and plans."""

from __future__ import annotations

from edgeq.core.recipe import Assignment, Plan, Rule, matching_rule
from edgeq.core.scheme import Scheme

FOUR = Rule(tensors="*", scheme=Scheme(bits=4), method="rtn")
EIGHT = Rule(tensors="layers.?.down.*", scheme=Scheme(bits=8), method="rtn")


def test_the_last_matching_rule_wins() -> None:
    assert matching_rule((FOUR, EIGHT), "layers.1.down.weight") is EIGHT
    assert matching_rule((EIGHT, FOUR), "layers.1.down.weight") is FOUR
    assert matching_rule((FOUR, EIGHT), "layers.10.down.weight") is FOUR


def test_globs_mind_the_case() -> None:
    assert matching_rule((EIGHT,), "Layers.1.down.weight") is None
    assert matching_rule((), "anything") is None


def test_a_plan_answers_for_tensors_it_does_not_name() -> None:
    plan = Plan(assignments={"w": Assignment(scheme=FOUR.scheme, method="rtn")})
    assert plan.scheme("w") == FOUR.scheme
    assert plan.scheme("norm") is None
