"""Recorded frames and signatures: what this version writes, and what others may send it.

A vector is never changed to fit the code: a changed byte is a changed protocol.
"""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cmesh.errors import LinkError, RemoteProtocolError
from cmesh.keys import SigningKey, verify
from cmesh.model import NodeId, TaskId
from cmesh.protocol.codec import decode, decode_chunk, encode, encode_chunk
from cmesh.protocol.convert import spec_from
from cmesh.protocol.link_messages import May
from cmesh.protocol.messages import Message, ResultMessage, Submit
from cmesh.protocol.receipts import head_bytes, result_bytes
from cmesh.protocol.session import Session
from scripts.gen_schemas import SCHEMAS
from tests.unit.protocol.builders import (
    CALLER,
    CALLER_KEY,
    MAY,
    TASK,
    WORKER,
    WORKER_KEY,
    acceptor,
    dialler,
    open_pair,
    task_spec,
)

VECTORS = Path(__file__).parent / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


MESSAGES: list[dict[str, str]] = load("messages")


@pytest.mark.parametrize("vector", MESSAGES, ids=lambda vector: vector["type"])
def test_a_message_is_read_and_written_as_recorded(vector: dict[str, str]) -> None:
    message = decode(vector["frame"])
    assert message.type == vector["type"]
    assert encode(message) == vector["frame"]


@pytest.mark.parametrize("vector", MESSAGES, ids=lambda vector: vector["type"])
def test_a_newer_peers_message_means_the_same(vector: dict[str, str]) -> None:
    assert decode(vector["from_a_newer_peer"]) == decode(vector["frame"])


@pytest.mark.parametrize("vector", MESSAGES, ids=lambda vector: vector["type"])
def test_the_schema_accepts_what_both_write(vector: dict[str, str]) -> None:
    validator: Any = Draft202012Validator(SCHEMAS["link"]())
    for frame in (vector["frame"], vector["from_a_newer_peer"]):
        assert validator.is_valid(json.loads(frame))


def test_every_message_type_is_recorded() -> None:
    union = get_args(get_args(Message)[0])
    types = {str(cls.model_fields["type"].default) for cls in union}
    assert types == {vector["type"] for vector in MESSAGES}


