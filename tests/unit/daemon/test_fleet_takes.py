"""What is asked of a peer depends on what its version takes of a query."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cmesh.daemon.arguments import SqlArguments
from cmesh.daemon.fleet import STATES, require_takes, sql_message
from cmesh.errors import PeerOutdated, QueueFull, by_code
from cmesh.link.link import Link
from cmesh.protocol.features import SQL, SQL_NAMED

IN_ORDER: dict[str, Any] = {"sql": "SELECT ?", "parameters": ["x"]}
BY_NAME: dict[str, Any] = {"sql": "SELECT $x", "parameters": {"x": "x"}}


@pytest.mark.parametrize(
    ("takes", "given", "said"),
    [
        ((), IN_ORDER, "answers no queries"),
        ((SQL,), IN_ORDER, ""),
        ((SQL,), BY_NAME, "takes no parameters by name"),
        ((SQL, SQL_NAMED), BY_NAME, ""),
    ],
)
def test_a_peer_is_asked_what_its_version_takes(
    takes: tuple[str, ...], given: dict[str, Any], said: str
):
    link = cast("Link", SimpleNamespace(opened=SimpleNamespace(takes=takes, software="cmesh 0")))
    arguments = SqlArguments.model_validate(given)
    if not said:
        require_takes(link, "box", arguments)
        return
    with pytest.raises(PeerOutdated, match=said):
        require_takes(link, "box", arguments)


@pytest.mark.parametrize(
    ("given", "in_order", "by_name"), [(IN_ORDER, ("x",), {}), (BY_NAME, (), {"x": "x"})]
)
def test_values_go_out_as_they_were_given(
    given: dict[str, Any], in_order: tuple[str, ...], by_name: dict[str, str]
):
    message = sql_message("q", SqlArguments.model_validate(given))
    assert (message.parameters, message.named) == (in_order, by_name)


def test_each_state_is_told_by_a_code_that_there_is():
    assert {code: by_code(code).code for code in STATES} == {code: code for code in STATES}
    assert STATES[QueueFull.code] == "over_limit"
