"""Abuse cases 1 to 6: who somebody is, when it is asked, and what happens when nobody can say.

The kinds of node themselves, as a real tailnet tells them: `tests/system/node/test_whois.py`.
"""

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from cmesh.errors import IdentityUnknown, UnknownPeer
from cmesh.link import tailnet
from cmesh.link.tailnet import LinkServer, Wire
from cmesh.model import Identity, NodeId, TaskState
from cmesh.node.listener import Connection, Listener
from cmesh.node.whois import parse_identity
from cmesh.policy.decide import decide_inbound
from cmesh.policy.rules import TAGGED_DEVICES
from tests.unit.daemon.conftest import Pair
from tests.unit.policy.support import (
    ALICE,
    LAPTOP,
    allow,
    asks,
    grant,
    granted,
    inbound,
    tag,
    user,
    who,
)
from tests.unit.policy.support import node as node_rule

pytestmark = pytest.mark.anyio

REMOTE = "100.64.0.7:51234"
LIMIT_S = 20.0
FORGED = {
    "X-Forwarded-For": "100.64.0.1",
    "Forwarded": "for=100.64.0.1",
    "X-Real-IP": "100.64.0.1",
    "Tailscale-User-Login": "admin@example.com",
    "Tailscale-User-Name": "Admin",
    "Authorization": "Bearer admin",
}


class Door:
    """A listener of the node with one connection to give."""

    def __init__(self, connection: Connection) -> None:
        self._left = [connection]
        self._closed = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[Connection]:
        return self

    async def __anext__(self) -> Connection:
        if self._left:
            return self._left.pop()
        await self._closed.wait()
        raise StopAsyncIteration

    def close(self) -> None:
        self._closed.set()

    def fileno(self) -> int:
        return -1 if self._closed.is_set() else 0


@asynccontextmanager
async def knocking(
    admit: Callable[[str], Awaitable[Identity]], handled: "asyncio.Queue[Identity]"
) -> AsyncGenerator[socket.socket]:
    """Give the far end of a connection that a link server has accepted."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)

    async def handle(_wire: Wire, identity: Identity) -> None:
        handled.put_nowait(identity)

    door = Door(Connection(theirs, REMOTE))
    server = LinkServer(cast("Listener", door), admit, handle)
    await server.start()
    try:
        yield ours
    finally:
        await server.close()
        ours.close()


def upgrade(headers: dict[str, str]) -> bytes:
    """Return a websocket's opening with further headers (RFC 6455, section 4.1)."""
    lines = [
        "GET / HTTP/1.1",
        "Host: 100.64.0.1:7333",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: cmesh.v1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_1_forged_headers_change_nothing_about_who_it_is() -> None:
    asked: list[str] = []
    handled: asyncio.Queue[Identity] = asyncio.Queue()

    async def admit(remote: str) -> Identity:
        asked.append(remote)
        return who()

    async with knocking(admit, handled) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, upgrade(FORGED))
        assert await asyncio.wait_for(handled.get(), LIMIT_S) == who()
    assert asked == [REMOTE]


async def test_2_whois_is_asked_before_a_byte_is_read() -> None:
    ready = asyncio.Event()
    handled: asyncio.Queue[Identity] = asyncio.Queue()

    async def admit(_remote: str) -> Identity:
        ready.set()
        raise UnknownPeer("nobody has that address")

    async with knocking(admit, handled) as sock:
        await asyncio.wait_for(ready.wait(), LIMIT_S)
        async with asyncio.timeout(LIMIT_S):
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    assert handled.empty()


async def test_2_an_identity_that_changes_between_the_yes_and_the_start_starts_nothing(
    pair: Pair,
) -> None:
    doer = pair.doer
    doer.configure(doer.rule(concurrent=1))
    first = await pair.asker.delegate(doer, prompt="first")
    await doer.until(first, "running")
    second = await pair.asker.delegate(doer, prompt="second")
    await pair.asker.until(second, "accepted")
    doer.known[pair.asker.node_id] = replace(pair.asker.identity, user="mallory@example.com")
    await doer.worker.recheck(pair.asker.node_id)
    assert (await doer.until(second, "cancelled")).code == "policy_denied"
    await doer.settled(first)
    assert doer.shims.ended[first] == "revoked"
    assert doer.shims.starts[second] == 0


async def test_2_after_a_restart_a_task_starts_only_if_its_caller_still_may(pair: Pair) -> None:
    doer = pair.doer
    doer.configure(doer.rule(concurrent=1))
    first = await pair.asker.delegate(doer, prompt="first")
    await doer.until(first, "running")
    second = await pair.asker.delegate(doer, prompt="second")
    await pair.asker.until(second, "accepted")
    pair.asker.identity = replace(pair.asker.identity, tags=("tag:other",), user="")
    await doer.restart()
    await pair.connect()
    doer.shims.finish(first)
    await doer.until(second, "cancelled", "denied")
    assert doer.shims.starts[second] == 0


