from collections.abc import Callable

import pytest

from cmesh.errors import LinkError, LocalProtocolError, RemoteProtocolError, VersionMismatch
from cmesh.model import NodeId
from cmesh.protocol.codec import decode, encode, encode_chunk
from cmesh.protocol.handshake import hello_bytes
from cmesh.protocol.link_messages import (
    Challenge,
    Failure,
    Grants,
    Hello,
    May,
    Ping,
    Pong,
    Restarting,
    Welcome,
)
from cmesh.protocol.messages import Accepted
from cmesh.protocol.session import Session
from cmesh.protocol.session_events import Got, GotChunk, Introduced, Opened
from tests.unit.protocol.builders import (
    CALLER,
    CALLER_KEY,
    MAY,
    TASK,
    TOO_LARGE,
    WORKER,
    WORKER_KEY,
    acceptor,
    dialler,
    local,
    open_pair,
)

SHA = "ab" * 32


def last_failure(session: Session) -> Failure:
    message = decode(session.outgoing()[-1])
    assert isinstance(message, Failure)
    return message


def hello_of(session: Session, challenger: Session) -> Hello:
    session.receive_text(challenger.initial()[0])
    message = decode(session.outgoing()[0])
    assert isinstance(message, Hello)
    return message


def test_both_sides_prove_their_keys_then_open() -> None:
    a, b = dialler(), acceptor()
    assert a.initial() == []
    [challenge] = b.initial()
    assert a.receive_text(challenge) == []
    [hello] = a.outgoing()
    assert b.receive_text(hello) == [
        Introduced(
            key=CALLER_KEY.public,
            incarnation="store-nCALLER1CNTRL",
            minor=0,
            software="cmesh 0.1.0",
        )
    ]
    assert b.outgoing() == []
    [introduced] = a.receive_text(b.welcome(MAY, (TASK,)))
    assert isinstance(introduced, Introduced)
    assert introduced.key == WORKER_KEY.public
    assert a.opened is None
    grants = a.grants(May(), ())
    assert a.opened is not None
    assert (a.opened.may, a.opened.unacknowledged) == (MAY, (TASK,))
    [opened] = b.receive_text(grants)
    assert isinstance(opened, Opened)
    assert opened == b.opened
    assert (opened.key, opened.may) == (CALLER_KEY.public, May())


def test_messages_flow_both_ways_once_open() -> None:
    a, b = open_pair()
    message = Accepted(task_id=TASK, payload_hash=SHA)
    assert b.receive_text(a.send(message)) == [Got(message)]
    assert a.receive_text(b.send(message)) == [Got(message)]


def test_a_chunk_comes_through_an_open_link_only() -> None:
    a, _ = open_pair()
    frame = encode_chunk(TASK, SHA, 0, b"data", final=True)
    [event] = a.receive_binary(frame)
    assert isinstance(event, GotChunk)
    assert event.chunk.data == b"data"
    early = dialler()
    with pytest.raises(RemoteProtocolError, match="before the link was open"):
        early.receive_binary(frame)
    assert early.receive_binary(frame) == []


def test_a_broken_chunk_ends_the_link() -> None:
    a, _ = open_pair()
    with pytest.raises(RemoteProtocolError, match="binary frame of 1 bytes"):
        a.receive_binary(b"x")
    assert a.closed


def test_a_ping_is_answered_at_once() -> None:
    a, b = open_pair()
    assert b.receive_text(a.send(Ping(nonce="7"))) == []
    [pong] = b.outgoing()
    assert a.receive_text(pong) == [Got(Pong(nonce="7"))]


def test_grants_tell_a_change_on_an_open_link() -> None:
    a, b = open_pair()
    assert b.receive_text(a.grants(MAY)) == [Got(Grants(may=MAY))]
    assert a.receive_text(b.grants(MAY)) == [Got(Grants(may=MAY))]


@pytest.mark.parametrize("maker", [dialler, acceptor])
def test_nothing_is_sent_before_the_link_is_open(maker: Callable[[], Session]) -> None:
    session = maker()
    with pytest.raises(LocalProtocolError, match="needs an open link"):
        session.send(Restarting())
    with pytest.raises(LocalProtocolError, match="after the introduction"):
        session.grants(May())
    with pytest.raises(LocalProtocolError, match="acceptor's answer"):
        session.welcome(May(), ())


