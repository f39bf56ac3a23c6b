"""Who gets a page of the dashboard: signed in, at our own address, from our own pages."""

# pyright: reportPrivateUsage=false
import httpx2
import pytest

from cmesh.interfaces.dashboard.guard import BODY_BYTES, Guard
from cmesh.interfaces.dashboard.sign_in import IDLE_S, LINK_S, SignIn
from tests.unit.interfaces.dashboard.conftest import ORIGIN, Browser

pytestmark = pytest.mark.anyio


async def test_a_page_needs_a_session(stranger: httpx2.AsyncClient, dashboard: Guard):
    answer = await stranger.get(f"{dashboard.base}/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?ended")
    page = await stranger.get("/sign-in?ended")
    assert "its sign-in has ended" in page.text
    script = await stranger.get(f"{dashboard.base}/", headers={"Sec-Fetch-Mode": "cors"})
    assert script.status_code == 401


async def test_pages_lie_below_a_path_that_nobody_else_knows(browser: Browser):
    assert (await browser.get("/")).status_code == 200
    for path in ("/tasks", "/sign-in/", "/x/", f"{browser.base[:-1]}/", "/static/nothing"):
        assert (await browser.client.get(path)).status_code in {404, 405}
    cookie = next(iter(browser.client.cookies.jar))
    assert (cookie.path, cookie.has_nonstandard_attr("HttpOnly")) == (browser.base, True)
    assert cookie.get_nonstandard_attr("SameSite") == "Strict"


@pytest.mark.parametrize("host", ["evil.example", "localhost:7341", "127.0.0.1", "127.0.0.1:1", ""])
async def test_another_name_for_this_address_gets_nothing(browser: Browser, host: str):
    for path in (f"{browser.base}/", "/sign-in", "/static/dashboard.js"):
        answer = await browser.client.get(path, headers={"Host": host})
        assert answer.status_code == 421


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_another_site_gets_the_way_in_only(browser: Browser, site: str):
    headers = {"Sec-Fetch-Site": site}
    for path in (f"{browser.base}/", "/static/dashboard.js"):
        assert (await browser.client.get(path, headers=headers)).status_code == 403
    assert (await browser.client.get("/sign-in", headers=headers)).status_code == 200


@pytest.mark.parametrize("origin", ["null", "http://127.0.0.1:1", "https://evil.example", None])
async def test_a_form_of_another_origin_is_refused(browser: Browser, origin: str | None):
    headers = {} if origin is None else {"Origin": origin}
    for path in ("/sign-in", f"{browser.base}/"):
        answer = await browser.client.post(path, data={"code": "x"}, headers=headers)
        assert answer.status_code == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_no_other_method_is_served(browser: Browser, method: str):
    headers = {"Origin": ORIGIN}
    answer = await browser.client.request(method, f"{browser.base}/", headers=headers)
    assert answer.status_code == 403


async def test_a_long_form_is_refused_also_when_it_does_not_say_so(browser: Browser):
    headers = {"Origin": ORIGIN, "Content-Type": "application/x-www-form-urlencoded"}
    long = b"code=" + b"x" * BODY_BYTES
    answer = await browser.client.post("/sign-in", content=long, headers=headers)
    assert answer.status_code == 413

    async def pieces():
        for _ in range(20):
            yield b"x" * (BODY_BYTES // 16)

    answer = await browser.client.post("/sign-in", content=pieces(), headers=headers)
    assert answer.status_code == 400


async def test_every_answer_forbids_what_pages_do_not_need(browser: Browser):
    for path in (f"{browser.base}/", "/sign-in", "/nothing", f"{browser.base}/nothing"):
        headers = (await browser.client.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


async def test_a_link_signs_in_once(stranger: httpx2.AsyncClient, sign_in: SignIn):
    from cmesh.clock import SystemClock

    code = sign_in.link(SystemClock().monotonic())
    for status, said in ((303, ""), (403, "was used before")):
        form = {"code": code}
        answer = await stranger.post("/sign-in", data=form, headers={"Origin": ORIGIN})
        assert answer.status_code == status
        assert said in answer.text
        assert code not in answer.text


async def test_a_page_that_looks_by_itself_keeps_nobody_signed_in(
    browser: Browser, sign_in: SignIn
):
    [session] = sign_in._sessions.values()
    before = session.seen_at
    assert (await browser.get("/policy", **{"X-Refresh": "1"})).status_code == 200
    assert session.seen_at == before
    assert (await browser.get("/policy")).status_code == 200
    assert session.seen_at > before


def test_a_link_is_short_lived_and_a_session_ends_when_it_is_idle():
    sign_in = SignIn()
    late = sign_in.link(0.0)
    with pytest.raises(Exception, match="older than 5 minutes"):
        sign_in.enter(late, LINK_S + 1)
    with pytest.raises(Exception, match="not of this dashboard"):
        sign_in.enter("guess", 0.0)
    cookie = sign_in.enter(sign_in.link(0.0), 1.0)
    assert sign_in.session(cookie, IDLE_S)
    assert sign_in.session(cookie, 2 * IDLE_S)
    assert sign_in.session(cookie, 3 * IDLE_S, by_person=False)
    assert sign_in.session(cookie, 3 * IDLE_S + 1) is None
    assert sign_in.session("", 1.0) is None
    again = sign_in.enter(sign_in.link(1.0), 1.0)
    sign_in.leave(again)
    assert sign_in.session(again, 1.0) is None
    assert "guess" not in repr(vars(sign_in))
    assert late not in repr(vars(sign_in))


@pytest.mark.parametrize(
    "cookies", ["{}; {}x", 'other={{"a": 1}}; {}', "{}; a b [c]; d,e", "=; {0}; {0}y", "{}x; {}"]
)
async def test_cookies_of_other_servers_of_the_host_sign_nobody_out(browser: Browser, cookies: str):
    own = next(iter(browser.client.cookies.jar))
    browser.client.cookies.clear()
    pair = f"{own.name}={own.value}"
    assert (await browser.get("/", Cookie=cookies.format(pair, pair))).status_code == 200
    assert (await browser.get("/", Cookie=f"{own.name}=x; a={own.value}")).status_code == 303
