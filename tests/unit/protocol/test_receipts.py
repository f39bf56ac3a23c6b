from datetime import timedelta, timezone

import pytest

from cmesh.errors import RemoteProtocolError
from cmesh.model import NodeId, TaskId, TaskState
from cmesh.protocol.codec import decode
from cmesh.protocol.convert import outcome_from
from cmesh.protocol.evidence import Evidence
from cmesh.protocol.messages import ResultMessage
from cmesh.protocol.outcome import (
    Artifacts,
    Basis,
    Outcome,
    Patch,
)
from cmesh.protocol.receipts import head_bytes, result_bytes
from tests.unit.protocol.builders import CALLER, TASK, THEN, WORKER, result

HASH = "ab" * 32


def signed(
    outcome: Outcome,
    *,
    task: TaskId = TASK,
    payload: str = HASH,
    worker: NodeId = WORKER,
    caller: NodeId = CALLER,
    last_seq: int = 2,
) -> bytes:
    return result_bytes(task, payload, worker, caller, outcome, last_seq)


def test_every_part_of_an_end_is_signed() -> None:
    plain = outcome_from(result())
    forms = [
        signed(plain),
        signed(plain, task=TaskId(TASK[:-1] + "2")),
        signed(plain, payload="cd" * 32),
        signed(plain, worker=CALLER),
        signed(plain, caller=WORKER),
        signed(plain, last_seq=3),
    ]
    values = {"state": TaskState.FAILED, "started_at": None, "truncated": True, "exit_code": None}
    values |= {"follow_up": "possible", "redacted": 2, "basis": Basis(caller="me@example.com")}
    values |= {"patch": Patch(files=1), "answer": "{}", "artifacts": Artifacts(), "turns": 3}
    values |= {"evidence": Evidence()}
    for name in set(Outcome.model_fields) - {"output_inline"}:
        value = values.get(name, getattr(plain, name))
        changed = value if value != getattr(plain, name) else _other(value)
        forms.append(signed(plain.model_copy(update={name: changed})))
    assert len(set(forms)) == len(forms)


def test_the_inline_copy_is_covered_by_its_hash_alone() -> None:
    assert signed(outcome_from(result(), b"hello")) == signed(outcome_from(result()))


def test_a_moment_is_signed_in_utc() -> None:
    there = THEN.astimezone(timezone(timedelta(hours=-5)))
    assert signed(outcome_from(result(ended_at=there))) == signed(outcome_from(result()))


def wire(extra: str) -> ResultMessage:
    frame = (
        f'{{"type":"result","task_id":"{TASK}","last_seq":2,"signature":"",'
        f'"outcome":{{"state":"succeeded","witness":"exit 0"{extra}}}}}'
    )
    message = decode(frame)
    assert isinstance(message, ResultMessage)
    return message


def test_a_field_of_a_newer_peer_stays_in_the_signed_bytes() -> None:
    assert b'"energy_j":7' in signed(wire(',"energy_j":7').outcome)
    assert signed(wire(',"energy_j":null').outcome) == signed(wire("").outcome)


def test_a_field_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="`result` with a wrong `outcome`"):
        wire(',"energy_j":NaN')


def test_heads_differ_by_node_place_and_hash() -> None:
    forms = {
        head_bytes(CALLER, 1, HASH),
        head_bytes(WORKER, 1, HASH),
        head_bytes(CALLER, 2, HASH),
        head_bytes(CALLER, 1, "cd" * 32),
    }
    assert len(forms) == 4


def _other(value: object) -> object:
    match value:
        case str():
            return value + "x"
        case int() | float():
            return value + 1
        case _:
            return THEN + timedelta(seconds=1)
