"""Pages of `cmesh dashboard` over a store of many tasks, and how soon an event is seen in a browser.

The store is filled by its own code, then a daemon is started over it. A page is timed from the
request to its last byte, as a signed-in browser sends it.
"""

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
from playwright.async_api import Response, async_playwright
from typing_extensions import override

from benchmarks.stage import CLOCK, PEER, ROOT, BenchDaemon, Stage
from benchmarks.table import Row, timing
from cmesh.clock import Clock
from cmesh.model import (
    Direction,
    Event,
    Limits,
    NodeId,
    Profile,
    Result,
    TaskId,
    TaskSpec,
    TaskState,
    Usage,
)
from cmesh.store.records import (
    DecisionRecord,
    EventRecord,
    Record,
    ResultRecord,
    StepRecord,
    TaskRecord,
)
from cmesh.store.store import Store

__all__ = ["measure"]

TASKS = 100_000
BATCH = 500
PAGE_MS = 100.0
PIXEL_MS = 200.0
FIRST_PAGE_KIB = 150.0
WARM_UP = 3
EVENTS = 200
WORDS = [
    "why",
    "does",
    "the",
    "nightly",
    "build",
    "of",
    "the",
    "parser",
    "fail",
    "since",
    "the",
    "library",
    "was",
    "replaced",
]
ENDS = (TaskState.SUCCEEDED, TaskState.SUCCEEDED, TaskState.SUCCEEDED, TaskState.FAILED)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]
# When a line that is a time has been painted: the frame after it came into the page. What was
# printed while the page was loading came with it, and says nothing of the stream.
SEEN = """() => {
  window.late = [];
  const began = Date.now();
  new MutationObserver((changes) => {
    for (const change of changes) for (const row of change.addedNodes) {
      const at = Number(row.querySelector(".event-line")?.textContent);
      if (at / 1e6 > began) requestAnimationFrame(() => window.late.push(Date.now() - at / 1e6));
    }
  }).observe(document.getElementById("events"), { childList: true });
}"""


class _Past(Clock):
    """A clock that the filling moves on."""

    def __init__(self) -> None:
        self.time = BEGAN

    @override
    def now(self) -> datetime:
        return self.time

    @override
    def monotonic(self) -> float:
        return self.time.timestamp()


async def measure(made: Stage, count: int, *, tasks: int = TASKS) -> list[Row]:
    """Time pages over a store of `tasks` tasks, then events of a real one."""
    full = BenchDaemon("full", made.base)
    await fill(full.state / "store", tasks)
    await full.up("setup")
    try:
        rows = await _pages(full, count, tasks)
    finally:
        await asyncio.to_thread(full.stop)
    return [*rows, *await _browser(made)]


async def fill(directory: Path, tasks: int) -> None:
    """Fill a store with ended tasks of both directions, with seven rows each."""
    directory.mkdir(parents=True, mode=0o700)
    directory.parent.chmod(0o700)
    clock = _Past()
    store = await Store.open(directory, clock=clock, node="full")
    try:
        for first in range(0, tasks, BATCH):
            records: list[Record] = []
            for number in range(first, min(first + BATCH, tasks)):
                records += _records(number, clock.time)
                clock.time += timedelta(minutes=2)
            await store.commit(records)
    finally:
        await store.close()


def _records(number: int, at: datetime) -> Sequence[Record]:
    direction = Direction.OUT if number % 3 else Direction.IN
    task_id = TaskId(
        str(uuid.UUID(int=(int(at.timestamp() * 1000) << 80) | (7 << 76) | (1 << 63) | number))
    )
    prompt = " ".join(WORDS[(number * 7 + n) % len(WORDS)] for n in range(20)) + f" {number}"
    spec = TaskSpec(
        task_id=task_id, runner=("claude", "codex")[number % 2], profile=Profile.QUERY,
        directory=f"/srv/app{number % 20}", prompt=prompt, limits=Limits(runtime_s=900), accept=(),
        origin=(), not_after=at + timedelta(hours=1), traceparent="",
    )  # fmt: skip
    peer = NodeId(f"nPEER{number % 9}")
    name = f"peer{number % 9}.example.com"
    record = TaskRecord(
        task_id=task_id, direction=direction, peer_id=peer, peer=name, principal="me@example.com",
        session="s", project="/home/me/app", idempotency_key="", spec=spec,
        payload_hash=spec.payload_hash(), worker_incarnation="0" * 32, rule="ask",
    )  # fmt: skip
    decided = DecisionRecord(
        task_id=task_id, direction=direction, peer_id=peer, peer=name, principal="me@example.com",
        operation="task", effect="allow", rule="ask", reason="", failed=(), policy_sha256="cd" * 32,
    )  # fmt: skip
    end = ENDS[number % len(ENDS)]
    result = Result(
        state=end, witness="shim recorded exit 0", exit_code=0, text="it was a unit " * 20,
        output_bytes=18, output_kept=18, output_sha256="ab" * 32,
        usage=Usage(cost_usd=0.01, tokens_in=900, tokens_out=100), runner_version="1.0",
        started_at=at, ended_at=at + timedelta(seconds=40),
    )  # fmt: skip

    def step(kind: str, word: str) -> StepRecord:
        return StepRecord(
            task_id=task_id,
            direction=direction,
            kind="state" if kind == "state" else "fact",
            name=word,
        )

    events = [
        EventRecord(
            task_id=task_id, direction=direction,
            event=Event(seq=n, ts=at, kind="text", text="looking at it " * 5, data={}),
        )
        for n in (1, 2)
    ]  # fmt: skip
    begun = step("state", "sent" if direction is Direction.OUT else "running")
    ended = ResultRecord(
        task_id=task_id, direction=direction, result=result, worker_signature="w" * 86
    )
    return [decided, record, begun, *events, ended, step("fact", "acknowledged")]


