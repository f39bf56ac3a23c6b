"""Connections of the real node, beyond what tests/contract/test_node.py asks of any node."""

import asyncio
import contextlib
import json
import socket

import pytest

from cmesh.errors import NodeClosed, NodeError, UnknownPeer
from cmesh.node import ffi
from cmesh.node.node import Node
from tests.system.node.support import Eventually, MakeNode, Until

pytestmark = [pytest.mark.anyio, pytest.mark.system]

PORT = 7
BACKLOG = 100
CLOSE_LIMIT_S = 5.0


async def _pair(make_node: MakeNode, until: Until) -> tuple[Node, Node]:
    server, client = await make_node("server"), await make_node("client")

    async def known() -> bool | None:
        return any(p.identity.name.startswith("server.") for p in await client.peers()) or None

    await until(client, known)
    return server, client


async def test_a_full_close_ends_the_other_side(make_node: MakeNode, until: Until) -> None:
    server, client = await _pair(make_node, until)
    async with await server.listen(PORT) as listener:
        near = await client.dial("server", PORT)
        far = (await listener.accept()).sock
        near.close()
        with far:
            assert await asyncio.get_running_loop().sock_recv(far, 1) == b""


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
