"""What a node is to its users: the same tests against the real one and the tests' fake.

The real one has more tests of its own in tests/system/node.
"""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from cmesh.errors import (
    IdentityUnknown,
    KeyExpired,
    NodeClosed,
    NodeError,
    PeerUnreachable,
    UnknownPeer,
)
from cmesh.node import ffi
from cmesh.node.ffi import Refused
from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet
from tests.fakes.tailnet import FakeNode, FakeTailnet

pytestmark = [pytest.mark.anyio, pytest.mark.system]

PORT = 7
BULK = 8 * 1024 * 1024
BACKLOG = 100
LIMIT_S = 20.0
LEFT_BEHIND = ("nodes", "listeners", "connections", "watches", "operations")
ALICE, BOB = "alice@example.com", "bob@example.com"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

T = TypeVar("T")


class Control(Protocol):
    """What a test does to the tailnet."""

    async def set_user(self, node: str, user: str) -> None: ...
    async def set_tags(self, node: str, tags: Sequence[str]) -> None: ...
    async def expire(self, node: str, at: datetime | None) -> None: ...
    async def set_routes(self, node: str, prefixes: Sequence[str]) -> None: ...
    async def share(self, node: str, by: str) -> None: ...
    async def delete(self, node: str) -> None: ...


class World:
    """A tailnet and its nodes, real or not."""

    def __init__(
        self, control: Control, make: Callable[..., Awaitable[Node]], stack: AsyncExitStack
    ) -> None:
        self.control = control
        self._make = make
        self._stack = stack

    async def unstarted(self, name: str, user: str = ALICE, *, ephemeral: bool = False) -> Node:
        node = await self._make(name, user, ephemeral=ephemeral)
        self._stack.push_async_callback(node.close)
        return node

    async def node(self, name: str, user: str = ALICE, *, ephemeral: bool = False) -> Node:
        node = await self.unstarted(name, user, ephemeral=ephemeral)
        await node.start()
        assert (await node.up()).state == "Running"
        return node

    async def pair(self) -> tuple[Node, Node]:
        """Return `server` and `client`, who know each other."""
        server, client = await self.node("server", BOB), await self.node("client")
        for node, other in ((server, "client"), (client, "server")):
            await until(node, lambda node=node, other=other: _knows(node, other))
        return server, client


@pytest.fixture(autouse=True)
def nothing_native_left() -> Iterator[None]:
    before = json.loads(ffi.counters())
    yield
    after = json.loads(ffi.counters())
    assert {k: after[k] for k in LEFT_BEHIND} == {k: before[k] for k in LEFT_BEHIND}


