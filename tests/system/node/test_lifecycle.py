"""Starting and closing nodes: who may hold a state directory, what close ends."""

import asyncio
import json
import socket
import subprocess
import sys
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import pytest

from cmesh.errors import NodeClosed, NodeError, UnsafePermissions
from cmesh.node import ffi
from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet
from tests.system.node.support import EVENT_LIMIT_S, MakeNode

pytestmark = [pytest.mark.anyio, pytest.mark.system]

PROCESS_LIMIT_S = 30
ROOT = Path(__file__).parents[3]


async def test_closing_ends_a_pending_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        node = Node(NodeOptions(state_dir=tmp_path / "n", hostname="n", control_url=url))
        await node.start()
        rising = asyncio.create_task(node.up())
        connection, _ = await asyncio.to_thread(silent.accept)  # the node is at it
        await node.close()
        connection.close()
        with pytest.raises(NodeClosed):
            await rising


async def test_a_control_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = NodeOptions(state_dir=tmp_path / "n", hostname="n", control_url=url)
        async with Node(options) as node:
            with pytest.raises(NodeError, match=url):
                await node.up(timeout_s=0.3)


async def test_close_is_idempotent_and_ends_use(make_node: MakeNode) -> None:
    node = await make_node("node")
    await asyncio.gather(node.close(), node.close())
    await node.close()
    for call in (node.status(), node.peers(), node.whois("100.64.0.1"), node.dial("x", 1)):
        with pytest.raises(NodeClosed):
            await call


async def test_a_close_that_crosses_a_start_leaves_no_node(
    testnet: Testnet, tmp_path: Path
) -> None:
    options = NodeOptions(state_dir=tmp_path / "n", hostname="n", control_url=testnet.control_url)
    for _ in range(10):
        node = Node(options)
        starting = asyncio.create_task(node.start())
        await asyncio.sleep(0)  # the start is submitted to its thread, no more
        await node.close()
        await asyncio.wait({starting})
        if starting.exception() is not None:
            assert isinstance(starting.exception(), NodeClosed)
        assert json.loads(ffi.counters())["nodes"] == 0


async def test_a_start_that_failed_can_be_tried_again(testnet: Testnet, tmp_path: Path) -> None:
    log = tmp_path / "missing" / "node.log"
    options = NodeOptions(
        state_dir=tmp_path / "n", hostname="n", control_url=testnet.control_url, log_file=log
    )
    node = Node(options)
    with pytest.raises(FileNotFoundError):
        await node.start()
    with pytest.raises(NodeClosed, match="not started"):
        await node.status()
    log.parent.mkdir()
    await node.start()
    assert (await node.status()).state
    await node.close()


async def test_a_restarted_node_has_the_udp_port_that_peers_send_to(
    testnet: Testnet, tmp_path: Path
) -> None:
    options = NodeOptions(state_dir=tmp_path / "n", hostname="n", control_url=testnet.control_url)
    ports = set[int]()
    for _ in range(3):
        async with Node(options) as node:
            ports.add((await node.status()).port)
    assert len(ports) == 1
    assert ports != {0}


async def test_a_port_that_somebody_took_meanwhile_is_given_up(
    testnet: Testnet, tmp_path: Path
) -> None:
    options = NodeOptions(state_dir=tmp_path / "n", hostname="n", control_url=testnet.control_url)
    async with Node(options) as node:
        old = (await node.status()).port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", old))
        async with Node(options) as node:
            new = (await node.status()).port
    assert new not in {0, old}
    async with Node(options) as node:
        assert (await node.status()).port == new


async def test_a_node_must_be_started(tmp_path: Path) -> None:
    node = Node(NodeOptions(state_dir=tmp_path / "n", hostname="n"))
    with pytest.raises(NodeClosed, match="not started"):
        await node.status()
    await node.close()


async def test_notifications_end_when_the_node_closes(make_node: MakeNode) -> None:
    node = await make_node("node")
    async with asyncio.timeout(EVENT_LIMIT_S), aclosing(node.notifications()) as news:
        assert (await anext(news)).state == "Running"
        await node.close()
        async for _ in news:
            pass


