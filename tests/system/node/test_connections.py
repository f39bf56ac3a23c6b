"""Bytes over the tailnet: echo, half-close, backpressure, what a dial may reach."""

import asyncio
import contextlib
import hashlib
import json
import socket

import pytest

from cmesh.errors import KeyExpired, NodeClosed, NodeError, PeerUnreachable, UnknownPeer
from cmesh.node import ffi
from cmesh.node.node import Node
from cmesh.node.testnet import Testnet
from tests.system.node.support import Eventually, MakeNode, Until

pytestmark = [pytest.mark.anyio, pytest.mark.system]

PORT = 7
BULK = 16 * 1024 * 1024
BACKLOG = 100
CLOSE_LIMIT_S = 5.0


async def _pair(make_node: MakeNode, until: Until) -> tuple[Node, Node]:
    server, client = await make_node("server"), await make_node("client")

    async def known() -> bool | None:
        return any(p.identity.name.startswith("server.") for p in await client.peers()) or None

    await until(client, known)
    return server, client


async def test_two_nodes_echo(make_node: MakeNode, until: Until) -> None:
    server, client = await _pair(make_node, until)
    async with await server.listen(PORT) as listener:
        near = await client.dial("server", PORT)
        far, remote = await listener.accept()
        loop = asyncio.get_running_loop()
        with near, far:
            await loop.sock_sendall(near, b"over the tailnet")
            await loop.sock_sendall(far, await loop.sock_recv(far, 100))
            assert await loop.sock_recv(near, 100) == b"over the tailnet"
        assert remote.rpartition(":")[0] in (await client.status()).addresses


async def test_a_peer_is_dialled_by_name_label_address_or_node_id(
    make_node: MakeNode, until: Until
) -> None:
    server, client = await _pair(make_node, until)
    status = await server.status()
    async with await server.listen(PORT) as listener:
        for peer in (status.name, status.name.upper() + ".", *status.addresses, status.node_id):
            with await client.dial(peer, PORT), (await listener.accept()).sock:
                pass


async def test_half_close_keeps_the_other_direction_open(make_node: MakeNode, until: Until) -> None:
    server, client = await _pair(make_node, until)
    async with await server.listen(PORT) as listener:
        near = await client.dial("server", PORT)
        near_reader, near_writer = await asyncio.open_connection(sock=near)
        far_reader, far_writer = await asyncio.open_connection(sock=(await listener.accept()).sock)
        near_writer.write(b"question")
        near_writer.write_eof()
        assert await far_reader.read() == b"question"
        answer = b"answer" * 50_000
        far_writer.write(answer)
        far_writer.close()
        assert await near_reader.read() == answer
        near_writer.close()


async def test_a_full_close_ends_the_other_side(make_node: MakeNode, until: Until) -> None:
    server, client = await _pair(make_node, until)
    async with await server.listen(PORT) as listener:
        near = await client.dial("server", PORT)
        far = (await listener.accept()).sock
        near.close()
        with far:
            assert await asyncio.get_running_loop().sock_recv(far, 1) == b""


async def test_a_stopped_reader_stops_the_writer_and_loses_nothing(
    make_node: MakeNode, until: Until
) -> None:
    server, client = await _pair(make_node, until)
    loop = asyncio.get_running_loop()
    async with await server.listen(PORT) as listener:
        near = await client.dial("server", PORT)
        far = (await listener.accept()).sock
        with near, far:
            data = hashlib.shake_256(b"bulk").digest(BULK)
            sending = asyncio.create_task(loop.sock_sendall(near, data))
            done, _ = await asyncio.wait({sending}, timeout=1.0)
            assert not done, "16 MiB fitted into the buffers of a connection nobody reads"
            received = hashlib.sha256()
            left = BULK
            while left:
                chunk = await loop.sock_recv(far, 1 << 18)
                received.update(chunk)
                left -= len(chunk)
            await sending
            assert received.digest() == hashlib.sha256(data).digest()


async def test_a_dial_never_leaves_the_tailnet(make_node: MakeNode, until: Until) -> None:
    _server, client = await _pair(make_node, until)
    own = (await client.status()).addresses[0]
    with socket.create_server(("127.0.0.1", 0)) as host_service:
        port = host_service.getsockname()[1]
        for target in ("127.0.0.1", "localhost", "::1", "100.99.1.1", "no-such-peer", own, ""):
            with pytest.raises(UnknownPeer):
                await client.dial(target, port)
        host_service.setblocking(False)
        with pytest.raises(BlockingIOError):
            host_service.accept()


