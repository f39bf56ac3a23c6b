from datetime import timedelta, timezone
from typing import Any

import pytest

from cmesh.errors import LocalProtocolError, RemoteProtocolError
from cmesh.model import Event, Limits, NodeId, TaskSpec
from cmesh.protocol.codec import decode, encode
from cmesh.protocol.convert import (
    DATA_CHARACTERS,
    EVENT_DATA_BYTES,
    EVENT_TEXT_CHARACTERS,
    event_from,
    event_message,
    inline_output,
    outcome_from,
    result_from,
    spec_from,
    submit,
)
from cmesh.protocol.messages import EventMessage, ResultMessage, Submit
from cmesh.protocol.outcome import Outcome
from tests.unit.protocol.builders import TASK, THEN, result, task_spec

HELLO = b"hello"


def over_the_wire(spec: TaskSpec) -> TaskSpec:
    message = decode(encode(submit(spec)))
    assert isinstance(message, Submit)
    return spec_from(message)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"limits": Limits(cost_usd=None)},
        {"limits": Limits(cost_usd=0.1, runtime_s=1, output_bytes=0)},
        {"prompt": "zwölf Boxkämpfer\n\t\u202e\x00", "accept": (), "origin": (), "traceparent": ""},
        {"not_after": THEN.replace(microsecond=120_000)},
        {"not_after": THEN.astimezone(timezone(timedelta(hours=2)))},
    ],
)
def test_a_task_and_its_hash_survive_the_wire(change: dict[str, object]) -> None:
    spec = task_spec(**change)
    again = over_the_wire(spec)
    assert again == spec
    assert again.payload_hash() == spec.payload_hash()


def test_a_task_with_a_field_changed_on_the_way_is_refused() -> None:
    message = submit(task_spec())
    wire = message.spec.model_copy(update={"directory": "/etc"})
    with pytest.raises(RemoteProtocolError, match="payload hash is wrong"):
        spec_from(message.model_copy(update={"spec": wire}))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": "x" * 200_001}, "`prompt`"),
        ({"limits": Limits(runtime_s=0)}, "`runtime_s`"),
        ({"origin": tuple(NodeId(str(n)) for n in range(17))}, "`origin`"),
    ],
)
def test_a_task_outside_the_wires_limits_is_not_sent(change: dict[str, object], field: str) -> None:
    with pytest.raises(LocalProtocolError, match=field):
        submit(task_spec(**change))


def test_an_event_survives_the_wire() -> None:
    event = Event(seq=3, ts=THEN, kind="tool_call", text="make test", data={"argv": ["make"]})
    message = decode(encode(event_message(TASK, event)))
    assert isinstance(message, EventMessage)
    assert event_from(message) == event


def test_an_events_texts_are_scrubbed_when_they_come() -> None:
    message = EventMessage(task_id=TASK, seq=1, ts=THEN, kind="te\nxt", text="\x1b[31mred\x07")
    assert event_from(message) == Event(seq=1, ts=THEN, kind="te xt", text="[31mred")


def test_no_event_is_too_large_to_be_sent() -> None:
    event = Event(
        seq=1, ts=THEN, kind="raw", text="\x01\ud800" * 40_000, data={"x": "y" * DATA_CHARACTERS}
    )
    message = event_message(TASK, event)
    assert message.data == {"left_out_characters": DATA_CHARACTERS + 9}
    assert len(message.text) == 64_000
    assert decode(encode(message)) == message


def test_a_result_survives_the_wire() -> None:
    message = ResultMessage(
        task_id=TASK, last_seq=2, outcome=outcome_from(result(), HELLO), signature="s" * 86
    )
    again = decode(encode(message))
    assert isinstance(again, ResultMessage)
    assert result_from(again.outcome) == result()
    assert inline_output(again.outcome) == HELLO


def test_the_largest_result_fits_a_frame() -> None:
    large = result(text="\x01" * 70_000, error="€" * 9_000, witness="w" * 9_000, code="c" * 99)
    outcome = outcome_from(large, b"x" * 64 * 1024)
    assert len(outcome.text) == 64_000
    assert outcome.code == "unknown_code"
    assert encode(ResultMessage(task_id=TASK, last_seq=0, outcome=outcome, signature=""))


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"output_sha256": "", "output_inline": ""}, b""),
        ({"output_inline": ""}, None),
    ],
)
def test_an_output_outside_the_result_is_fetched(
    change: dict[str, object], got: bytes | None
) -> None:
    assert inline_output(outcome_from(result(), HELLO).model_copy(update=change)) == got


@pytest.mark.parametrize(
    ("inline", "why"),
    [("aGVsbG8", "not base64"), ("aGVsbG9v", "hash is wrong"), ("%", "base64"), ("é", "base64")],
)
def test_an_inline_output_must_be_the_signed_one(inline: str, why: str) -> None:
    outcome: Outcome = outcome_from(result()).model_copy(update={"output_inline": inline})
    with pytest.raises(RemoteProtocolError, match=why):
        inline_output(outcome)


def event(**fields: Any) -> EventMessage:
    base: dict[str, Any] = {"task_id": TASK, "seq": 1, "ts": THEN, "kind": "text"}
    return EventMessage(**(base | fields))


def test_an_event_that_came_is_cut_and_scrubbed() -> None:
    data: dict[str, object] = {"a\u202e": ["\x1b[2J", 1, None]}
    got = event_from(event(text="\x1b" + "x" * 60_000, data=data))
    assert len(got.text) == EVENT_TEXT_CHARACTERS
    assert got.data == {"a": ["[2J", 1, None]}


def test_data_beyond_its_limit_gives_way_to_a_mark() -> None:
    got = event_from(event(data={"x": "\u20ac" * EVENT_DATA_BYTES}))
    assert list(got.data) == ["left_out_bytes"]


def test_data_nested_without_end_is_cut_off() -> None:
    deep: object = "bottom"
    for _ in range(200):
        deep = {"a": [deep]}
    assert "bottom" not in str(event_from(event(data={"x": deep})).data)