def test_handshake_messages_have_their_own_methods() -> None:
    a, _ = open_pair()
    with pytest.raises(LocalProtocolError, match="not sent like that"):
        a.send(Grants(may=May()))


@pytest.mark.parametrize("claimed", ["nOTHER1CNTRL", "", "n" * 253])
def test_a_claimed_node_id_must_be_the_tailnets(claimed: str) -> None:
    a = dialler()
    with pytest.raises(RemoteProtocolError, match="the tailnet says `nWORKER1CNTRL`"):
        a.receive_text(encode(Challenge(minor=0, minor_minimum=0, node=claimed, nonce="n" * 22)))
    assert last_failure(a).code == "remote_protocol_error"
    b = acceptor(peer=NodeId("nOTHER2CNTRL"))
    hello = encode(hello_of(dialler(), acceptor()))
    with pytest.raises(RemoteProtocolError, match="the tailnet says `nOTHER2CNTRL`"):
        b.receive_text(hello)


def test_a_hello_for_another_worker_does_not_prove_a_key_here() -> None:
    """A worker in the middle cannot pass the proof it got on to somebody else."""
    middle = NodeId("nMIDDLE1CNTRL")
    to_middle = dialler(peer=middle)
    challenge = Challenge(minor=0, minor_minimum=0, node=middle, nonce="w" * 22)
    to_middle.receive_text(encode(challenge))
    with pytest.raises(RemoteProtocolError, match="could not prove"):
        acceptor().receive_text(to_middle.outgoing()[0])


@pytest.mark.parametrize(
    "change",
    [
        {"key": WORKER_KEY.public},
        {"incarnation": "another"},
        {"nonce": "z" * 22},
        {"minor": 1},
        {"signature": "A" * 86},
        {"signature": "garbage"},
    ],
)
def test_a_hello_changed_on_the_way_proves_nothing(change: dict[str, object]) -> None:
    b = acceptor()
    hello = hello_of(dialler(), b).model_copy(update=change)
    with pytest.raises(RemoteProtocolError, match="could not prove"):
        b.receive_text(encode(hello))
    assert b.closed


def test_a_lowered_offer_is_seen() -> None:
    """Both sides sign both ranges, so nobody between can lower the version."""
    b = acceptor(me=local(WORKER, WORKER_KEY, minor=1))
    a = dialler(me=local(CALLER, CALLER_KEY, minor=1))
    challenge = decode(b.initial()[0]).model_copy(update={"minor": 0})
    a.receive_text(challenge.model_dump_json())
    hello = decode(a.outgoing()[0]).model_copy(update={"minor": 0})
    with pytest.raises(RemoteProtocolError, match="could not prove"):
        b.receive_text(hello.model_dump_json())


def test_a_signature_cannot_be_reflected() -> None:
    a, b = dialler(), acceptor()
    hello = hello_of(a, b)
    reflected = Welcome(
        minor=0,
        incarnation=hello.incarnation,
        key=hello.key,
        signature=hello.signature,
        may=May(),
    )
    with pytest.raises(RemoteProtocolError, match="could not prove"):
        a.receive_text(encode(reflected))


def test_the_common_minor_version_is_the_lower_one() -> None:
    a = dialler(me=local(CALLER, CALLER_KEY, minor=3))
    b = acceptor(me=local(WORKER, WORKER_KEY, minor=2))
    [introduced] = b.receive_text(encode(hello_of(a, b)))
    assert isinstance(introduced, Introduced)
    assert introduced.minor == 2
    [back] = a.receive_text(b.welcome(May(), ()))
    assert isinstance(back, Introduced)
    assert back.minor == 2


def test_another_minor_than_the_common_one_is_refused() -> None:
    a, b = dialler(), acceptor()
    b.receive_text(encode(hello_of(a, b)))
    welcome = decode(b.welcome(May(), ())).model_copy(update={"minor": 1})
    with pytest.raises(RemoteProtocolError, match="chose minor version 1"):
        a.receive_text(welcome.model_dump_json())


