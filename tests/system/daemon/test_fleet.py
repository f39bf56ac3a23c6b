"""A fleet query over real daemons: rows of each that lets them be seen, and a word of each other."""

import asyncio
import contextlib
import hashlib
import json
import signal
import subprocess
from pathlib import Path
from typing import Any, cast

import duckdb
import pytest

from cmesh.daemon.answers import SqlView
from cmesh.daemon.arguments import SqlArguments, TrustArguments
from cmesh.errors import LinkError, SecretFound, UnknownPeer
from cmesh.model import TaskId
from cmesh.node.node import Node
from cmesh.node.testnet import Testnet
from cmesh.protocol.codec import encode_chunk
from cmesh.protocol.features import TAKES
from cmesh.protocol.messages import Sql, SqlAnswer, SqlFile
from cmesh.protocol.receipts import head_bytes
from tests.fakes.link_peer import Channel, LinkPeer
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import Machine, as_user, eventually, worker_user
from tests.system.daemon.test_bad_peers import options, standing

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

TASKS = "SELECT prompt FROM tasks WHERE direction = 'in'"


def rule(operation: str) -> str:
    return f"""
[[inbound.allow]]
name = "may query"
peers = ["user:me@example.com"]
operations = ["{operation}"]
"""


async def ask(machine: Machine, sql: str, *peers: str, **more: Any) -> SqlView:
    arguments = SqlArguments.model_validate({"sql": sql, "peers": list(peers), **more})
    return SqlView.model_validate(await machine.call("sql", arguments))


async def test_each_machine_answers_by_its_own_rules_and_who_does_not_is_named(
    make_machine: MakeMachine, ground: Path, testnet: Testnet
) -> None:
    place = ground / "fleet"
    place.mkdir(mode=0o755)
    work = command("true", "/bin/true") + inbound(place, ["command:true"])
    captain = await make_machine("captain", OUTBOUND)
    tells = await make_machine("tells", work + rule("sql_own"))
    denies = await make_machine("denies", work)
    gone = await make_machine("gone", work)
    workers = (tells, denies, gone)
    await asyncio.gather(*(machine.up() for machine in (captain, *workers)))
    for machine in workers:
        await captain.delegate(machine.name, "command:true", place, wait_s=0)
        await machine.trust(captain)
    await tells.ended((await captain.delegate("tells", "command:true", place)).task_id)
    await gone.stop()
    async with contextlib.AsyncExitStack() as stack:
        node = await stack.enter_async_context(
            Node(await options(testnet, ground / "older-state", "older"))
        )
        await node.up()
        peer = LinkPeer(node, (await node.status()).node_id)
        peer.takes = ("turns",)
        await stack.enter_async_context(peer)
        with contextlib.suppress(LinkError):
            await peer.dial((await captain.status()).addresses[0])
        assert await standing(captain, peer) == "waiting"
        await captain.call("trust_peer", TrustArguments(peer="older"))

        view = await ask(captain, TASKS, "all")
        states = {node.node: (node.state, node.code) for node in view.nodes}
        assert states == {
            "captain": ("answered", ""),
            "tells": ("answered", ""),
            "denies": ("denied", "policy_denied"),
            "gone": ("offline", "peer_unreachable"),
            "older": ("too_old", "peer_outdated"),
        }
        await a_file_that_is_a_bomb_costs_its_sender_its_rows(captain, peer, ground)
    assert view.columns == ["node", "prompt"]
    assert {row[0] for row in view.rows} == {"tells"}  # the captain was asked for nothing
    there = next(node for node in view.nodes if node.node == "tells")
    assert (there.scope, there.rows > 0, len(there.head_hash)) == ("own", True, 64)
    receipts = "SELECT count(*) FROM receipts WHERE peer_name = 'tells' AND head_seq = "
    assert (await captain.sql(f"{receipts}{there.head_seq}"))[0][0] >= 1
    # Both sides have written down the same queries, and what became of them.
    queries = "SELECT data->>'$.query' FROM audit WHERE kind = '{}' ORDER BY seq"
    tells_id = (await tells.status()).node_id
    of_tells = f"query_asked' AND data->>'$.peer_id' = '{tells_id}"
    asked = await captain.sql(queries.format(of_tells))
    assert len(asked) == 2
    assert asked == await tells.sql(queries.format("query_received"))
    ends = await tells.sql(
        "SELECT data->>'$.state', data->>'$.scope' FROM audit WHERE kind = 'query_answered'"
    )
    assert ends == [["answered", "own"]] * 2
    [[denied]] = await denies.sql("SELECT operation FROM denials")
    assert denied == "sql_own"

    with pytest.raises(UnknownPeer):
        await ask(captain, TASKS, "tells", "nobody")
    with pytest.raises(SecretFound):
        await ask(captain, "SELECT 'sk-ant-api03-" + "a1B2" * 24 + "'", "tells")
    wrong = await ask(captain, "SELECT * FROM taskz", "tells", local=False)
    assert [(node.state, node.code) for node in wrong.nodes] == [("failed", "query_failed")]
    assert "taskz" in wrong.nodes[0].reason

    shown = await asyncio.to_thread(captain.cli, "sql", TASKS, "--peers", "tells,gone")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("node")
    assert "gone" in shown.stderr
    assert "2 of 3 nodes answered" in shown.stderr
    none = await asyncio.to_thread(
        captain.cli, "sql", TASKS, "--peers", "denies", "--no-local", "--json"
    )
    assert none.returncode == 75
    assert json.loads(none.stdout)["nodes"][0]["state"] == "denied"
    explained = await asyncio.to_thread(
        tells.cli, "policy", "explain", "captain", "--inbound", "--operation", "sql_own"
    )
    assert explained.stdout.startswith("allow, by rule `may query`")
    async with captain.mcp() as agent:
        told = await agent.call("query", sql=TASKS, peers=["tells"])
    nodes = cast("list[dict[str, str]]", told.fields["nodes"])
    assert [node["state"] for node in nodes] == ["answered", "answered"]

    await cancelled_everywhere(captain, tells)