async def test_notifications_name_peers_that_come_change_and_go(
    make_node: MakeNode, testnet: Testnet, long_ago: datetime
) -> None:
    node = await make_node("node")
    async with asyncio.timeout(EVENT_LIMIT_S), aclosing(node.notifications()) as news:
        await anext(news)
        peer = await make_node("peer")
        peer_id = (await peer.status()).node_id
        while peer_id not in (await anext(news)).peers_changed:
            pass
        await testnet.expire("peer", long_ago)
        while peer_id not in (await anext(news)).peers_changed:
            pass
        await testnet.delete("peer")
        while peer_id not in (await anext(news)).peers_removed:
            pass


async def test_a_coming_expiry_of_the_own_key_is_announced(
    make_node: MakeNode, testnet: Testnet, in_ten_days: datetime
) -> None:
    node = await make_node("node")
    async with asyncio.timeout(EVENT_LIMIT_S), aclosing(node.notifications()) as news:
        await testnet.expire("node", in_ten_days)
        while (await anext(news)).key_expiry != in_ten_days:
            pass
    assert (await node.status()).key_expiry == in_ten_days


async def test_a_second_node_on_a_state_directory_is_refused(
    make_node: MakeNode, tmp_path: Path
) -> None:
    await make_node("node")
    second = Node(NodeOptions(state_dir=tmp_path / "node", hostname="n"))
    with pytest.raises(NodeError, match="in use by process"):
        await second.start()
    await second.close()


async def test_a_second_process_on_a_state_directory_is_refused(
    make_node: MakeNode, tmp_path: Path
) -> None:
    await make_node("node")
    script = f"""
import asyncio
from pathlib import Path
from cmesh.errors import NodeError
from cmesh.node.node import Node, NodeOptions
async def main():
    node = Node(NodeOptions(state_dir=Path({str(tmp_path / "node")!r}), hostname="n"))
    try:
        await node.start()
    except NodeError as error:
        print(error.message)
    await node.close()
asyncio.run(main())
"""
    assert "in use by process" in await asyncio.to_thread(_run, script)


async def test_a_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n").mkdir(mode=0o777)
    (tmp_path / "n").chmod(0o777)
    node = Node(NodeOptions(state_dir=tmp_path / "n", hostname="n"))
    with pytest.raises(UnsafePermissions):
        await node.start()
    await node.close()


async def test_a_forked_child_is_refused() -> None:
    script = """
import os
from cmesh.errors import NodeClosed
from cmesh.node import ffi
ffi.counters()
child = os.fork()
if child == 0:
    try:
        ffi.counters()
    except NodeClosed as error:
        os.write(1, error.message.encode())
    os._exit(0)
os.waitpid(child, 0)
"""
    assert "after `fork`" in await asyncio.to_thread(_run, script)


async def test_node_descriptors_do_not_reach_children(make_node: MakeNode) -> None:
    script = "import os\nfor fd in os.listdir('/proc/self/fd'):\n print(fd)"
    before = await asyncio.to_thread(_run, script)
    node = await make_node("node")
    async with await node.listen(7), aclosing(node.notifications()) as news:
        await anext(news)
        assert await asyncio.to_thread(_run, script) == before


async def test_the_log_goes_where_it_is_told(testnet: Testnet, tmp_path: Path) -> None:
    await testnet.set_auto_user("alice@example.com")
    options = NodeOptions(
        state_dir=tmp_path / "n",
        hostname="n",
        control_url=testnet.control_url,
        log_file=tmp_path / "node.log",
        allow_testnet=True,
    )
    async with Node(options) as node:
        await node.up()
    assert "Switching ipn state" in (tmp_path / "node.log").read_text("utf-8")


def test_the_version_is_told() -> None:
    assert ffi.version().count(".") == 2


def _run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PROCESS_LIMIT_S,
        check=True,
        close_fds=False,
        cwd=ROOT,
    )
    return done.stdout