@pytest.mark.parametrize("vector", load("refused"), ids=lambda vector: vector["error"][:40])
def test_a_wrong_frame_is_refused_as_recorded(vector: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(vector["frame"])
    assert caught.value.message == vector["error"]


@pytest.mark.parametrize("frame_type", ["welcome", "grants"])
def test_a_list_of_more_ended_tasks_than_a_worker_keeps_is_refused(frame_type: str) -> None:
    frame = json.loads(next(v["frame"] for v in MESSAGES if v["type"] == frame_type))
    frame["unacknowledged"] = [f"0193a5c0-0000-7000-8000-{n:012d}" for n in range(1_024)]
    assert len(getattr(decode(json.dumps(frame)), "unacknowledged", ())) == 1_024
    frame["unacknowledged"].append("0193a5c0-0000-7000-8000-000000001024")
    with pytest.raises(RemoteProtocolError, match="`unacknowledged`"):
        decode(json.dumps(frame))


@pytest.mark.parametrize("vector", load("chunks"), ids=lambda vector: str(vector["offset"]))
def test_a_chunk_is_read_and_written_as_recorded(vector: dict[str, Any]) -> None:
    frame = bytes.fromhex(vector["frame_hex"])
    chunk = decode_chunk(frame)
    assert (chunk.task_id, chunk.sha256, chunk.offset, chunk.final, chunk.data.hex()) == (
        vector["task_id"],
        vector["sha256"],
        vector["offset"],
        vector["final"],
        vector["data_hex"],
    )
    data = bytes.fromhex(vector["data_hex"])
    assert frame == encode_chunk(
        TaskId(vector["task_id"]),
        vector["sha256"],
        vector["offset"],
        data,
        final=vector["final"],
    )


@pytest.mark.parametrize("mine", ["dialler", "acceptor"])
def test_the_recorded_handshake_opens_the_link_for_either_side(mine: str) -> None:
    session = dialler() if mine == "dialler" else acceptor()
    sent = session.initial()
    for step in load("handshake")["frames"]:
        if step["from"] == mine:
            assert _next_frame(session, sent) == step["frame"]
        else:
            session.receive_text(step["frame"])
            sent += session.outgoing()
    assert session.opened is not None


def test_the_recorded_signatures_are_over_these_bytes() -> None:
    vectors = load("receipts")
    message = decode(next(v["frame"] for v in MESSAGES if v["type"] == "result"))
    assert isinstance(message, ResultMessage)
    payload_hash = vectors["payload_hash"]
    assert payload_hash == task_spec().payload_hash()
    signed = result_bytes(TASK, payload_hash, WORKER, CALLER, message.outcome, message.last_seq)
    assert signed.decode() == vectors["result"]["bytes"]
    assert WORKER_KEY.sign(signed) == vectors["result"]["worker_signature"]
    assert verify(CALLER_KEY.public, signed, vectors["result"]["caller_signature"])
    head = vectors["head"]
    assert head_bytes(NodeId(head["node"]), head["seq"], head["hash"]).decode() == head["bytes"]
    assert verify(CALLER_KEY.public, head["bytes"].encode(), head["signature"])


def test_the_recorded_keys_are_the_tests_keys() -> None:
    handshake = load("handshake")
    for side, key in (("dialler", CALLER_KEY), ("acceptor", WORKER_KEY)):
        assert SigningKey(bytes.fromhex(handshake[side]["seed_hex"])).public == key.public


def test_a_recorded_submit_still_has_the_hash_it_was_recorded_with() -> None:
    submit = decode(next(v["frame"] for v in MESSAGES if v["type"] == "submit"))
    assert isinstance(submit, Submit)
    assert submit.payload_hash == load("receipts")["payload_hash"]


def test_a_recorded_follow_up_differs_only_by_what_it_follows() -> None:
    submits = [decode(v["frame"]) for v in MESSAGES if v["type"] == "submit"]
    [follow_up] = [m for m in submits if isinstance(m, Submit) and m.spec.follows is not None]
    spec = spec_from(follow_up)
    assert spec.follows == TASK
    assert spec.payload_hash() == follow_up.payload_hash
    assert replace(spec, follows=None).payload_hash() != follow_up.payload_hash
    older = follow_up.model_copy(
        update={"spec": follow_up.spec.model_copy(update={"follows": None})}
    )
    with pytest.raises(RemoteProtocolError, match="payload hash is wrong"):
        spec_from(older)


@given(data=st.data())
def test_no_garbage_does_more_than_end_the_link_by_name(data: st.DataObject) -> None:
    """Free text, and recorded frames with a piece cut out or replaced."""
    frame = data.draw(st.sampled_from([v["frame"] for v in MESSAGES]))
    at, end = sorted(data.draw(st.tuples(*[st.integers(0, len(frame))] * 2)))
    text = data.draw(st.sampled_from([frame[:at], ""])) + data.draw(st.text()) + frame[end:]
    for session in (dialler(), acceptor(), open_pair()[0]):
        with contextlib.suppress(LinkError):
            session.receive_text(text)
            continue
        assert session.closed
        [failure] = session.outgoing()
        assert len(failure) < 600


@given(st.binary(max_size=200))
def test_no_binary_garbage_does_more_than_end_the_link(frame: bytes) -> None:
    session, _ = open_pair()
    try:
        session.receive_binary(frame)
    except RemoteProtocolError:
        assert session.closed


def _next_frame(session: Session, sent: list[str]) -> str:
    if sent:
        return sent.pop(0)
    return session.welcome(MAY, (TASK,)) if session.side == "acceptor" else session.grants(May())
