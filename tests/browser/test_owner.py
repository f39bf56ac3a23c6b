"""The owner's pages in a real browser: what waits is answered, rules are read, the audit is asked."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import ApproveArguments
from cmesh.daemon.setup_arguments import SetupStepArguments
from cmesh.model import TaskState
from cmesh.node.testnet import Testnet
from tests.browser.conftest import Dashboard, dashboard_of
from tests.browser.test_pages import axe, faults
from tests.browser.test_task import shot
from tests.system.daemon.conftest import OUTBOUND, command, inbound
from tests.system.daemon.machine import Machine, eventually, worker_user
from tests.system.daemon.terminal import at_terminal

__all__ = ["axe"]

pytestmark = [pytest.mark.anyio, pytest.mark.system]

HOSTILE = "<img src=x onerror=\"document.title='pwned'\"> <script>document.title='pwned'</script>"
LONG = "words that nobody may cut out of the middle " * 40
SAYS = "the laptop may work here"
MOVES = """async () => {
  const part = document.getElementById("approvals");
  part.replaceWith(part.cloneNode(true));
  await null;
  return [...document.querySelectorAll("form.once button")].every((button) => button.disabled);
}"""
"""Change the page as a task that comes does; say whether nothing can be pressed then."""


@dataclass(slots=True)
class Owner:
    """The builder's owner; `laptop` asks for what waits."""

    laptop: Machine
    builder: Machine
    place: Path

    async def waits(self, prompt: str = "do it") -> TaskView:
        """Let a task wait for the owner."""
        asked = await self.laptop.delegate(
            "builder", "command:true", self.place, prompt=prompt, new=True
        )

        async def is_waiting() -> TaskView | None:
            view = await self.builder.task(asked.task_id)
            return view if view.state is TaskState.WAITING_APPROVAL else None

        return await eventually(is_waiting)

    async def answers(self, task: TaskView) -> list[Any]:
        """Return what the audit says of who answered."""
        where = f"WHERE task_id = '{task.task_id}'"
        [row] = await self.builder.sql(f"SELECT answer, program FROM approvals {where}")
        return row


