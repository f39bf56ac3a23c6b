"""What a worker's tasks and memory cost as its queue grows, with many peers linked to it.

The worker is a whole daemon in a process of its own, and so are its database and its shims. The
peers live in this process, each with a key, a link and tasks; a thousand of them have fake nodes
(tests/fakes/tailnet.py), twenty have real ones. Processor time decides: it is that of the daemon
and its database process, less what both take when nobody asks for anything.
"""

import asyncio
import contextlib
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.memory import children, command, rss_mib
from benchmarks.stage import USER, Stage
from benchmarks.table import Row
from cmesh.node.node import Node, NodeOptions
from tests.fakes.crowd import Asker, Crowd, CrowdedWorker
from tests.fakes.tailnet import FakeTailnet

__all__ = ["measure"]

PEERS, LEVELS = 1_000, (100, 1_000, 10_000)
REAL_PEERS, REAL_LEVELS = 20, (100, 1_000)
QUICK_PEERS, QUICK_LEVELS = 100, (100, 1_000)
ROUNDS, TASKS = 3, 100
"""At each level so many tasks are submitted and as many end, so often; the median counts."""

AT_ONCE = 16
CONCURRENT = 4
IDLE_S = 5.0
SETTLE_S = 2.0
"""Rows reach the database this long after a commit, and the store's timer, at most."""

END_LIMIT_S = 300.0
CANCEL_LIMIT_S = 600.0
DESCRIPTORS = 4 * PEERS
GOAL = 1.2
WORKER = "crowded"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """Figures with so many tasks queued; costs in ms of processor time."""

    queued: int
    submit_ms: float
    end_ms: float
    idle_ms_per_s: float
    daemon_mib: float
    database_mib: float


