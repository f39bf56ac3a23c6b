"""A large patch on its way home, beside as many bytes over a bare connection between two nodes.

From the worker's row of the task's end to the caller's, which has the patch: asked for, cut into
chunks, checked by its hash, on the disk. What the daemons grow by on the way is their high-water
mark, which the kernel keeps.
"""

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.agents import add_config, make_repository, steps_of
from benchmarks.memory import peak_mib, peer_process
from benchmarks.stage import PEER, USER, Stage
from benchmarks.table import Row
from cmesh.node.node import Node, NodeOptions

__all__ = ["measure", "swallow"]

GOAL = 0.5
SINK_PORT = 7401
RAW_BYTES = 40_000_000
"""Git writes five characters for four bytes that cannot be made shorter: 50 MB of patch."""

READ_BYTES = 1024 * 1024
LIMIT_S = 60.0
READY_LIMIT_S = 30.0
WAIT_S = 45
MADE_LIMIT_S = 240.0
"""For one task: git packs and compares what cannot be made shorter, before it is brought home."""


async def measure(stage: Stage, count: int) -> list[Row]:
    """Bring patches home, and as many bytes over a bare connection in turn with them."""
    times = max(2, count // 10)
    await asyncio.to_thread(_configure, stage)
    key, own = await stage.testnet.auth_key(USER), await stage.testnet.auth_key(USER)
    with peer_process(stage, "sink", "sink", key) as (_, peer):
        options = NodeOptions(
            state_dir=stage.base / "source",
            hostname="source",
            control_url=stage.testnet.control_url,
            auth_key=own,
            allow_testnet=True,
        )
        async with Node(options) as node:
            await node.up()
            home: list[float] = []
            bare: list[float] = []
            before = _peaks(stage)
            for _ in range(times):
                size, seconds = await asyncio.to_thread(_patch, stage)
                home.append(size / seconds / 1e6)
                bare.append(size / await _copy(node, peer["address"], size) / 1e6)
    grown = [after - now for after, now in zip(_peaks(stage), before, strict=True)]
    return _rows(home, bare, grown)


async def swallow(node: Node) -> None:
    """Take all that comes on a port, and say when a connection has ended."""
    async with await node.listen(SINK_PORT) as listener:
        async for connection in listener:
            reader, writer = await asyncio.open_connection(sock=connection.sock)
            while await reader.read(READ_BYTES):
                pass
            writer.write(b".")
            await writer.drain()
            writer.close()
            await writer.wait_closed()


def _peaks(stage: Stage) -> list[float]:
    return [peak_mib(daemon.pid) for daemon in (stage.worker, stage.caller)]


def _rows(home: list[float], bare: list[float], grown: list[float]) -> list[Row]:
    def row(name: str, values: list[float]) -> Row:
        figures = {"min": min(values), "p50": statistics.median(values), "n": len(values)}
        return Row(name=name, unit="MB/s", figures=figures)

    ratio = statistics.median(home) / statistics.median(bare)
    return [
        row("patch of 50 MB, worker's end to caller's row", home),
        row("as many bytes over a bare connection of two nodes", bare),
        Row(
            name="patch / bare connection",
            unit="x",
            figures={"p50": ratio},
            goal=f"p50 >= {GOAL:g} x",
            met=ratio >= GOAL,
        ),
        *(
            Row(
                name=f"peak memory of the {who}, grown meanwhile",
                unit="MiB",
                figures={"value": one},
            )
            for who, one in zip(("worker", "caller"), grown, strict=True)
        ),
    ]


async def _copy(node: Node, address: str, size: int) -> float:
    async with asyncio.timeout(LIMIT_S):
        sock = await node.dial(address, SINK_PORT)
        reader, writer = await asyncio.open_connection(sock=sock)
        data = b"x" * size
        begun = time.perf_counter()
        writer.write(data)
        writer.write_eof()
        assert await reader.read(1) == b"."
        seconds = time.perf_counter() - begun
        writer.close()
        await writer.wait_closed()
        return seconds


def _patch(stage: Stage) -> tuple[int, float]:
    """Return the length of a patch, and the seconds from the worker's end to the caller's."""
    asked = {
        "peer": PEER, "prompt": "write", "directory": str(_place(stage)), "new": True,
        "runner": "command:large", "profile": "edit", "wait_s": WAIT_S,
    }  # fmt: skip
    view: dict[str, Any] = stage.caller.call("delegate", **asked)
    limit = time.monotonic() + MADE_LIMIT_S
    while view["state"] in {"queued", "running"} and time.monotonic() < limit:
        view = stage.caller.call("get_task", task_id=view["task_id"], wait_s=WAIT_S)
    if view["state"] != "succeeded" or not view["patch"]["bytes"]:
        raise RuntimeError(f"there is no patch: {view}")
    task_id = str(view["task_id"])
    ends = [steps_of(daemon, task_id)["succeeded"] for daemon in (stage.worker, stage.caller)]
    return int(view["patch"]["bytes"]), ends[1] - ends[0]


def _place(stage: Stage) -> Path:
    return stage.base / "patched"


def _configure(stage: Stage) -> None:
    make_repository(_place(stage), 10)
    argv = f'["/bin/sh", "-c", "head -c {RAW_BYTES} /dev/urandom >large"]'
    rule = f'peers = ["user:{USER}"]\nprofiles = ["edit"]\nrunners = ["command:large"]\n'
    add_config(
        stage.worker,
        f'[commands.large]\nargv = {argv}\n[[inbound.allow]]\nname = "large"\n{rule}'
        f'operations = ["task"]\npaths = ["{_place(stage)}"]\n',
    )
    add_config(stage.caller, f'[[outbound.allow]]\nname = "large"\n{rule}')
    limit = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < limit:
        names = [one["name"] for one in stage.worker.call("list_runners")["runners"]]
        if "command:large" in names:
            return
        time.sleep(0.05)
    raise RuntimeError("the worker does not take up its configuration")
