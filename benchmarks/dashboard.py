"""Pages of `cmesh dashboard` over a store of many tasks, and how soon an event is seen in a browser.

The store is filled, then a daemon is started over it. A page is timed from the
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
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx2

from benchmarks.old_tasks import FIRST_DAY, fill
from benchmarks.stage import CLOCK, PEER, ROOT, BenchDaemon, Stage
from benchmarks.table import Row, timing

if TYPE_CHECKING:
    from playwright.async_api import Response

__all__ = ["measure"]

TASKS = 100_000
EVENTS_EACH = 4
PAGE_MS = 100.0
PIXEL_MS = 200.0
FIRST_PAGE_KIB = 150.0
WARM_UP = 3
EVENTS = 200
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


async def measure(made: Stage, count: int, *, tasks: int = TASKS) -> list[Row]:
    """Time pages over a store of `tasks` tasks, then events of a real one."""
    full = BenchDaemon("full", made.base)
    full.state.mkdir(parents=True, mode=0o700)
    await asyncio.to_thread(fill, full.state / "store", tasks, EVENTS_EACH)
    await full.up("setup")
    try:
        rows = await _pages(full, count, tasks)
    finally:
        await asyncio.to_thread(full.stop)
    return [*rows, *await _browser(made)]


async def _pages(full: BenchDaemon, count: int, tasks: int) -> list[Row]:
    last = full.call("find_tasks", limit=1)["tasks"][0]["task_id"]
    until = (FIRST_DAY + timedelta(days=1)).isoformat()
    [first] = full.call("find_tasks", limit=1, until=until)["tasks"]
    old, words = first["task_id"], str(first["prompt"]).split()
    paths = {
        "overview": "/",
        "tasks": "/tasks",
        "tasks that failed": "/tasks?state=failed",
        "tasks of a peer with a word": f"/tasks?peer=box3&text={words[0]}",
        "tasks, by words that few have": f"/tasks?text={'%20'.join(words[:4])}",
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
    try:
        from playwright.async_api import async_playwright  # a tool of the tests alone
    except ImportError:
        return [Row(name="dashboard: event to pixel", note="no playwright here")]
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