async def _pages(full: BenchDaemon, count: int, tasks: int) -> list[Row]:
    last = str(next(iter(full.call("find_tasks", limit=1)["tasks"]))["task_id"])
    old = str(
        full.call("find_tasks", limit=1, until=(BEGAN + timedelta(days=1)).isoformat())["tasks"][0][
            "task_id"
        ]
    )
    paths = {
        "overview": "/",
        "tasks": "/tasks",
        "tasks that failed": "/tasks?state=failed",
        "tasks of a peer with words": "/tasks?peer=peer3&text=library%20was",
        "tasks, by words that few have": f"/tasks?text=%20{tasks // 2}",
        "tasks, the last pages": f"/tasks?before={old}",
        "one task": f"/tasks/{last}",
        "one old task": f"/tasks/{old}",
    }
    rows: list[Row] = []
    async with _signed_in(full) as (client, base):
        for name, path in paths.items():
            seconds: list[float] = []
            for turn in range(WARM_UP + count):
                began = time.perf_counter()
                answer = await client.get(base + path)
                if turn >= WARM_UP:
                    seconds.append(time.perf_counter() - began)
                answer.raise_for_status()
            row = timing(f"dashboard with {tasks:,} tasks: {name}", seconds)
            met = row.figures["p95"] <= PAGE_MS
            rows.append(
                Row(name=row.name, figures=row.figures, goal=f"p95 <= {PAGE_MS:.0f}", met=met)
            )
    return rows


@contextlib.asynccontextmanager
async def _signed_in(daemon: BenchDaemon) -> AsyncGenerator[tuple[httpx2.AsyncClient, str]]:
    async with _dashboard(daemon) as url:
        origin, _slash, code = url.partition("/sign-in#")
        async with httpx2.AsyncClient(
            base_url=origin, timeout=60, headers={"Origin": origin}
        ) as client:
            answer = await client.post("/sign-in", data={"code": code})
            yield client, answer.headers["location"].rstrip("/")


@contextlib.asynccontextmanager
async def _dashboard(daemon: BenchDaemon) -> AsyncGenerator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "cmesh", "dashboard", "--no-open", "--json"],
        env=daemon.environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        text = ""
        while not text.endswith("}\n"):
            text += await asyncio.to_thread(process.stdout.readline)
        yield json.loads(text)["url"]
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)
        process.stdout.close()


async def _browser(made: Stage) -> list[Row]:
    path = shutil.which("chromium")
    if path is None:
        return [Row(name="dashboard: event to pixel", note="no chromium here")]
    sizes: list[int] = []
    async with _dashboard(made.caller) as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = await browser.new_page()
        answers: list[Response] = []
        page.on("response", lambda one: answers.append(one))  # noqa: PLW0108 - it marks what it is given
        await page.goto(url)
        await page.wait_for_url(re.compile("/[^/]{16}/$"))
        await page.wait_for_load_state("load")
        for answer in answers:
            size = await answer.request.sizes()
            sizes.append(size["responseBodySize"] + size["responseHeadersSize"])
        task = await asyncio.to_thread(
            made.caller.call, "delegate", peer=PEER, prompt=str(EVENTS), directory=str(made.place),
            runner=f"command:{CLOCK}", profile="full", new=True,
        )  # fmt: skip
        await page.goto(f"{page.url}tasks/{task['task_id']}")
        await page.locator("#live-mark").wait_for()
        await page.evaluate(SEEN)
        await page.locator("#task-head .state-succeeded").wait_for(timeout=60_000)
        late: list[float] = await page.evaluate("window.late")
        await browser.close()
    row = timing("dashboard: event to pixel", [ms / 1000 for ms in late])
    kib = sum(sizes) / 1024
    return [
        Row(name=row.name, figures=row.figures, goal=f"p95 <= {PIXEL_MS:.0f}", met=row.figures["p95"] <= PIXEL_MS),
        Row(name="dashboard: bytes of the first page", unit="KiB", figures={"value": kib},
            goal=f"<= {FIRST_PAGE_KIB:.0f}", met=kib <= FIRST_PAGE_KIB),
    ]  # fmt: skip