async def test_a_dial_ends_at_its_deadline(make_node: MakeNode, until: Until) -> None:
    server, client = await _pair(make_node, until)
    await server.close()
    with pytest.raises(PeerUnreachable):
        await client.dial("server", PORT, timeout_s=0.3)


async def test_a_closed_port_is_refused(make_node: MakeNode, until: Until) -> None:
    _server, client = await _pair(make_node, until)
    with pytest.raises(PeerUnreachable, match="refused"):
        await client.dial("server", PORT)


@pytest.mark.parametrize("port", [0, -1, 65536])
async def test_a_port_out_of_range_is_refused(make_node: MakeNode, port: int) -> None:
    node = await make_node("node")
    with pytest.raises(NodeError):
        await node.dial("node", port)
    with pytest.raises(NodeError):
        await node.listen(port)


async def test_a_peer_with_an_expired_key_is_not_dialled(
    make_node: MakeNode, until: Until, testnet: Testnet, long_ago: object
) -> None:
    _server, client = await _pair(make_node, until)
    await testnet.expire("server", long_ago)  # type: ignore[arg-type]

    async def expired() -> bool | None:
        return next(p.identity.expired for p in await client.peers()) or None

    await until(client, expired)
    with pytest.raises(KeyExpired):
        await client.dial("server", PORT)


async def test_cancelling_a_dial_ends_it_in_the_native_node(
    make_node: MakeNode,
    until: Until,
    eventually: Eventually,
) -> None:
    server, client = await _pair(make_node, until)
    await server.close()
    dialling = asyncio.create_task(client.dial("server", PORT, timeout_s=60))
    await eventually(lambda: json.loads(ffi.counters())["operations"] == 1)
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    await eventually(lambda: json.loads(ffi.counters())["operations"] == 0)


async def test_closing_the_node_ends_dials_accepts_and_connections(
    make_node: MakeNode,
    until: Until,
    eventually: Eventually,
) -> None:
    server, client = await _pair(make_node, until)
    away = await make_node("away")
    listener = await client.listen(PORT)

    async def connect() -> socket.socket | None:
        try:
            return await server.dial("client", PORT, timeout_s=1)
        except NodeError:
            return None

    near = await until(server, connect)
    far = (await listener.accept()).sock

    async def away_known() -> bool | None:
        return len(await client.peers()) == 2 or None

    await until(client, away_known)
    await away.close()
    accepting = asyncio.create_task(listener.accept())
    dialling = asyncio.create_task(client.dial("away", PORT, timeout_s=60))
    await eventually(lambda: json.loads(ffi.counters())["operations"] == 1)
    await client.close()
    for task in (accepting, dialling):
        with pytest.raises(NodeClosed):
            await task
    with near, far:
        assert await asyncio.get_running_loop().sock_recv(far, 1) == b""
    listener.close()


async def test_a_closed_listener_ends_its_accept_and_frees_the_port(
    make_node: MakeNode, eventually: Eventually
) -> None:
    node = await make_node("node")
    listener = await node.listen(PORT)
    accepting = asyncio.create_task(listener.accept())
    await asyncio.sleep(0)
    listener.close()
    with pytest.raises(NodeClosed):
        await accepting
    assert [c async for c in listener] == []
    await eventually(lambda: json.loads(ffi.counters())["listeners"] == 0)
    (await node.listen(PORT)).close()


async def test_what_nobody_accepts_does_not_hold_up_a_close(
    make_node: MakeNode, until: Until
) -> None:
    server, client = await _pair(make_node, until)
    with contextlib.closing(await server.listen(PORT)) as listener:
        near = [await client.dial("server", PORT) for _ in range(BACKLOG)]
        async with asyncio.timeout(CLOSE_LIMIT_S):
            await server.close()
        with pytest.raises(NodeClosed):
            await listener.accept()
        for sock in near:
            with sock:
                assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""


async def test_a_name_with_a_nul_names_nobody(make_node: MakeNode) -> None:
    node = await make_node("node")
    with pytest.raises(NodeError, match="NUL"):
        await node.dial("node\0x", PORT)
    with pytest.raises(NodeError):
        await node.dial("node", 2**40)


async def test_ping_says_how_it_went(make_node: MakeNode, until: Until) -> None:
    _server, client = await _pair(make_node, until)
    answer = await client.ping("server")
    assert answer.latency_s > 0
    assert bool(answer.direct) != bool(answer.relay)
    with pytest.raises(UnknownPeer):
        await client.ping("no-such-peer")
