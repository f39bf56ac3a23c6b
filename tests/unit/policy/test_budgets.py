"""Limits of turns and tokens, and budgets of a day."""

from dataclasses import replace
from typing import Any

import pytest

from cmesh.model import DayUse, Limits
from cmesh.policy.decide import Decision, decide_inbound
from cmesh.policy.rules import RuleLimits
from tests.unit.policy.support import allow, asks, inbound

ALL = frozenset({"turns", "tokens"})


def decided(limits: RuleLimits, **changes: Any) -> Decision:
    request = asks(**{"reports": ALL, **changes})
    return decide_inbound(request, inbound(allow(limits=limits)))


def given(decision: Decision) -> Limits:
    assert decision.limits is not None, decision.reason
    return decision.limits


@pytest.mark.parametrize("name", ["turns", "tokens"])
def test_the_smaller_one_of_a_wish_and_a_rule_holds(name: str) -> None:
    rule = replace(RuleLimits(), **{name: 10})
    assert getattr(given(decided(rule)), name) == 10
    assert getattr(given(decided(rule, **{name: 7})), name) == 7
    assert getattr(given(decided(rule, **{name: 70})), name) == 10
    assert getattr(given(decided(RuleLimits(), **{name: 70})), name) == 70


@pytest.mark.parametrize("name", ["turns", "tokens"])
def test_a_limit_that_the_runner_does_not_tell_is_refused(name: str) -> None:
    rule = replace(RuleLimits(), **{name: 10})
    for decision in (decided(rule, reports=ALL - {name}), decided(rule, reports=frozenset())):
        assert (decision.effect, decision.code) == ("deny", "policy_denied")
        assert name in decision.reason
    wish = decided(RuleLimits(), reports=frozenset(), **{name: 10})
    assert wish.change == f"ask without a limit of {name}, or for a runner that tells its {name}"


BUDGETS = {
    "cost_usd_per_day": (RuleLimits(cost_usd_per_day=10.0), "cost_usd", 10.0),
    "tokens_per_day": (RuleLimits(tokens_per_day=10), "tokens", 10),
    "runtime_per_day": (RuleLimits(runtime_per_day_s=10), "runtime_s", 10),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_task_is_given_what_is_left_of_the_day(name: str) -> None:
    rule, limit, most = BUDGETS[name]
    assert getattr(given(decided(rule)), limit) == most
    two, three = (replace(DayUse(), **{limit: amount}) for amount in (2, 3))
    left = given(decided(rule, used=two, held=three))
    assert getattr(left, limit) == 5
    spent = replace(DayUse(), **{limit: 8})
    over = decided(rule, used=two, held=spent)
    assert (over.effect, over.code) == ("deny", "busy")
    assert [failed.condition for failed in over.failed] == [name]
    assert over.change.startswith("wait for a task of this peer to end, or ")


@pytest.mark.parametrize("name", ["cost_usd_per_day", "tokens_per_day"])
def test_a_budget_of_the_day_takes_a_runner_that_tells(name: str) -> None:
    rule, limit, _most = BUDGETS[name]
    decision = decided(rule, reports=frozenset(), reports_cost=False)
    assert (decision.effect, decision.code) == ("deny", "policy_denied")
    assert limit in decision.reason
