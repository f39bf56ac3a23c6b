"""A task in the browser from its start to its receipt, and what a page does when things go away."""

import json
import os
import re

import pytest
from playwright.async_api import BrowserContext, Page, expect

from cmesh.model import TaskState
from tests.browser.conftest import Dashboard, Field

pytestmark = [pytest.mark.anyio, pytest.mark.system]

EVIL = (
    "wide" * 3_000 + "\n</pre><script>window.evil = 1</script><img src=x onerror='window.evil = 2'>"
    "\x1b]0;title\x07\x1b[31mred \u202eflipped\u2066 [a](javascript:evil)"
)


# A page that looks again and again would be right too, and is what this is not about.
COUNTS = """
  window.timers = 0;
  const real = window.setInterval;
  window.setInterval = (...given) => { window.timers += 1; return real(...given); };
"""


async def shot(page: Page, name: str) -> None:
    """Keep what a page looks like, for people, where they ask for it."""
    if place := os.environ.get("SCREENSHOTS"):
        await page.screenshot(path=f"{place}/{name}.png", full_page=True)


async def test_a_task_is_watched_live_and_its_receipt_checked(
    machines: Field, dashboard: Dashboard, context: BrowserContext
):
    task = await machines.ask("held")
    page = await dashboard.open(context)
    await page.get_by_role("heading", name="laptop").wait_for()
    await page.locator(f"#overview a[href$='{task.task_id}']").first.click()
    events = page.locator("#events")
    await expect(events.get_by_text("one", exact=True)).to_be_visible()
    await expect(page.locator("#task-head .state-running")).to_be_visible()
    await shot(page, "running")
    machines.release("go")
    await expect(page.locator("#task-head .state-succeeded")).to_be_visible()
    await expect(events.get_by_text("two", exact=True)).to_be_visible()
    await expect(page.locator("#task-result pre")).to_contain_text("one\ntwo")
    await expect(page.locator("#task-timeline")).to_contain_text("shim recorded exit 0")
    await expect(page.locator("#task-decision")).to_contain_text("ask the builder")
    await page.get_by_role("link", name="Check the signatures").click()
    await expect(page.locator("#task-receipts").get_by_text("valid", exact=True)).to_have_count(2)
    await shot(page, "succeeded")


async def test_a_daemon_that_restarts_costs_no_event(
    machines: Field, dashboard: Dashboard, context: BrowserContext
):
    task = await machines.ask("count")
    page = await dashboard.open(context)
    await page.goto(f"{page.url}tasks/{task.task_id}")
    await expect(page.locator("#events li").nth(5)).to_be_visible()
    machines.laptop.kill()
    await expect(page.locator("#away")).to_be_visible()
    await machines.laptop.up()
    await expect(page.locator("#away")).to_be_hidden()
    before = await page.locator("#events li").count()
    await expect(page.locator("#events li").nth(before + 5)).to_be_visible()
    machines.release("stop")
    await expect(page.locator("#task-head .state-succeeded")).to_be_visible()
    ended = await machines.laptop.task(task.task_id)
    await expect(page.locator(f"#events li[data-seq='{ended.last_event}']")).to_be_attached()
    rows = await page.locator("#events li").all()
    seen = [int(await row.get_attribute("data-seq") or 0) for row in rows]
    assert seen == list(range(seen[0], ended.last_event + 1))
    # The browser notes each answer that the page had while the daemon was away.
    dashboard.wrong[:] = [line for line in dashboard.wrong if "status of 503" not in line]


async def test_lists_follow_the_daemon_over_a_restart_and_ask_for_nothing_meanwhile(
    machines: Field, dashboard: Dashboard, context: BrowserContext
):
    await context.add_init_script(COUNTS)
    overview = await dashboard.open(context)
    tasks = await context.new_page()
    dashboard.watch(tasks)
    await tasks.goto(f"{overview.url}tasks")
    first = await machines.ask("held", "seen at once")
    for page in (overview, tasks):
        row = page.locator("tr").filter(has=page.locator(f"a[href$='{first.task_id}']")).first
        await expect(row.locator(".state-running")).to_be_visible()
    machines.laptop.kill()
    for page in (overview, tasks):
        await expect(page.locator("#away")).to_be_visible()
    machines.release("go")
    await machines.laptop.up()
    for page in (overview, tasks):
        row = page.locator("tr").filter(has=page.locator(f"a[href$='{first.task_id}']")).first
        await expect(page.locator("#away")).to_be_hidden()
        await expect(row.locator(".state-succeeded")).to_be_visible()
        assert await page.evaluate("window.timers") == 0
    dashboard.wrong[:] = [line for line in dashboard.wrong if "status of 503" not in line]


async def test_a_task_is_cancelled_after_a_question(
    machines: Field, dashboard: Dashboard, context: BrowserContext
):
    task = await machines.ask("held")
    page = await dashboard.open(context)
    asked: list[str] = []
    page.once("dialog", lambda dialog: asked.append(dialog.message) or dialog.dismiss())
    await page.goto(f"{page.url}tasks/{task.task_id}")
    await expect(page.locator("#task-head .state-running")).to_be_visible()
    cancel = page.get_by_role("button", name="Cancel the task")
    await cancel.click()
    assert "End this task?" in asked[0]
    assert (await machines.laptop.task(task.task_id)).state == TaskState.RUNNING
    page.once("dialog", lambda dialog: dialog.accept())
    await page.locator("#reason").fill("no longer needed")
    await cancel.click()
    await expect(page.locator("#task-head .state-cancelled")).to_be_visible()
    assert (await machines.laptop.ended(task.task_id)).state == TaskState.CANCELLED


async def test_hostile_texts_are_shown_and_do_nothing(
    machines: Field, dashboard: Dashboard, context: BrowserContext
):
    task = await machines.ask("say", EVIL)
    await machines.laptop.ended(task.task_id)
    page = await dashboard.open(context)
    await page.goto(f"{page.url}tasks/{task.task_id}")
    result = page.locator("#task-result pre")
    await expect(result).to_contain_text("<script>window.evil = 1</script>")
    await expect(page.locator("#task-prompt")).to_contain_text("onerror")
    assert await page.evaluate("window.evil") is None
    html = await page.content()
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", html)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.goto(page.url.partition("/tasks")[0] + "/tasks")
    assert await page.evaluate("window.evil") is None
    async with page.expect_download() as download:
        await page.evaluate(
            "url => { const a = document.createElement('a'); a.href = url; a.click(); }",
            f"{page.url}/{task.task_id}/output.txt",
        )
    saved = (await (await download.value).path()).read_text("utf-8")
    assert "window.evil" in saved


async def test_a_patch_has_its_colours_and_what_to_read_first(
    machines: Field, dashboard: Dashboard, context: BrowserContext
):
    task = await machines.edit("change")
    assert task.state == TaskState.SUCCEEDED, json.dumps(task.model_dump(mode="json"))
    page = await dashboard.open(context)
    await page.goto(f"{page.url}tasks/{task.task_id}")
    patch = page.locator("#task-patch")
    await expect(patch.locator(".note.bad")).to_contain_text(".claude/settings.json")
    await expect(patch.locator(".line-add .k", has_text="def")).to_be_visible()
    await expect(patch.locator(".line-add", has_text='"<b>2</b>"')).to_be_visible()
    await shot(page, "patch")
    await page.get_by_role("link", name="Show the whole patch").click()
    await expect(page.get_by_role("heading", name="Patch")).to_be_visible()
    await expect(page.locator(".diff summary .badge.bad")).to_have_count(1)