@pytest.fixture(params=["fake", "real"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        if request.param == "fake":
            fake = FakeTailnet()

            async def make_fake(name: str, user: str, *, ephemeral: bool) -> Node:
                fake.add(name, user, ephemeral=ephemeral)
                return fake.node(name, tmp_path / name)

            yield World(fake, make_fake, stack)
            return
        testnet = await stack.enter_async_context(Testnet())

        async def make_real(name: str, user: str, *, ephemeral: bool) -> Node:
            options = NodeOptions(
                state_dir=tmp_path / name,
                hostname=name,
                control_url=testnet.control_url,
                auth_key=await testnet.auth_key(user),
                ephemeral=ephemeral,
                allow_testnet=True,
            )
            return Node(options)

        yield World(testnet, make_real, stack)


async def until(node: Node, check: Callable[[], Awaitable[T | None]]) -> T:
    """Look again at each notification until there is an answer."""
    async with asyncio.timeout(LIMIT_S), aclosing(node.notifications()) as news:
        async for _ in news:
            answer = await check()
            if answer is not None:
                return answer
    raise AssertionError("the node closed before it happened")


async def _knows(node: Node, label: str) -> bool | None:
    return any(peer.identity.name.startswith(f"{label}.") for peer in await node.peers()) or None


async def _whois(asker: Node, address: str, **wanted: object) -> None:
    """Wait until whois says what is wanted."""

    async def look() -> bool | None:
        identity = await asker.whois(address)
        return all(getattr(identity, name) == value for name, value in wanted.items()) or None

    await until(asker, look)


async def test_a_connection_carries_bytes_and_names_its_dialler(world: World) -> None:
    server, client = await world.pair()
    async with await server.listen(PORT) as listener:
        near = await client.dial("server", PORT)
        far, remote = await listener.accept()
        loop = asyncio.get_running_loop()
        with near, far:
            assert (near.gettimeout(), far.gettimeout()) == (0, 0)
            await loop.sock_sendall(near, b"over the tailnet")
            await loop.sock_sendall(far, await loop.sock_recv(far, 100))
            assert await loop.sock_recv(near, 100) == b"over the tailnet"
        assert remote.rpartition(":")[0] in (await client.status()).addresses
        assert (await server.whois(remote)).node_id == (await client.status()).node_id


async def test_a_peer_is_dialled_by_name_label_address_or_node_id(world: World) -> None:
    server, client = await world.pair()
    status = await server.status()
    async with await server.listen(PORT) as listener:
        names = ("server", status.name, status.name.upper() + ".", status.node_id)
        for peer in (*names, *status.addresses):
            with await client.dial(peer, PORT), (await listener.accept()).sock:
                pass


async def test_each_direction_closes_by_itself(world: World) -> None:
    server, client = await world.pair()
    async with await server.listen(PORT) as listener:
        near_reader, near_writer = await asyncio.open_connection(
            sock=await client.dial("server", PORT)
        )
        far_reader, far_writer = await asyncio.open_connection(sock=(await listener.accept()).sock)
        near_writer.write(b"question")
        near_writer.write_eof()
        assert await far_reader.read() == b"question"
        answer = b"answer" * 50_000
        far_writer.write(answer)
        far_writer.close()
        assert await near_reader.read() == answer
        near_writer.close()


async def test_a_stopped_reader_stops_the_writer_and_loses_nothing(world: World) -> None:
    server, client = await world.pair()
    loop = asyncio.get_running_loop()
    async with await server.listen(PORT) as listener:
        with await client.dial("server", PORT) as near, (await listener.accept()).sock as far:
            data = hashlib.shake_256(b"bulk").digest(BULK)
            sending = asyncio.create_task(loop.sock_sendall(near, data))
            done, _ = await asyncio.wait({sending}, timeout=0.5)
            assert not done, "all of it fitted into the buffers of a connection nobody reads"
            received, left = hashlib.sha256(), BULK
            while left:
                chunk = await loop.sock_recv(far, 1 << 18)
                received.update(chunk)
                left -= len(chunk)
            await sending
            assert received.digest() == hashlib.sha256(data).digest()


async def test_a_dial_that_reaches_nobody_says_why(world: World) -> None:
    server, client = await world.pair()
    own = (await client.status()).addresses[0]
    for target in ("127.0.0.1", "localhost", "::1", "100.99.1.1", "no-such-peer", own, ""):
        with pytest.raises(UnknownPeer):
            await client.dial(target, PORT)
    for port in (0, -1, 65536):
        with pytest.raises(NodeError):
            await client.dial("server", port)
        with pytest.raises(NodeError):
            await client.listen(port)
    with pytest.raises(Refused):
        await client.dial("server", PORT)
    await server.close()
    with pytest.raises(PeerUnreachable):
        await client.dial("server", PORT, timeout_s=0.3)


async def test_a_dial_can_be_cancelled(world: World) -> None:
    server, client = await world.pair()
    await server.close()
    dialling = asyncio.create_task(client.dial("server", PORT, timeout_s=60))
    await asyncio.wait({dialling}, timeout=0.1)
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling


async def test_a_listener_that_closes_ends_its_accept_and_frees_the_port(world: World) -> None:
    node = await world.node("node")
    listener = await node.listen(PORT)
    assert (listener.port, listener.fileno() >= 0) == (PORT, True)
    with pytest.raises(BlockingIOError):
        listener.accept_nowait()
    with pytest.raises(NodeError):
        await node.listen(PORT)
    accepting = asyncio.create_task(listener.accept())
    await asyncio.sleep(0)
    listener.close()
    with pytest.raises(NodeClosed):
        await accepting
    assert listener.fileno() < 0
    assert [connection async for connection in listener] == []

    async def again() -> bool:
        try:
            (await node.listen(PORT)).close()
        except NodeError:
            return False
        return True

    async with asyncio.timeout(LIMIT_S):
        while not await again():
            await asyncio.sleep(0.02)


async def test_a_node_that_closes_ends_all_it_has(world: World) -> None:
    server, client = await world.pair()
    away = await world.node("away")
    await until(client, lambda: _knows(client, "away"))
    await away.close()
    listener = await server.listen(PORT)
    near = await client.dial("server", PORT)
    far = (await listener.accept()).sock
    waiting = [await client.dial("server", PORT) for _ in range(BACKLOG)]
    other = await client.listen(PORT)
    accepting = asyncio.create_task(other.accept())
    dialling = asyncio.create_task(client.dial("away", PORT, timeout_s=60))
    await asyncio.wait({accepting, dialling}, timeout=0.1)
    await asyncio.gather(client.close(), client.close())
    for task in (accepting, dialling):
        with pytest.raises(NodeClosed):
            await task
    loop = asyncio.get_running_loop()
    with near, far, contextlib.ExitStack() as stack:
        assert await loop.sock_recv(far, 1) == b""
        async with asyncio.timeout(LIMIT_S):
            await server.close()
        for sock in waiting:
            assert await loop.sock_recv(stack.enter_context(sock), 1) == b""
    for one in (listener, other):
        with pytest.raises(NodeClosed):
            await one.accept()
        one.close()


async def test_a_node_works_between_start_and_close_only(world: World) -> None:
    node = await world.unstarted("node")

    async def refused() -> None:
        calls = (node.status(), node.peers(), node.whois("100.64.0.1"), node.dial("x", 1))
        for call in (*calls, node.listen(PORT)):
            with pytest.raises(NodeClosed):
                await call
        with pytest.raises(NodeClosed):
            await anext(node.notifications())

    await refused()
    await node.start()
    await node.start()
    assert (await node.up()).name.startswith("node.")
    await node.close()
    await refused()
    with pytest.raises(NodeClosed):
        await node.start()


async def test_a_node_knows_itself_and_the_others(world: World) -> None:
    server, client = await world.pair()
    own, [peer] = await client.status(), await client.peers()
    assert (own.state, own.user, own.tags, own.expired, own.key_expiry) == (
        "Running",
        ALICE,
        (),
        False,
        None,
    )
    assert (own.login_url, own.testnet) == ("", True)
    other = await server.status()
    assert (peer.identity.node_id, peer.identity.addresses) == (other.node_id, other.addresses)
    assert peer.identity.user == BOB
    assert peer.online
    for address in (*own.addresses, f"{own.addresses[0]}:1", f"[{own.addresses[1]}]:1"):
        identity = await server.whois(address)
        assert (identity.node_id, identity.name, identity.user) == (own.node_id, own.name, ALICE)
        marks = (identity.expired, identity.shared, identity.router, identity.ephemeral)
        assert not any(marks)


async def test_whois_and_peers_follow_what_the_tailnet_says(world: World) -> None:
    server, client = await world.pair()
    address = (await client.status()).addresses[0]
    ahead = datetime.now(UTC).replace(microsecond=0) + timedelta(days=10)
    await world.control.set_user("client", BOB)
    await _whois(server, address, user=BOB, tags=())
    await world.control.set_tags("client", ["tag:laptop", "tag:ci"])
    await _whois(server, address, user="", tags=("tag:laptop", "tag:ci"))
    await world.control.set_routes("client", ["10.77.0.0/24"])
    await _whois(server, address, router=True)
    await world.control.expire("client", ahead)
    await _whois(server, address, expired=False, key_expiry=ahead)
    await world.control.share("client", "carol@other.example")
    await _whois(server, address, shared=True)
    [peer] = await server.peers()
    assert (peer.identity.tags, peer.identity.router, peer.identity.shared) == (
        ("tag:laptop", "tag:ci"),
        True,
        True,
    )


async def test_an_expired_peer_answers_whois_and_is_not_dialled(world: World) -> None:
    server, client = await world.pair()
    await world.control.expire("server", LONG_AGO)
    await _whois(client, (await server.status()).addresses[0], expired=True)

    async def told() -> bool | None:
        return next(peer.identity.expired for peer in await client.peers()) or None

    await until(client, told)
    with pytest.raises(KeyExpired):
        await client.dial("server", PORT)


async def test_who_is_gone_or_never_was_is_unknown(world: World) -> None:
    server, client = await world.pair()
    brief = await world.node("brief", ephemeral=True)
    addresses = [(await node.status()).addresses[0] for node in (client, brief)]
    await _whois(server, addresses[1], ephemeral=True)
    await world.control.delete("client")
    await brief.close()

    async def unknown() -> bool | None:
        for address in addresses:
            with contextlib.suppress(IdentityUnknown):
                await server.whois(address)
                return None
        return True

    await until(server, unknown)
    for address in ("127.0.0.1:80", "100.99.1.1", "[::1]:22", "", "client", "100.64.0.1:x", "\0"):
        with pytest.raises(IdentityUnknown):
            await server.whois(address)


async def test_notifications_begin_with_the_present_and_name_who_changes(world: World) -> None:
    node = await world.node("node")
    async with asyncio.timeout(LIMIT_S), aclosing(node.notifications()) as news:
        assert (await anext(news)).state == "Running"
        peer_id = (await (await world.node("peer")).status()).node_id
        while peer_id not in (await anext(news)).peers_changed:
            pass
        await world.control.expire("peer", LONG_AGO)
        while peer_id not in (await anext(news)).peers_changed:
            pass
        await world.control.delete("peer")
        while peer_id not in (await anext(news)).peers_removed:
            pass
        await node.close()
        async for _ in news:
            pass


async def test_a_copy_of_the_fake_reaches_the_nodes_of_the_first(tmp_path: Path) -> None:
    first = FakeTailnet()
    for name in ("server", "client"):
        first.add(name, ALICE)
    server = first.node("server", tmp_path / "server")
    client = FakeTailnet.load(first.dump()).node("client", tmp_path / "client")
    async with server, client, await server.listen(PORT) as listener:
        assert isinstance(client, FakeNode)
        with await client.dial("server", PORT), (await listener.accept()).sock:
            pass
        assert await client.whois((await server.status()).addresses[0])
