"""What holds for all pages: signing in, other origins, accessibility, small screens, keys, bytes."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Response, expect

from tests.browser.conftest import AXE, Dashboard, Field
from tests.browser.test_task import shot

pytestmark = [pytest.mark.anyio, pytest.mark.system]

FIRST_PAGE_BYTES = 150 * 1024
# What reaches out of a small screen, but for tables, which scroll by themselves.
TOO_WIDE = """() => [...document.querySelectorAll("body *")]
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".table-wrap"))
  .map((one) => `${one.tagName}.${one.className}#${one.id}`).slice(0, 5)"""
PATHS = ("", "tasks", "tasks?state=open&text=look", "approvals", "policy", "audit", "peers")


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.exists():
        pytest.skip("no axe-core from npm here")
    return Path(AXE).read_text("utf-8")


async def test_a_link_is_good_once_and_says_so(dashboard: Dashboard, context: BrowserContext):
    page = await dashboard.open(context)
    base = page.url
    assert "#" not in base
    again = await context.new_page()
    await again.goto(dashboard.url)
    await expect(again.get_by_role("alert")).to_contain_text("was used before")
    await expect(again.locator("main")).to_contain_text("press Enter where")
    await context.clear_cookies()
    await page.goto(f"{base}tasks")
    await expect(page.get_by_role("alert")).to_contain_text("sign-in has ended")


def _streams(answer: Response) -> bool:
    return answer.headers.get("content-type", "").startswith("text/event-stream")


async def test_the_first_page_is_small_and_all_of_it_ours(
    dashboard: Dashboard, chromium: Browser, machines: Field
):
    del machines
    async with await chromium.new_context() as context:
        page = await context.new_page()
        dashboard.watch(page)
        answers: list[Response] = []
        page.on("response", lambda one: answers.append(one))  # noqa: PLW0108 - it marks what it is given
        await page.goto(dashboard.url)
        await page.wait_for_url(f"{dashboard.origin}/*/")
        await page.get_by_role("heading", name="laptop").wait_for()
        # The stream of changes has no size before it ends, and is no part of the page.
        whole = [one for one in answers if one.status == 200 and not _streams(one)]
        sizes = [await one.request.sizes() for one in whole]
        total = sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes)
        assert 0 < total <= FIRST_PAGE_BYTES


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_has_a_serious_fault_of_accessibility(
    machines: Field, dashboard: Dashboard, chromium: Browser, axe: str, scheme: str
):
    running = await machines.ask("held")
    edited = await machines.edit("change")
    own = (f"tasks/{running.task_id}", f"tasks/{edited.task_id}", f"tasks/{edited.task_id}/patch")
    found: dict[str, list[str]] = {}
    context = await chromium.new_context(
        color_scheme="dark" if scheme == "dark" else "light", viewport={"width": 360, "height": 740}
    )
    async with context:
        page = await dashboard.open(context)
        base = page.url
        for path in (*PATHS, *own, "nothing"):
            await page.goto(base + path)
            await shot(page, f"{scheme}-{path.replace('/', '-')[:24] or 'overview'}")
            found |= {f"{path}: {one}": at for one, at in (await faults(page, axe)).items()}
        await page.goto(f"{dashboard.origin}/sign-in")
        found |= await faults(page, axe)
    machines.release("go")
    await machines.laptop.ended(running.task_id)
    dashboard.wrong = [one for one in dashboard.wrong if "404" not in one]
    assert found == {}


async def test_all_can_be_reached_by_keys(
    machines: Field, dashboard: Dashboard, context: BrowserContext
):
    task = await machines.ask("say", "look at the keys")
    await machines.laptop.ended(task.task_id)
    page = await dashboard.open(context)
    await page.goto(f"{page.url}tasks")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await page.keyboard.press("/")
    search = page.locator("input[type=search]")
    await expect(search).to_be_focused()
    await search.fill("AT THE KEYS")
    await page.keyboard.press("Enter")
    await expect(page.locator("a.row")).to_have_count(1)
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/tasks/{task.task_id}")


async def faults(page: Page, axe: str) -> dict[str, list[str]]:
    """Return what is serious or critical on a page, and what is too wide, each with where it is."""
    await page.evaluate(axe)
    report = await page.evaluate("() => axe.run({ resultTypes: ['violations'] })")
    found = {
        fault["id"]: [str(node["target"]) for node in fault["nodes"]][:5]
        for fault in report["violations"]
        if fault["impact"] in {"serious", "critical"}
    }
    wide = await page.evaluate(TOO_WIDE)
    return found | ({"too wide": wide} if wide else {})
