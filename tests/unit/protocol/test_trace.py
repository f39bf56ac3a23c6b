"""Trace ids: taken over where a header counts, made of a task's id where none does."""

import pytest

from cmesh.model import TaskId
from cmesh.protocol.trace import header, of_group, trace_id

TASK = TaskId("0198c0de-1111-7aaa-8bbb-0123456789ab")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = f"00-{TRACE}-00f067aa0ba902b7-01"


def test_a_task_without_a_trace_begins_one_of_its_own_id() -> None:
    assert header(TASK) == "00-0198c0de11117aaa8bbb0123456789ab-8bbb0123456789ab-01"


@pytest.mark.parametrize("within", [GIVEN, TRACE, f"cc-{TRACE}-00f067aa0ba902b7-01-later"])
def test_a_trace_goes_on_and_the_task_is_its_next_span(within: str) -> None:
    sent = header(TASK, within=within)
    assert sent == f"00-{TRACE}-8bbb0123456789ab-01"
    assert trace_id(sent) == TRACE


@pytest.mark.parametrize(
    "within",
    [
        "",
        "0" * 32,
        TRACE.upper(),
        GIVEN.upper(),
        f"{GIVEN}-more",
        f"ff{GIVEN[2:]}",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{GIVEN}\n",
        "'; DROP TABLE log; --",
    ],
)
def test_what_is_no_header_begins_a_new_trace(within: str) -> None:
    assert trace_id(within) == ""
    assert header(TASK, within=within) == header(TASK)


def test_a_group_has_one_trace_that_anybody_can_compute() -> None:
    assert of_group("g-0123456789abcdef") == "2bf00ae4e9adfbd10ac9d21cbcbd27f0"
    assert trace_id(header(TASK, within=of_group("g-1"))) == of_group("g-1")
