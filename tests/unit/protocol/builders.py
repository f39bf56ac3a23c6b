"""Values that several protocol tests need, all fixed."""

from datetime import UTC, datetime
from typing import Any

from cmesh.keys import SigningKey, verify
from cmesh.model import Limits, NodeId, Profile, Result, TaskId, TaskSpec, TaskState, Usage
from cmesh.protocol.handshake import Local
from cmesh.protocol.link_messages import May
from cmesh.protocol.messages import FRAME_BYTES
from cmesh.protocol.session import Session

TASK = TaskId("0193a5c0-0000-7000-8000-000000000001")
CALLER, WORKER = NodeId("nCALLER1CNTRL"), NodeId("nWORKER1CNTRL")
CALLER_KEY, WORKER_KEY = SigningKey(b"c" * 32), SigningKey(b"w" * 32)
CALLER_NONCE, WORKER_NONCE = "c" * 22, "w" * 22
THEN = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
MAY = May(operations=("task",), profiles=(Profile.FULL,), runners=("command:check",))
TOO_LARGE = "x" * (FRAME_BYTES + 1)


def task_spec(**change: object) -> TaskSpec:
    values: dict[str, object] = {
        "task_id": TASK,
        "runner": "command:check",
        "profile": Profile.FULL,
        "directory": "/srv/myapp",
        "prompt": "why did the deploy of myapp fail?",
        "limits": Limits(cost_usd=5),
        "accept": ("make", "test"),
        "origin": (CALLER,),
        "not_after": THEN,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    return TaskSpec(**(values | change))  # pyright: ignore[reportArgumentType] -- fields by name


def result(**change: object) -> Result:
    values: dict[str, object] = {
        "state": TaskState.SUCCEEDED,
        "witness": "shim recorded exit 0",
        "exit_code": 0,
        "text": "the unit file names a missing binary",
        "output_bytes": 5,
        "output_kept": 5,
        "output_sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        "usage": Usage(cost_usd=0.5, tokens_in=10, tokens_out=20),
        "started_at": THEN,
        "ended_at": THEN,
    }
    return Result(**(values | change))  # pyright: ignore[reportArgumentType] -- fields by name


def local(node: NodeId, key: SigningKey, **change: Any) -> Local:
    fields: dict[str, Any] = {
        "node_id": node,
        "incarnation": f"store-{node}",
        "software": "cmesh 0.1.0",
        "key": key.public,
        "takes": (),  # as it was recorded: an older version
    }
    return Local(**(fields | change))


def dialler(peer: NodeId = WORKER, me: Local | None = None) -> Session:
    return Session(
        "dialler",
        me or local(CALLER, CALLER_KEY),
        peer,
        nonce=CALLER_NONCE,
        sign=CALLER_KEY.sign,
        verify=verify,
    )


def acceptor(peer: NodeId = CALLER, me: Local | None = None) -> Session:
    return Session(
        "acceptor",
        me or local(WORKER, WORKER_KEY),
        peer,
        nonce=WORKER_NONCE,
        sign=WORKER_KEY.sign,
        verify=verify,
    )


def open_pair() -> tuple[Session, Session]:
    """Return a dialler and an acceptor whose link is open."""
    a, b = dialler(), acceptor()
    for frame in b.initial():
        a.receive_text(frame)
    for frame in a.outgoing():
        b.receive_text(frame)
    a.receive_text(b.welcome(MAY, (TASK,)))
    b.receive_text(a.grants(May(), ()))
    return a, b
