"""A query of twenty nodes, against what the slowest of them took in the same run.

Ten nodes have stores of their own, with tasks in them, and run the statement confined; ten are
fakes that send a file made before, because twenty stores want gigabytes. All share this machine's
processors, so that a node's own time has the others' in it; links are in memory. The asker reads
every file in its confined process and joins the rows, as the daemon does.
"""

import asyncio
import hashlib
import json
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import uuid_utils

from benchmarks.stage import Stage
from benchmarks.table import Row, timing
from cmesh.daemon.fleet_words import unite
from cmesh.link.link import Link
from cmesh.model import TaskId
from cmesh.protocol.codec import encode_chunk
from cmesh.protocol.messages import Message, Sql, SqlAnswer, SqlFile
from cmesh.protocol.receipts import head_bytes
from cmesh.store.answer import Answer, AnswerFiles
from cmesh.store.confined import Confinement
from cmesh.store.records import SqlRows
from tests.fakes.half import Half, StillClock, connect

__all__ = ["measure"]

REAL, FAKE, TASKS, ROUNDS = 10, 10, 200, 5
GOAL = 2.0
SELECT = "SELECT peer, state, count(*) AS tasks, max(created_at) AS latest FROM tasks GROUP BY ALL"
RULE = """
[[inbound.allow]]
name = "may query"
peers = ["user:me@example.com"]
operations = ["sql_all"]
"""


async def measure(made: Stage, count: int) -> list[Row]:
    """Return the times of a fleet query, and of the slowest node in it."""
    rounds = max(2, min(ROUNDS, count // 3))
    async with AsyncExitStack() as stack:
        name = tempfile.TemporaryDirectory(prefix="fleet-", dir=made.base)
        base = Path(stack.enter_context(name))
        clock = StillClock()
        asker = Half("asker", base, clock)
        await asker.start()
        stack.push_async_callback(asker.stop)
        links = [await _real(stack, asker, base, number) for number in range(REAL)]
        canned = await _canned(base)
        links += [await _fake(stack, asker, base, number, canned) for number in range(FAKE)]
        await _ask(asker, [link for link, _ in links])  # copies are made, processes are warm
        pairs: list[tuple[float, float]] = []
        for _ in range(rounds):
            for _, own in links:
                own.clear()
            whole = await _ask(asker, [link for link, _ in links])
            pairs.append((whole, max(max(own) for _, own in links if own)))
    ratio = statistics.median(whole / own for whole, own in pairs)
    wholes = [whole for whole, _ in pairs]
    return [
        timing(f"fleet query, {REAL + FAKE} nodes ({FAKE} of them fakes)", wholes),
        timing("the slowest of them by itself, same run", [own for _, own in pairs]),
        Row(
            name="fleet query against its slowest node's own time, same run",
            unit="x",
            figures={"p50": ratio},
            goal=f"<= {GOAL:g}",
            met=ratio <= GOAL,
            note="all nodes share one machine's processors",
        ),
    ]


async def _ask(asker: Half, links: list[Link]) -> float:
    """Return the seconds of one query of all links, the reading and joining of rows included."""
    begun = time.perf_counter()
    async with asker.store.answer_files() as files:
        answers = await asyncio.gather(*(_one(asker, link, files) for link in links))
    assert len(unite(answers)[2]) >= len(links)
    return time.perf_counter() - begun


async def _one(asker: Half, link: Link, files: AnswerFiles) -> tuple[str, SqlRows]:
    message = Sql(query_id=str(uuid_utils.uuid7()), sql=SELECT)
    taken = await asker.caller.queries.ask(link, message, asker.store.incoming)
    try:
        return link.identity.name, await files.read(taken.path, 1_000, 100_000)
    finally:
        taken.path.unlink()


async def _linked(stack: AsyncExitStack, asker: Half, node: Half) -> Link:
    await node.start()
    stack.push_async_callback(node.stop)
    asker.wire = None  # so that the link before stays
    await connect(asker, node)
    assert asker.link is not None
    return asker.link


async def _real(
    stack: AsyncExitStack, asker: Half, base: Path, number: int
) -> tuple[Link, list[float]]:
    """Return a link to a node with a store, and where the seconds of its answers are put."""
    node, own = Half(f"node{number}", base, asker.clock), list[float]()
    node.configure(node.rule() + RULE)
    link = await _linked(stack, asker, node)
    await node.store.commit([node.record(asker, prompt=f"task {n}") for n in range(TASKS)])
    answer = node.store.answer

    async def timed(*arguments: Any) -> Answer:
        begun = time.perf_counter()
        try:
            return await answer(*arguments)
        finally:
            own.append(time.perf_counter() - begun)

    cast("Any", node.store).answer = timed
    return link, own


async def _fake(
    stack: AsyncExitStack, asker: Half, base: Path, number: int, data: bytes
) -> tuple[Link, list[float]]:
    """Return a link to a node that answers at once with a file made before."""
    node = Half(f"fake{number}", base, asker.clock)
    sha256 = hashlib.sha256(data).hexdigest()
    sending: set[asyncio.Task[None]] = set()

    def on_message(link: Link, message: Message) -> None:
        if not isinstance(message, Sql):
            return
        signature = node.key.sign(head_bytes(node.node_id, 1, "ab" * 32))
        file = SqlFile(
            sha256=sha256,
            bytes=len(data),
            rows=1,
            scope="all",
            head_seq=1,
            head_hash="ab" * 32,
            signature=signature,
        )
        link.post(SqlAnswer(query_id=message.query_id, file=file))
        chunk = encode_chunk(TaskId(message.query_id), sha256, 0, data, final=True)
        task = asyncio.ensure_future(link.send(chunk))
        sending.add(task)
        task.add_done_callback(sending.discard)

    cast("Any", node).on_message = on_message
    return await _linked(stack, asker, node), []


async def _canned(base: Path) -> bytes:
    rows = SqlRows(
        columns=("peer", "state", "tasks"),
        types=("VARCHAR", "VARCHAR", "BIGINT"),
        rows=[["a peer", json.dumps("succeeded"), 3]],
        elapsed_ms=0,
        head_seq=1,
    )
    async with AnswerFiles(Confinement(base / "canning")) as files:
        await files.write(rows, base / "canned", 1_000_000)
    return (base / "canned").read_bytes()
