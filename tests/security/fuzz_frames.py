"""Malformed frames against the codec, the session and what reads a message's meaning.

The seeds are the recorded vectors. Nothing but `LinkError` may come out of the session, and one
failure frame that is short; what it takes must be written and read again the same. No sockets:
against a real daemon's link see `fuzz_link.py`.
"""

import json
import random
import resource
from dataclasses import dataclass, field
from pathlib import Path

from cmesh.errors import CmeshError, LinkError, LocalProtocolError
from cmesh.model import TaskId
from cmesh.protocol import convert
from cmesh.protocol.codec import decode, encode
from cmesh.protocol.link_messages import May
from cmesh.protocol.messages import (
    FRAME_BYTES,
    EventMessage,
    Message,
    ResultMessage,
    Submit,
)
from cmesh.protocol.session import Session
from cmesh.protocol.session_events import Got, GotChunk
from cmesh.protocol.transfer import Assembler
from tests.security.mutate import damaged_bytes, damaged_json, damaged_text
from tests.unit.protocol.builders import (
    CALLER,
    MAY,
    WORKER,
    WORKER_KEY,
    acceptor,
    dialler,
    local,
)

__all__ = ["Found", "Seeds", "fuzz_frames"]

VECTORS = Path(__file__).parents[1] / "contract" / "vectors"
WARM_UP = 2_000
FAILURE_CHARACTERS = 600
LARGE_EVERY = 20_000


@dataclass
class Found:
    """What came of it. `malformed` were refused by name, `taken` still had a meaning."""

    inputs: int = 0
    malformed: int = 0
    taken: int = 0
    crashes: list[str] = field(default_factory=list[str])
    growth_kib: int = 0


class Seeds:
    """The recorded frames, and damaged ones made of them."""

    def __init__(self) -> None:
        def load(name: str) -> list[dict[str, str]]:
            return json.loads((VECTORS / f"{name}.json").read_text("utf-8"))

        messages = load("messages")
        self.texts = [vector["frame"] for vector in messages]
        self.texts += [vector["from_a_newer_peer"] for vector in messages]
        handshake = json.loads((VECTORS / "handshake.json").read_text("utf-8"))
        self.handshake = [step["frame"] for step in handshake["frames"]]
        self.texts += self.handshake
        self.chunks = [bytes.fromhex(vector["frame_hex"]) for vector in load("chunks")]

    def damaged(self, chance: random.Random) -> str | bytes:
        """Return one damaged frame: two in three as JSON, some as text, some binary."""
        kind = chance.randrange(12)
        if kind == 0:
            return damaged_bytes(chance, chance.choice(self.chunks), self.chunks)
        seed = chance.choice(self.handshake if kind == 1 else self.texts)
        if kind < 4:
            return damaged_text(chance, seed, [chance.choice(self.texts)])
        return damaged_json(chance, seed, self.texts)


def fuzz_frames(malformed: int, seed: int) -> Found:
    """Go on until so many frames were refused; blocks. Crashes are kept, not raised."""
    chance, found, seeds = random.Random(seed), Found(), Seeds()
    sessions = _sessions()
    before = 0
    while found.malformed < malformed:
        found.inputs += 1
        frame = seeds.damaged(chance)
        if found.inputs % LARGE_EVERY == 1:
            frame = "[" * (FRAME_BYTES + 1) if chance.randrange(2) else bytes(FRAME_BYTES + 1)
        at = chance.randrange(len(sessions))
        try:
            if _refused(sessions[at], frame):
                found.malformed += 1
            else:
                found.taken += 1
        except Exception as error:  # noqa: BLE001 - what a fuzzer is for
            found.crashes.append(f"{type(error).__name__}: {error}: {frame[:300]!r}")
        if sessions[at].closed or sessions[at].opened is None:
            sessions[at] = _sessions(at)[0]
        if found.inputs == min(WARM_UP, max(1, malformed // 2)):
            before = _peak_kib()
    found.growth_kib = _peak_kib() - before
    return found


def _sessions(only: int | None = None) -> list[Session]:
    """Return one session in each state that hears a peer, or the one of a number."""
    makers = (dialler, acceptor, _greeted, _welcomed, _open, _open, _open, _open)
    return [make() for make in (makers if only is None else makers[only : only + 1])]


def _greeted() -> Session:
    session = dialler()
    session.receive_text(acceptor().initial()[0])
    session.outgoing()
    return session


def _welcomed() -> Session:
    session = Session(
        "acceptor",
        local(WORKER, WORKER_KEY),
        CALLER,
        nonce="w" * 22,
        sign=lambda _data: "A" * 86,
        verify=lambda _key, _data, _signature: True,  # two signatures would be most of the time
    )
    greeting = _Greeting.text()
    session.receive_text(greeting)
    session.welcome(MAY, ())
    session.outgoing()
    return session


def _open() -> Session:
    session = _welcomed()
    session.receive_text(_Greeting.grants())
    return session


class _Greeting:
    """The frames that open an acceptor's session, made once."""

    _text = ""
    _grants = ""

    @classmethod
    def text(cls) -> str:
        if not cls._text:
            asker = dialler()
            asker.receive_text(acceptor().initial()[0])
            [cls._text] = asker.outgoing()
        return cls._text

    @classmethod
    def grants(cls) -> str:
        if not cls._grants:
            asker, answerer = dialler(), acceptor()
            asker.receive_text(answerer.initial()[0])
            answerer.receive_text(asker.outgoing()[0])
            asker.receive_text(answerer.welcome(MAY, ()))
            cls._grants = asker.grants(May(), ())
        return cls._grants


def _refused(session: Session, frame: str | bytes) -> bool:
    """Feed one frame; say whether it was refused as it must be."""
    try:
        if isinstance(frame, bytes):
            events = session.receive_binary(frame)
        else:
            events = session.receive_text(frame)
    except LinkError:
        assert session.closed
        [failure] = session.outgoing()
        assert len(failure) < FAILURE_CHARACTERS, failure
        decode(failure)
        return True
    session.outgoing()
    refused = False
    for event in events:
        if isinstance(event, Got):
            refused |= not _means_something(event.message)
        elif isinstance(event, GotChunk):
            chunk = event.chunk
            taking = Assembler(TaskId(chunk.task_id), chunk.sha256, len(chunk.data), FRAME_BYTES)
            try:
                taking.add(chunk)
            except CmeshError:
                refused = True
    return refused


def _means_something(message: Message) -> bool:
    """Read on what was taken, as the daemon does; False = refused there."""
    try:
        assert decode(encode(message)) == message
    except LocalProtocolError:
        return True  # it grows when it is written: escapes
    try:
        if isinstance(message, Submit):
            convert.spec_from(message)
        elif isinstance(message, EventMessage):
            convert.event_from(message)
        elif isinstance(message, ResultMessage):
            convert.result_from(message.outcome)
            convert.inline_output(message.outcome)
    except LinkError:
        return False
    return True


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
