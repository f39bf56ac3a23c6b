"""What a task costs a worker as its queue grows: submit to committed row, and memory.

The worker and its store are real, in a process of their own; links, shims and whois are
the tests' fakes. Processor time decides, because a disk's sync hides what a scan costs.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

from benchmarks.memory import rss_mib
from benchmarks.stage import ROOT
from benchmarks.table import Row
from cmesh.link.link import Link
from cmesh.model import Identity, NodeId
from cmesh.protocol.convert import submit
from cmesh.protocol.messages import Message
from tests.fakes.half import Half, StillClock

__all__ = ["measure"]

LEVELS = (100, 1_000, 10_000)
SAMPLES = 100
PEERS = 100
AT_ONCE = 64
GOAL = 1.2
CHILD_LIMIT_S = 300.0


class _Asking:
    """One peer's link, as far as the worker uses it."""

    def __init__(self, number: int) -> None:
        node_id = NodeId(f"nPEER{number}")
        self.identity = Identity(node_id=node_id, name=f"p{number}.test", user="me@example.com")
        self.work: list[asyncio.Future[None]] = []
        self.ended = False

    def post(self, message: Message) -> None:
        raise RuntimeError(f"the worker refused: {message}")

    def hold(self, work: asyncio.Future[None]) -> None:
        self.work.append(work)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        raise RuntimeError(f"the worker closed the link: {code} {reason}")


def measure(directory: Path | None) -> list[Row]:
    """Fill a worker's queue in a child process and return the cost at each level."""
    argv = [sys.executable, "-m", "benchmarks.queue", *([str(directory)] if directory else [])]
    done = subprocess.run(
        argv, check=True, capture_output=True, text=True, cwd=ROOT, timeout=CHILD_LIMIT_S
    )
    levels = {int(level): figures for level, figures in json.loads(done.stdout).items()}
    rows: list[Row] = []
    for level, figures in levels.items():
        name = f"a task submitted with {level:,} queued"
        rows += [
            Row(name=f"{name}, processor time", figures={"value": figures["cpu_ms"]}),
            Row(name=f"{name}, accepted", figures={k: figures[k] for k in ("min", "p50", "p95")}),
            Row(
                name=f"worker with {level:,} queued", unit="MiB", figures={"value": figures["rss"]}
            ),
        ]
    ratio = levels[LEVELS[-1]]["cpu_ms"] / levels[LEVELS[0]]["cpu_ms"]
    return [
        *rows,
        Row(
            name=f"cost per task, {LEVELS[-1]:,} queued / {LEVELS[0]:,} queued",
            unit="x",
            figures={"value": ratio},
            goal=f"<= {GOAL:g} x",
            met=ratio <= GOAL,
        ),
    ]


async def _fill(base: Path) -> dict[int, dict[str, float]]:
    worker = Half("doer", base, StillClock())
    rule = worker.rule(concurrent=1)
    limits = "queue = 100000\nqueue_per_peer = 1000\nsubmits_per_minute = 1000000\n"
    worker.configure(rule.replace("[worker]\n", f"[worker]\n{limits}"))
    await worker.start()
    peers = [_Asking(number) for number in range(PEERS)]
    figures: dict[int, dict[str, float]] = {}
    queued = 0
    for level in LEVELS:
        while queued < level:
            batch = [peers[(queued + at) % PEERS] for at in range(min(AT_ONCE, level - queued))]
            await asyncio.gather(*(_submit(worker, peer) for peer in batch))
            queued += len(batch)
        figures[level] = await _sample(worker, peers)
        queued += SAMPLES
    await worker.stop()
    return figures


async def _sample(worker: Half, peers: list[_Asking]) -> dict[str, float]:
    took: list[float] = []
    spent: list[float] = []
    for at in range(SAMPLES):
        cpu, begun = time.process_time(), time.perf_counter()
        await _submit(worker, peers[at % PEERS])
        took.append((time.perf_counter() - begun) * 1_000)
        spent.append((time.process_time() - cpu) * 1_000)
    took.sort()
    return {
        "cpu_ms": statistics.median(spent),
        "min": took[0],
        "p50": statistics.median(took),
        "p95": took[int(len(took) * 0.95)],
        "rss": rss_mib(_own_pid()),
    }


async def _submit(worker: Half, peer: _Asking) -> None:
    """Let the worker take a new task, until its row is committed."""
    worker.known[peer.identity.node_id] = peer.identity
    message = submit(worker.record(worker).spec)
    worker.worker.take(cast("Link", peer), message)
    work, peer.work = peer.work, []
    await asyncio.gather(*work)


def _own_pid() -> int:
    return int(Path("/proc/self").readlink().name)


def _main() -> None:
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(prefix="cmesh-queue-", dir=given) as name:
        print(json.dumps(asyncio.run(_fill(Path(name)))))


if __name__ == "__main__":
    _main()