async def a_file_that_is_a_bomb_costs_its_sender_its_rows(
    captain: Machine, peer: LinkPeer, ground: Path
) -> None:
    select = "SELECT repeat('a', 200000000) AS prompt"
    with duckdb.connect(":memory:") as connection:
        made = f"COPY ({select}) TO '{ground}/bomb' (FORMAT parquet, COMPRESSION zstd)"
        await asyncio.to_thread(connection.execute, made)
    peer.takes = TAKES
    channel = await peer.dial((await captain.status()).addresses[0])
    sending = asyncio.create_task(answer(peer, channel, (ground / "bomb").read_bytes()))
    view = await ask(captain, TASKS, "tells", "older", local=False)
    await sending
    states = {node.node: (node.state, node.code) for node in view.nodes}
    assert states == {
        "tells": ("answered", ""),
        "older": ("bad_answer", "remote_protocol_error"),
    }
    assert "file" in next(node.reason for node in view.nodes if node.node == "older")
    assert {row[0] for row in view.rows} == {"tells"}


async def answer(peer: LinkPeer, channel: Channel, data: bytes) -> None:
    """Answer the next query with these bytes, as a peer would whose file is all right."""
    message = await channel.receive()
    while not isinstance(message, Sql):
        message = await channel.receive()
    sha256, head = hashlib.sha256(data).hexdigest(), "ab" * 32
    file = SqlFile(
        sha256=sha256,
        bytes=len(data),
        rows=1,
        scope="all",
        head_seq=1,
        head_hash=head,
        signature=peer.key.sign(head_bytes(peer.node_id, 1, head)),
    )
    await channel.send(SqlAnswer(query_id=message.query_id, file=file))
    await channel.raw(encode_chunk(TaskId(message.query_id), sha256, 0, data, final=True))


async def cancelled_everywhere(captain: Machine, tells: Machine) -> None:
    """Ctrl-C at the command ends the query on the peer."""
    argv = captain.command(
        "sql", "SELECT sleep_ms(60000)", "--peers", "tells", "--no-local", "--timeout", "60s"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(argv, env=captain.environment(), **pipes, **as_user(worker_user()))
    received = "SELECT count(*) FROM audit WHERE kind = 'query_received' AND data->>'$.sql' LIKE '%sleep_ms%'"

    async def runs() -> bool | None:
        return (await tells.sql(received)) == [[1]] or None

    await eventually(runs)
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.communicate, timeout=30)

    async def ended() -> bool | None:
        rows = await tells.sql(
            "SELECT data->>'$.state' FROM audit WHERE kind = 'query_answered' ORDER BY seq DESC"
        )
        return rows[0] == ["cancelled"] or None

    await eventually(ended)
