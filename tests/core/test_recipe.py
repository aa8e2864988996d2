"""Rules and plans."""

from __future__ import annotations

from edgeq.core.recipe import Assignment, Plan, Rule
from edgeq.core.scheme import Scheme

FOUR = Rule(tensors="*", scheme=Scheme(bits=4), method="rtn")


def test_a_plan_answers_for_tensors_it_does_not_name() -> None:
    plan = Plan(assignments={"w": Assignment(scheme=FOUR.scheme, method="rtn")})
    assert plan.scheme("w") == FOUR.scheme
    assert plan.scheme("norm") is None
