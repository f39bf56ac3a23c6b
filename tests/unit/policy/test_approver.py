"""Whose word counts on the approvals page of the tailnet, and for which task."""

from typing import Any

import pytest

from cmesh.model import NodeId
from cmesh.policy.approver import no_answer, no_approver
from tests.unit.policy.support import ALICE, LAPTOP, THIRD, grant, node, user, who

PHONE = NodeId("nPHONE")


def phone(**changes: Any) -> Any:
    return who(**{"node_id": PHONE, "name": "phone.tail.example", **changes})


@pytest.mark.parametrize("named", [node(PHONE), user(ALICE)])
def test_who_is_named_may_answer_what_others_ask(named: Any):
    assert no_answer(phone(), (named,), LAPTOP, (THIRD,)) == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"node_id": NodeId("nOTHER"), "user": "eve@example.com"}, "not among"),
        ({"expired": True}, "expired"),
        ({"shared": True}, "another tailnet"),
        ({"router": True}, "routes"),
        ({"user": "", "node_id": NodeId("nOTHER"), "tags": ("tag:phone",)}, "not among"),
    ],
)
def test_nobody_else_is_an_approver(changes: dict[str, Any], why: str):
    named = (node(PHONE), user(ALICE))
    assert why in no_approver(phone(**changes), named)
    assert why in no_answer(phone(**changes), named, LAPTOP, ())


def test_without_names_nobody_is():
    assert no_approver(phone(), ())
    assert no_approver(phone(tags=("tag:laptop",)), (user(ALICE), grant()))


def test_who_asked_or_led_here_answers_nothing_of_it():
    mine = (user(ALICE),)  # all of these devices are hers
    assert "asked" in no_answer(who(), mine, LAPTOP, ())
    assert "chain" in no_answer(phone(), mine, LAPTOP, (PHONE, THIRD))
    assert "chain" in no_answer(phone(), mine, LAPTOP, (THIRD, PHONE))
    assert no_answer(phone(), mine, LAPTOP, (THIRD,)) == ""