@pytest.fixture(scope="module")
async def owner(ground: Path, testnet: Testnet) -> AsyncIterator[Owner]:
    place = ground / "builder" / "app"
    rules = command("true", "/bin/true") + inbound(place, ["command:true"], 'approval = "ask"')
    laptop = Machine("laptop", ground, testnet, worker_user())
    builder = Machine("builder", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, lines in ((laptop, OUTBOUND), (builder, rules)):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        builder.directory("app")
        await asyncio.gather(laptop.up(), builder.up())
        await laptop.delegate("builder", "command:true", place)
        await builder.trust(laptop)
        yield Owner(laptop, builder, place)


@pytest.fixture
async def dashboard(owner: Owner) -> AsyncIterator[Dashboard]:
    async with dashboard_of(owner.builder) as running:
        yield running


def case(page: Page, task: TaskView) -> Locator:
    """Return the part of the page that is about a task."""
    return page.locator("section.attention").filter(has_text=task.task_id)


async def test_what_waits_is_shown_whole_and_approved(
    owner: Owner, dashboard: Dashboard, context: BrowserContext
):
    page = await dashboard.open(context)
    await page.goto(f"{page.url}approvals")
    task = await owner.waits(f"{HOSTILE} {LONG}\u202eend")  # it comes while the page is open
    waiting = case(page, task)
    await expect(waiting.locator("pre.prompt")).to_have_text(f"{HOSTILE} {LONG}<U+202E>end")
    await expect(waiting).to_contain_text("/bin/true")
    await expect(waiting).to_contain_text(str(owner.place))
    assert "pwned" not in await page.title()
    yes = waiting.get_by_role("button", name="Approve exactly this")
    assert await page.evaluate(MOVES)  # a press that was meant for what was there before
    await yes.click()
    await expect(page.get_by_role("status").filter(has_text="Approved")).to_be_visible()
    assert (await owner.builder.ended(task.task_id)).state is TaskState.SUCCEEDED
    assert await owner.answers(task) == ["approved", "cmesh dashboard"]


async def test_every_page_counts_what_waits_in_its_menu_and_its_title(
    owner: Owner, dashboard: Dashboard, context: BrowserContext
):
    page = await dashboard.open(context)
    await page.goto(f"{page.url}policy")
    badge = page.locator("nav").get_by_text("waiting for you")
    before = await owner.builder.sql("SELECT count(*) FROM tasks WHERE state = 'waiting_approval'")
    number = int(before[0][0])
    task = await owner.waits("counted")
    await expect(page).to_have_title(f"({number + 1}) Policy · cmesh")
    await expect(page.get_by_role("link", name=f"{number + 1} waiting for you")).to_be_visible()
    answer = ApproveArguments(task_id=task.task_id, approve=False)
    await owner.builder.call("approve_task", answer)
    await expect(page).to_have_title(f"({number}) Policy · cmesh" if number else "Policy · cmesh")
    await expect(badge).to_have_count(min(number, 1))


async def test_of_two_browsers_one_wins_and_the_other_is_told(
    owner: Owner, dashboard: Dashboard, chromium: Browser
):
    task = await owner.waits("two answer at once")
    async with dashboard_of(owner.builder) as second:
        contexts = [await chromium.new_context() for _ in range(2)]
        pages = [
            await one.open(context)
            for one, context in zip((dashboard, second), contexts, strict=True)
        ]
        for page in pages:
            await page.goto(f"{page.url}approvals")
            await case(page, task).wait_for()
        words = ("Approve exactly this", "Deny")
        await asyncio.gather(
            *(
                case(page, task).get_by_role("button", name=word).click(no_wait_after=True)
                for page, word in zip(pages, words, strict=True)
            )
        )
        told = [page.locator(".said, #alert").first for page in pages]
        await asyncio.gather(*(expect(one).to_be_visible() for one in told))
        texts = [await one.inner_text() for one in told]
        late = [text for text in texts if "came too late" in text]
        assert len(late) == 1, texts
        [answer, program] = await owner.answers(task)
        assert program == "cmesh dashboard"
        assert f"It was {answer} at" in late[0]
        for one in (dashboard, second):  # the browser says what status the other had
            one.wrong = [line for line in one.wrong if "409" not in line]
        for context in contexts:
            await context.close()


async def test_rules_are_read_and_a_request_is_explained(
    owner: Owner, dashboard: Dashboard, context: BrowserContext, axe: str
):
    page = await dashboard.open(context)
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto(f"{page.url}policy")
    row = page.locator("table.matrix tr").filter(has_text="full")
    await expect(row.locator("td")).to_have_text(re.compile(f"ask {SAYS}"))
    await expect(page.locator("article.rule")).to_contain_text("Each request waits for your yes.")
    assert await faults(page, axe) == {}
    await row.locator("a").click()
    await expect(page.locator("#answer")).to_have_text(f"ask by rule {SAYS}")
    await page.get_by_label("Directory on the worker").fill("/etc")
    await page.get_by_role("button", name="Explain").click()
    await expect(page.locator("#answer")).to_contain_text("deny")
    await expect(page.locator("#change")).to_contain_text(f'paths = ["{owner.place}", "/etc"]')
    assert await faults(page, axe) == {}


async def test_the_audit_is_asked_drawn_and_saved(
    owner: Owner, dashboard: Dashboard, context: BrowserContext, axe: str
):
    await owner.waits(HOSTILE)
    page = await dashboard.open(context)
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto(f"{page.url}audit")
    box = page.get_by_label("One SELECT")
    sql = "SELECT prompt AS what, count(*) AS tasks FROM tasks GROUP BY ALL ORDER BY tasks DESC"
    await box.fill(f"SELECT '{HOSTILE.replace(chr(39), chr(39) * 2)}' AS who, $1 AS n")
    await page.get_by_text("Parameters", exact=True).click()
    await page.get_by_label("For $1, $2").fill("7")
    await box.press("Control+Enter")
    await expect(page.locator("#rows tbody tr")).to_have_text(f"{HOSTILE}7")
    await box.fill(sql)
    await page.get_by_label("For $1, $2").fill("")
    await page.get_by_role("button", name="Run").click()
    await expect(page.get_by_role("img", name="tasks by what")).to_be_visible()
    await shot(page, "audit-chart")
    assert await faults(page, axe) == {}
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Save as CSV").click()
    saved = await download.value
    assert saved.suggested_filename == "cmesh-audit.csv"
    assert "what,tasks\n" in Path(await saved.path()).read_text("utf-8")
    await box.fill("SELECT nothing FROM tasks")
    await page.get_by_role("button", name="Run").click()
    await expect(page.get_by_role("alert")).to_contain_text("nothing")
    await expect(box).to_have_value("SELECT nothing FROM tasks")
    assert "pwned" not in await page.title()
    dashboard.wrong = [one for one in dashboard.wrong if "400" not in one]


async def test_what_waits_has_no_serious_fault_and_peers_are_measured(
    owner: Owner, dashboard: Dashboard, context: BrowserContext, axe: str
):
    await owner.waits()
    page = await dashboard.open(context)
    base = page.url
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto(f"{base}approvals")
    await page.locator("section.attention").first.wait_for()
    assert await faults(page, axe) == {}
    await page.goto(f"{base}peers")
    way = page.locator("section").filter(has_text="laptop").locator("[data-path]")
    await expect(way).to_have_text(re.compile(r"^(direct|by DERP \w+), [\d.]+ ms$"))
    assert await faults(page, axe) == {}


async def test_no_tool_of_an_agent_is_told_how_to_sign_in(
    owner: Owner, dashboard: Dashboard, context: BrowserContext
):
    task = await owner.waits()
    page = await dashboard.open(context)
    secrets = [dashboard.url.partition("#")[2], page.url.removeprefix(dashboard.origin).strip("/")]
    secrets += [cookie["value"] for cookie in await context.cookies() if "value" in cookie]
    assert len(secrets) == 3
    calls: dict[str, dict[str, Any]] = {
        "query": {"sql": "SELECT * FROM audit ORDER BY seq DESC"},
        "get_task": {"task_id": task.task_id},
        "get_result": {"task_id": task.task_id},
        "check_patch": {"task_id": task.task_id},
        "reply_task": {"task_id": task.task_id, "prompt": "how do I sign in?"},
        "setup_step": {"step": "machine", "dry_run": True},
        "delegate": {"peer": "laptop", "prompt": "sign in", "directory": "/srv"},
        "cancel_task": {"task_id": task.task_id},
    }
    async with owner.builder.mcp() as agent:
        for tool in agent.tools:
            answer = await agent.call(tool, **calls.get(tool, {}))
            said = f"{answer.text}\n{json.dumps(dict(answer.fields))}"
            assert not [secret for secret in secrets if secret in said], tool


async def test_the_wizards_change_is_taken_from_a_person_at_a_terminal_only(
    owner: Owner, dashboard: Dashboard, context: BrowserContext
):
    wish = SetupStepArguments(step="peer", peer="laptop", allow="ask", repository=str(owner.place))
    await owner.builder.call("setup_step", wish)
    page = await dashboard.open(context)
    await page.goto(f"{page.url}approvals")
    await expect(page.locator("pre.diff")).to_contain_text("[[outbound.allow]]")
    await page.get_by_role("button", name="Apply exactly this").click()
    await expect(page.locator("#alert")).to_contain_text("nobody is at a terminal")
    dashboard.wrong = [one for one in dashboard.wrong if "409" not in one]
    async with at_terminal(owner.builder, "dashboard", "--no-open") as terminal:
        await terminal.until("http://")

        async def link() -> str | None:
            line, end, _rest = terminal.said.partition("\n")
            return f"http://{line}" if end else None

        url = await eventually(link)
        mine = Dashboard(url=url, process=cast("Any", None))
        page = await mine.open(context)
        await page.goto(f"{page.url}approvals")
        await shot(page, "wizard")
        await page.get_by_role("button", name="Apply exactly this").click()
        await expect(page.get_by_role("status").filter(has_text="Applied")).to_be_visible()
        assert mine.wrong == []
    assert "[[outbound.allow]]" in owner.builder.config_file.read_text("utf-8")
