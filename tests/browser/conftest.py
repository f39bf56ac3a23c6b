"""A real Chromium, two machines on a test tailnet, and dashboards as processes of their users.

The browser resolves no name and reaches loopback only. What a page asks of another address, says
on its console or fails at is kept, and each test ends with a look at that.
"""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from cmesh.daemon.answers import TaskView
from cmesh.model import Profile
from cmesh.node.testnet import Testnet
from tests.system.daemon.calls import ROOT
from tests.system.daemon.conftest import OUTBOUND, anyio_backend, ground, testnet
from tests.system.daemon.machine import Machine, as_user, consent, eventually, worker_user
from tests.system.runner.copying import commit

__all__ = ["Dashboard", "Field", "anyio_backend", "ground", "testnet"]

LIMIT_S = 20.0
expect.set_options(timeout=1000 * LIMIT_S)
AXE = ROOT / ".cache" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
SCRIPTS = {
    "held": "echo one; while [ ! -e go ]; do sleep 0.02; done; rm go; echo two",
    "say": "cat",
    "count": "i=0; while [ ! -e stop ]; do i=$((i+1)); echo n$i; sleep 0.2; done; rm stop",
    "change": "printf 'def two() -> str:\\n    return \"<b>2</b>\"\\n' >>code.py;"
    " mkdir .claude; echo {} >.claude/settings.json",
}


@dataclass(slots=True)
class Field:
    """`laptop` asks, `builder` works in `place`."""

    laptop: Machine
    builder: Machine
    place: Path

    async def ask(self, script: str, prompt: str = "look", **more: object) -> TaskView:
        fields: dict[str, Any] = {"new": True, "prompt": prompt, **more}
        return await self.laptop.delegate("builder", f"command:{script}", self.place, **fields)

    async def edit(self, script: str) -> TaskView:
        """Have a copy changed; skips where there is no sandbox for that."""

        async def enforcement() -> str | None:
            return (await self.builder.status()).enforcement or None

        if "tier3" not in await eventually(enforcement):
            pytest.skip("no sandbox of tier 3 here")
        return await self.ask(script, profile=Profile.EDIT, wait_s=40)

    def release(self, name: str) -> None:
        (self.place / name).touch()


@dataclass(slots=True)
class Dashboard:
    """A dashboard's process, and what a browser has seen of it.

    Attributes:
        wrong: what no page may do: ask another address, break its own policy, fail.
    """

    url: str
    process: subprocess.Popen[str]
    wrong: list[str] = field(default_factory=list[str])

    @property
    def origin(self) -> str:
        return self.url.partition("/sign-in")[0]

    async def open(self, context: BrowserContext) -> Page:
        """Sign a new page in by the link."""
        page = await context.new_page()
        page.set_default_timeout(1000 * LIMIT_S)
        self.watch(page)
        await page.goto(self.url)
        await page.wait_for_url(f"{self.origin}/*/")
        return page

    def watch(self, page: Page) -> None:
        page.on("request", lambda request: self._asked(request.url))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("console", lambda line: self._said(line.type, line.text))

    def _asked(self, url: str) -> None:
        if not url.startswith(f"{self.origin}/"):
            self.wrong.append(f"asked {url}")

    def _said(self, kind: str, text: str) -> None:
        # The browser says so when a stream ends with the daemon's or the dashboard's end.
        if kind in {"error", "warning"} and "ERR_INCOMPLETE_CHUNKED_ENCODING" not in text:
            self.wrong.append(f"{kind}: {text}")


@asynccontextmanager
async def dashboard_of(machine: Machine, *more: str) -> AsyncGenerator[Dashboard]:
    """Run `cmesh dashboard` as the machine's user."""
    user = machine.user
    process = await asyncio.to_thread(
        subprocess.Popen,
        machine.command("dashboard", "--no-open", "--json", *more),
        cwd=ROOT,
        env=machine.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        **as_user(user),
    )
    assert process.stdout is not None
    try:
        text = ""
        while not text.endswith("}\n"):
            line = await asyncio.to_thread(process.stdout.readline)
            assert line, "the dashboard ended"
            text += line
        dashboard = Dashboard(url=json.loads(text)["url"], process=process)
        yield dashboard
        assert dashboard.wrong == []
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, LIMIT_S)
        process.stdout.close()
    assert process.returncode == 0


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no `chromium` on this machine")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        await browser.close()


@pytest.fixture
async def context(chromium: Browser) -> AsyncIterator[BrowserContext]:
    async with await chromium.new_context(color_scheme="light") as context:
        yield context


@pytest.fixture(scope="module")
async def machines(ground: Path, testnet: Testnet) -> AsyncIterator[Field]:
    """Return laptop and builder, up, the laptop trusted."""
    laptop = Machine("laptop", ground, testnet, worker_user())
    builder = Machine("builder", ground, testnet, worker_user())
    place = ground / "builder" / "app"
    async with AsyncExitStack() as stack:
        for machine, lines in ((laptop, OUTBOUND), (builder, commands() + rules(place))):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        builder.directory("app")
        (place / "code.py").write_text('def one() -> int:\n    """One."""\n    return 1\n')
        commit(place)
        await asyncio.gather(laptop.up(), builder.up())
        await laptop.delegate("builder", "command:say", place)
        await builder.trust(laptop)
        yield Field(laptop, builder, place)


@pytest.fixture
async def dashboard(machines: Field) -> AsyncIterator[Dashboard]:
    async with dashboard_of(machines.laptop) as running:
        yield running


def commands() -> str:
    argv = {name: json.dumps(["/bin/sh", "-c", text]) for name, text in SCRIPTS.items()}
    return "".join(f"[commands.{name}]\nargv = {words}\n" for name, words in argv.items())


def rules(place: Path) -> str:
    return rule("the laptop may work here", ["full"], place, consent()) + rule(
        "the laptop may change a copy", ["query", "edit"], place
    )


def rule(name: str, profiles: Sequence[str], place: Path, more: str = "") -> str:
    runners = [f"command:{name}" for name in SCRIPTS]
    return f"""
[[inbound.allow]]
name = "{name}"
peers = ["user:me@example.com"]
operations = ["task", "follow_up"]
profiles = {json.dumps(profiles)}
runners = {json.dumps(runners)}
paths = ["{place}"]
{more}
"""
