"""After much use, descriptors, goroutines and handle tables are where they were."""

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmesh.node import ffi
from cmesh.node.listener import Listener
from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet
from tests.system.node.support import ALICE, Eventually, MakeNode, Until

pytestmark = [pytest.mark.anyio, pytest.mark.system]

CONNECTIONS = 1000
NODES = 100
CLOSE_LIMIT_S = 3.0
EXTRA_THREADS = 16  # what two cores and a thread pool may add over a hundred nodes


# Go makes goroutines of its own for clean-ups and finalizers, on demand, one a processor at most.
RUNTIME_GOROUTINES = 1 + (os.cpu_count() or 1)


@dataclass(frozen=True)
class Use:
    descriptors: int
    goroutines: int
    connections: int
    threads: int

    @staticmethod
    def now() -> "Use":
        counters = json.loads(ffi.counters())
        return Use(
            descriptors=len(list(Path("/proc/self/fd").iterdir())),
            goroutines=counters["goroutines"],
            connections=counters["connections"],
            threads=len(list(Path("/proc/self/task").iterdir())),
        )

    def within(self, other: "Use") -> bool:
        return (
            self.descriptors <= other.descriptors
            and self.goroutines <= other.goroutines + RUNTIME_GOROUTINES
            and self.connections <= other.connections
        )


async def _echo_once(client: Node, listener: Listener) -> None:
    loop = asyncio.get_running_loop()
    near = await client.dial("server", 7)
    far, _ = await listener.accept()
    with near, far:
        await loop.sock_sendall(near, b"ping")
        await loop.sock_sendall(far, await loop.sock_recv(far, 4))
        assert await loop.sock_recv(near, 4) == b"ping"


async def test_a_thousand_connections_leave_nothing(
    make_node: MakeNode,
    until: Until,
    eventually: Eventually,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server, client = await make_node("server"), await make_node("client")

    async def known() -> bool | None:
        return bool(await client.peers()) or None

    await until(client, known)
    async with await server.listen(7) as listener:
        for _ in range(20):
            await _echo_once(client, listener)
        await eventually(lambda: Use.now().connections == 0)
        baseline = Use.now()
        for _ in range(CONNECTIONS):
            await _echo_once(client, listener)
        await eventually(lambda: Use.now().within(baseline))
    last = Use.now()
    with capsys.disabled():
        print(f"\n{CONNECTIONS} connections in turn: before {baseline}, after {last}")
    # More lingering connections than the stack's queue has slots once hung a close for ever.
    async with asyncio.timeout(CLOSE_LIMIT_S):
        await client.close()
        await server.close()


async def test_a_hundred_nodes_leave_nothing(
    testnet: Testnet,
    tmp_path: Path,
    eventually: Eventually,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = await testnet.auth_key(ALICE, reusable=True)
    second = Use.now()
    for number in range(1, NODES + 1):
        options = NodeOptions(
            state_dir=tmp_path / str(number),
            hostname=f"n{number}",
            control_url=testnet.control_url,
            auth_key=key,
            ephemeral=True,
            allow_testnet=True,
        )
        async with Node(options) as node:
            await node.up()
        if number == 2:
            second = Use.now()
    await eventually(lambda: Use.now().within(second))
    last = Use.now()
    with capsys.disabled():
        print(f"\n{NODES} nodes up and closed in turn: second {second}, last {last}")
    assert last.threads <= second.threads + EXTRA_THREADS