async def measure(made: Stage, *, quick: bool) -> list[Row]:
    """Return the figures with fake nodes, then with real ones."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        raise RuntimeError(f"{DESCRIPTORS} open files are needed, {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    peers, levels = (QUICK_PEERS, QUICK_LEVELS) if quick else (PEERS, LEVELS)
    with tempfile.TemporaryDirectory(prefix="scale-", dir=made.base) as name:
        async with _fakes(Path(name), peers) as (crowd, worker):
            rows = await _figures(f"{peers:,} peers, fake nodes", crowd, worker, levels)
    with tempfile.TemporaryDirectory(prefix="scale-", dir=made.base) as name:
        async with _real(Path(name), made) as (crowd, worker):
            return rows + await _figures(
                f"{REAL_PEERS} peers, real nodes", crowd, worker, REAL_LEVELS
            )


@contextlib.asynccontextmanager
async def _fakes(base: Path, peers: int) -> AsyncGenerator[tuple[Crowd, CrowdedWorker]]:
    tailnet = FakeTailnet()
    tailnet.add(WORKER, USER)
    async with AsyncExitStack() as stack:
        askers: list[Asker] = []
        for label in [f"peer{number}" for number in range(peers)]:
            node_id = tailnet.add(label, USER)
            node = await stack.enter_async_context(tailnet.node(label, base / label))
            askers.append(Asker(node, node_id, label))
        netmap = base / "netmap.json"
        netmap.write_text(tailnet.dump(), "utf-8")
        worker = CrowdedWorker(WORKER, base, user=USER, concurrent=CONCURRENT)
        worker.configure()
        program = ("tests.fakes.node_daemon", str(netmap), WORKER)
        yield await _crowd(stack, askers, worker, program), worker


@contextlib.asynccontextmanager
async def _real(base: Path, made: Stage) -> AsyncGenerator[tuple[Crowd, CrowdedWorker]]:
    async with AsyncExitStack() as stack:
        askers: list[Asker] = []
        for label in [f"peer{number}" for number in range(REAL_PEERS)]:
            options = NodeOptions(
                state_dir=base / label,
                hostname=label,
                control_url=made.testnet.control_url,
                auth_key=await made.testnet.auth_key(USER),
                allow_testnet=True,
            )
            node = await stack.enter_async_context(Node(options))
            askers.append(Asker(node, (await node.up()).node_id, label))
        worker = CrowdedWorker(WORKER, base, user=USER, concurrent=CONCURRENT)
        worker.configure(made.testnet.control_url, await made.testnet.auth_key(USER))
        yield await _crowd(stack, askers, worker, ()), worker


async def _crowd(
    stack: AsyncExitStack, askers: Sequence[Asker], worker: CrowdedWorker, program: Sequence[str]
) -> Crowd:
    """Start the worker, who trusts the peers, and link them to it."""
    stack.push_async_callback(worker.stop)
    await worker.trust(askers)
    status = await worker.up(*program)
    crowd = await stack.enter_async_context(Crowd(askers, worker))
    await crowd.connect(status.addresses[0], at_once=AT_ONCE)
    return crowd


async def _figures(
    who: str, crowd: Crowd, worker: CrowdedWorker, levels: Sequence[int]
) -> list[Row]:
    linked = rss_mib(worker.pid)
    seen = [await _level(crowd, worker, level) for level in levels]
    left, meter = crowd.unfinished, _Meter(worker.pid)
    await crowd.cancel(CANCEL_LIMIT_S)
    cancel_ms = await meter.spent(seen[-1].idle_ms_per_s) / left
    ended = crowd.ended
    said = ", ".join(f"{count:,} {state}" for state, count in sorted(ended.items()))
    links = f"{crowd.links:,} links were made" if crowd.links > len(crowd.askers) else ""
    rows = [Row(name=f"{who}: daemon, all linked, no task", unit="MiB", figures=_one(linked))]
    for one in seen:
        name = f"{who}, {one.queued:,} queued"
        rows += [
            Row(name=f"{name}: a task submitted", figures=_one(one.submit_ms)),
            Row(name=f"{name}: a task that ran and ended", figures=_one(one.end_ms)),
            Row(name=f"{name}: a second of doing nothing", figures=_one(one.idle_ms_per_s)),
            Row(name=f"{name}: daemon", unit="MiB", figures=_one(one.daemon_mib)),
            Row(name=f"{name}: its database process", unit="MiB", figures=_one(one.database_mib)),
        ]
    first, last = seen[0], seen[-1]
    span = f"{last.queued:,} queued / {first.queued:,} queued"
    return [
        *rows,
        _ratio(f"{who}: a submit, {span}", last.submit_ms / first.submit_ms),
        _ratio(f"{who}: an end, {span}", last.end_ms / first.end_ms),
        Row(name=f"{who}: a queued task cancelled", figures=_one(cancel_ms), note=links),
        Row(
            name=f"{who}: daemon, all ended",
            unit="MiB",
            figures=_one(rss_mib(worker.pid)),
            note=f"{said}; {crowd.unfinished} left",
        ),
    ]


async def _level(crowd: Crowd, worker: CrowdedWorker, queued: int) -> _Level:
    await crowd.submit(queued - crowd.unfinished, at_once=AT_ONCE)
    await asyncio.sleep(SETTLE_S)
    idle, begun = _Meter(worker.pid), time.perf_counter()
    await asyncio.sleep(IDLE_S)
    idle_ms_per_s = idle.so_far() / (time.perf_counter() - begun)
    submits: list[float] = []
    ends: list[float] = []
    for _ in range(ROUNDS):
        meter = _Meter(worker.pid)
        await crowd.submit(TASKS, at_once=AT_ONCE)
        submits.append(await meter.spent(idle_ms_per_s) / TASKS)
        meter = _Meter(worker.pid)
        await crowd.finish(TASKS, END_LIMIT_S)
        ends.append(await meter.spent(idle_ms_per_s) / TASKS)
    return _Level(
        queued=queued,
        submit_ms=statistics.median(submits),
        end_ms=statistics.median(ends),
        idle_ms_per_s=idle_ms_per_s,
        daemon_mib=rss_mib(worker.pid),
        database_mib=sum(rss_mib(pid) for pid in _database(worker.pid)),
    )


class _Meter:
    """Processor time of a daemon and its database process, from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._begun = time.perf_counter()
        self._before = self._times()

    def so_far(self) -> float:
        """Return milliseconds; what has ended meanwhile does not count."""
        now = self._times()
        return sum(spent - self._before.get(thread, 0.0) for thread, spent in now.items())

    async def spent(self, idle_ms_per_s: float) -> float:
        """Return what the work took, once its rows are in the database."""
        await asyncio.sleep(SETTLE_S)
        return self.so_far() - idle_ms_per_s * (time.perf_counter() - self._begun)

    def _times(self) -> dict[str, float]:
        """Return the milliseconds of each thread (Linux, Documentation/scheduler/sched-stats)."""
        found: dict[str, float] = {}
        for pid in (self._pid, *_database(self._pid)):
            for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):  # it ended just now
                    found[path.parent.name] = int(path.read_text("ascii").split()[0]) / 1e6
        return found


def _database(pid: int) -> list[int]:
    return [child for child in children(pid) if b"database_worker" in command(child)]


def _one(value: float) -> dict[str, float]:
    return {"value": value}


def _ratio(name: str, value: float) -> Row:
    goal = f"<= {GOAL:g} x"
    return Row(name=name, unit="x", figures=_one(value), goal=goal, met=value <= GOAL)