async def test_3_a_whois_that_hangs_is_waited_for_so_long_and_then_it_is_a_no(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tailnet, "WHOIS_LIMIT_S", 0.05)
    handled: asyncio.Queue[Identity] = asyncio.Queue()

    async def admit(_remote: str) -> Identity:
        await asyncio.Event().wait()
        raise AssertionError

    async with knocking(admit, handled) as sock:
        async with asyncio.timeout(LIMIT_S):
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    assert handled.empty()


WHOLE: dict[str, Any] = {
    "node_id": "nLAPTOP",
    "name": "laptop.tail.example",
    "user": ALICE,
    "tags": [],
    "addresses": ["100.64.0.7"],
    "expired": False,
    "key_expiry": None,
    "shared": False,
    "router": False,
    "ephemeral": False,
    "capabilities": {},
}
GARBAGE = {
    "nothing": "",
    "no JSON": "<html>",
    "no object": "[]",
    "null": "null",
    "an empty node id": json.dumps({**WHOLE, "node_id": ""}),
    "expired is a word": json.dumps({**WHOLE, "expired": "false"}),
    "shared is a number": json.dumps({**WHOLE, "shared": 0}),
    "router is null": json.dumps({**WHOLE, "router": None}),
    "tags are one text": json.dumps({**WHOLE, "tags": "tag:laptop"}),
    "an expiry that is no time": json.dumps({**WHOLE, "key_expiry": "tomorrow"}),
    "capabilities are a list": json.dumps({**WHOLE, "capabilities": ["cmesh.dev/cap/build"]}),
    "a capability without a list": json.dumps({**WHOLE, "capabilities": {"a": 1}}),
    **{
        f"without {key}": json.dumps({k: v for k, v in WHOLE.items() if k != key})
        for key in ("node_id", "user", "tags", "expired", "shared", "router")
    },
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_3_an_answer_that_cannot_be_read_is_nobody(kind: str) -> None:
    assert parse_identity(json.dumps(WHOLE)) == who(addresses=("100.64.0.7",))
    with pytest.raises(IdentityUnknown):
        parse_identity(GARBAGE[kind])


async def test_3_a_task_whose_caller_nobody_knows_any_more_ends(pair: Pair) -> None:
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.whois_error = IdentityUnknown("whois gave an answer that cannot be read")
    await pair.doer.worker.recheck(pair.asker.node_id)
    await pair.doer.settled(task_id)
    assert pair.doer.shims.ended[task_id] == "revoked"
    pair.doer.shims.finish(task_id, verdict="cancelled")
    ended = await pair.asker.until(task_id, "cancelled")
    assert ended.public_state is TaskState.CANCELLED


KINDS = tuple(itertools.product([False, True], repeat=6))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "".join("-x"[flag] for flag in kind))
async def test_4_and_5_every_combination_matches_what_it_is_and_nothing_else(
    kind: tuple[bool, ...],
) -> None:
    tagged, shared, router, ephemeral, expired, has_grant = kind
    tags = ("tag:laptop",) if tagged else ()
    made = (granted({}) if has_grant else who()).capabilities
    identity = Identity(
        node_id=LAPTOP,
        name="laptop.tail.example",
        user=TAGGED_DEVICES if tagged else ALICE,
        tags=tags,
        shared=shared,
        router=router,
        ephemeral=ephemeral,
        expired=expired,
        capabilities=made,
    )
    foreign = shared or router

    def allowed(*peers: Any, **flags: Any) -> bool:
        rule = allow(peers=peers, **flags)
        return decide_inbound(asks(identity=identity), inbound(rule)).effect == "allow"

    alive = not expired
    assert allowed(user()) == (alive and not tagged and not foreign)
    assert allowed(tag()) == (alive and tagged and not foreign)
    assert allowed(grant()) == (alive and has_grant and not foreign)
    assert allowed(node_rule()) == (alive and not foreign)
    assert allowed(node_rule(), shared=True) == (alive and not router)
    assert allowed(node_rule(), router=True) == (alive and not shared)
    assert allowed(node_rule(), shared=True, router=True) == alive
    assert not allowed(user(TAGGED_DEVICES), user("tag:laptop"), tag(ALICE), user("laptop"))
    assert not allowed(user(), tag(), grant(), shared=True, router=True) or not foreign


async def test_6_a_shared_mail_domain_and_an_old_name_give_nothing() -> None:
    policy = inbound(allow(peers=(user(),)))
    for login in ("bob@example.com", "@example.com", "example.com", "alice", ALICE.upper(), ""):
        identity = who(user=login, node_id=NodeId("nOTHER"))
        assert decide_inbound(asks(identity=identity), policy).effect == "deny"
    again = who(node_id=NodeId("nOTHER"))  # the same name and address, another node
    policy = inbound(allow(peers=(node_rule(),)))
    assert decide_inbound(asks(identity=again), policy).effect == "deny"
