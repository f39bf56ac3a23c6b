import json

import pytest

from cmesh.errors import LocalProtocolError, RemoteProtocolError
from cmesh.model import TaskId
from cmesh.protocol.codec import CHUNK_BYTES, Chunk, decode, decode_chunk, encode, encode_chunk
from cmesh.protocol.convert import submit
from cmesh.protocol.link_messages import Failure, Ping
from cmesh.protocol.messages import FRAME_BYTES, EventMessage, Submit
from tests.unit.protocol.builders import TASK, THEN, TOO_LARGE, task_spec

SHA = "0f" * 32


def event_frame(**change: object) -> str:
    frame: dict[str, object] = {
        "type": "event",
        "task_id": TASK,
        "seq": 1,
        "ts": "2026-11-24T12:00:00Z",
        "kind": "text",
    }
    return json.dumps(frame | change)


def test_a_message_comes_back_as_it_was() -> None:
    message = submit(task_spec())
    again = decode(encode(message))
    assert isinstance(again, Submit)
    assert again == message


def test_unknown_fields_are_ignored() -> None:
    assert decode('{"type":"ping","nonce":"1","colour":"red"}') == Ping(nonce="1")


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("null", "without a type"),
        ("7", "without a type"),
        ("{}", "without a type"),
        ('{"type":7}', "unknown type `7`"),
        ('{"type":"' + "x" * 500 + '"}', r"unknown type `x+ … \[cut\] … x+`"),
        ('{"type":"submit"}', "`submit` with a wrong `task_id`: field required"),
        (event_frame(seq=0), "`event` with a wrong `seq`"),
        (event_frame(seq=2**60), "`event` with a wrong `seq`"),
        (event_frame(ts="2026-11-24T12:00:00"), "`event` with a wrong `ts`"),
        (event_frame(task_id="0193A5C0-0000-7000-8000-000000000001"), "wrong `task_id`"),
        (event_frame(task_id="0193a5c0-0000-4000-8000-000000000001"), "wrong `task_id`"),
        (event_frame(text="x" * 64_001), "`event` with a wrong `text`"),
        (event_frame(data={"x": [float("nan")]}), "`event` with a wrong `data`"),
        ('{"type":"ping","nonce":"\\ud800"}', "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_wrong_frame_is_named(frame: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why) as caught:
        decode(frame)
    assert len(caught.value.message) < 300
    assert "\n" not in caught.value.message


def test_the_frame_cap_counts_bytes_not_characters() -> None:
    assert decode(encode(Failure(code="x", reason="é" * 2_000)))
    with pytest.raises(RemoteProtocolError, match="larger than"):
        decode(TOO_LARGE)
    with pytest.raises(RemoteProtocolError, match="larger than"):
        decode('"' + "é" * (FRAME_BYTES // 2) + '"')
    with pytest.raises(RemoteProtocolError, match="without a type"):
        decode('"' + "é" * (FRAME_BYTES // 2 - 1) + '"')


def test_a_message_above_the_cap_is_not_sent() -> None:
    message = EventMessage(
        task_id=TASK, seq=1, ts=THEN, kind="raw", data={"line": "x" * FRAME_BYTES}
    )
    with pytest.raises(LocalProtocolError, match="`event` would be larger"):
        encode(message)
    prompt = "\x01" * 200_000  # six bytes each in JSON
    with pytest.raises(LocalProtocolError, match="`submit` would be larger"):
        encode(submit(task_spec(prompt=prompt)))


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("data", [b"", b"\x00\xff", b"x" * CHUNK_BYTES])
def test_a_chunk_comes_back_as_it_was(data: bytes, final: bool) -> None:
    frame = encode_chunk(TASK, SHA, 2**40, data, final=final)
    assert len(frame) == 57 + len(data)
    assert decode_chunk(frame) == Chunk(
        task_id=TASK, sha256=SHA, offset=2**40, data=data, final=final
    )


def test_a_chunk_above_the_cap_is_not_sent() -> None:
    largest = FRAME_BYTES - 57
    assert len(encode_chunk(TASK, SHA, 0, b"x" * largest, final=True)) == FRAME_BYTES
    with pytest.raises(LocalProtocolError, match="chunk would be larger"):
        encode_chunk(TASK, SHA, 0, b"x" * (largest + 1), final=True)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        encode_chunk(TASK, SHA, 0, b"", final=True)[:-1],
        encode_chunk(TASK, SHA, 0, b"x" * (FRAME_BYTES - 57), final=True) + b"x",
        encode_chunk(TASK, SHA, 2**63, b"", final=True),
        encode_chunk(TaskId(TASK.replace("-7", "-4")), SHA, 0, b"", final=True),
        encode_chunk(TASK, SHA, 0, b"", final=True)[:-1] + b"\x02",
    ],
)
def test_a_wrong_binary_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_chunk(frame)


@pytest.mark.parametrize(
    "ts",
    [
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "9999-06-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
    ],
)
def test_a_moment_at_the_ends_of_time_is_the_peers_fault(ts: str) -> None:
    fields = {"type": "event", "task_id": TASK, "seq": 1, "ts": ts, "kind": "text"}
    with pytest.raises(RemoteProtocolError, match="wrong `ts`"):
        decode(json.dumps(fields))


@pytest.mark.parametrize("code", ["", "Busy", "busy\n", "run `rm`", "x" * 65, "\u202ebusy"])
def test_a_code_of_another_form_is_refused(code: str) -> None:
    fields = {"type": "denied", "task_id": TASK, "code": code, "reason": ""}
    with pytest.raises(RemoteProtocolError, match="wrong `code`"):
        decode(json.dumps(fields))


@pytest.mark.parametrize("seconds", [-1, 8 * 86_400, 1.5, "soon"])
def test_a_time_to_come_back_must_be_one(seconds: object) -> None:
    fields = {"type": "failure", "code": "busy", "reason": "", "retry_after_s": seconds}
    with pytest.raises(RemoteProtocolError, match="wrong `retry_after_s`"):
        decode(json.dumps(fields))