@pytest.mark.parametrize("old_side", ["dialler", "acceptor"])
def test_no_common_version_is_refused_naming_both(old_side: str) -> None:
    old, new = {"minor": 1}, {"minor": 4, "minor_minimum": 2}
    a = dialler(me=local(CALLER, CALLER_KEY, **(old if old_side == "dialler" else new)))
    b = acceptor(me=local(WORKER, WORKER_KEY, **(new if old_side == "dialler" else old)))
    with pytest.raises(VersionMismatch, match=r"0 to 1.*2 to 4|2 to 4.*0 to 1"):
        a.receive_text(b.initial()[0])
    failure = last_failure(a)
    assert failure.code == "version_mismatch"
    assert b.receive_text(encode(failure)) == [Got(failure)]
    assert b.closed


def test_the_acceptor_too_refuses_an_old_dialler() -> None:
    b = acceptor(me=local(WORKER, WORKER_KEY, minor=4, minor_minimum=2))
    hello = hello_of(dialler(), acceptor())
    with pytest.raises(VersionMismatch):
        b.receive_text(encode(hello))
    assert last_failure(b).code == "version_mismatch"


def test_a_refusal_reaches_the_peer_with_its_reason() -> None:
    a, b = dialler(), acceptor()
    b.receive_text(encode(hello_of(a, b)))
    [event] = a.receive_text(b.refuse("peer_untrusted", "the owner has not trusted this key"))
    assert event == Got(Failure(code="peer_untrusted", reason="the owner has not trusted this key"))
    assert a.closed
    assert b.closed
    with pytest.raises(LocalProtocolError):
        b.send(Restarting())


def test_a_failure_about_one_task_keeps_the_link() -> None:
    a, b = open_pair()
    a.receive_text(b.send(Failure(code="task_not_found", reason="no such task", about=TASK)))
    assert not a.closed


def test_messages_out_of_turn_end_the_link() -> None:
    a, b = open_pair()
    hello, welcome = hello_of(dialler(), acceptor()), acceptor()
    welcome.receive_text(encode(hello))
    for session, frame in [
        (dialler(), encode(hello)),
        (dialler(), encode(Ping())),
        (dialler(), welcome.welcome(May(), ())),
        (acceptor(), encode(Grants(may=May()))),
        (acceptor(), acceptor().initial()[0]),
        (a, encode(hello)),
        (b, acceptor().initial()[0]),
        (welcome, encode(Ping())),
    ]:
        with pytest.raises(RemoteProtocolError, match="where none may come"):
            session.receive_text(frame)
        assert last_failure(session).reason.startswith("the peer sent a `")
        assert session.closed
        assert session.receive_text(frame) == []


def test_nothing_is_heard_while_the_daemon_decides() -> None:
    b = acceptor()
    hello = encode(hello_of(dialler(), b))
    b.receive_text(hello)
    with pytest.raises(RemoteProtocolError, match="introduced"):
        b.receive_text(hello)
    with pytest.raises(LocalProtocolError):
        b.welcome(May(), ())


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ('{"type":"launch_missiles"}', "unknown type `launch_missiles`"),
        ("\x00\x1b[31mgarbage" * 100, "not JSON"),
        ("[]", "without a type"),
        (TOO_LARGE, "larger than 1048576 bytes"),
    ],
)
def test_garbage_ends_the_link_by_name(frame: str, why: str) -> None:
    for session in (dialler(), acceptor(), *open_pair()):
        with pytest.raises(LinkError, match=why) as caught:
            session.receive_text(frame)
        assert len(caught.value.message) < 200
        assert last_failure(session).reason == caught.value.message


def test_hello_bytes_differ_in_every_part() -> None:
    a = dialler()
    hello_of(a, acceptor())
    transcript = a._transcript  # pyright: ignore[reportPrivateUsage] -- as it was signed
    assert transcript is not None
    forms = {
        hello_bytes("dialler", transcript, "k", "i"),
        hello_bytes("acceptor", transcript, "k", "i"),
        hello_bytes("dialler", transcript, "k2", "i"),
        hello_bytes("dialler", transcript, "k", "i2"),
    }
    assert len(forms) == 4
    assert all(CALLER in str(form) and WORKER in str(form) for form in forms)
