"""The first page."""

import pytest

from cmesh.daemon.answers import Problem
from cmesh.errors import NodeClosed
from tests.fakes.operations import FakeOperations
from tests.unit.interfaces.dashboard.conftest import Browser

pytestmark = pytest.mark.anyio


async def test_it_says_what_to_do_next(browser: Browser, operations: FakeOperations):
    problem = Problem(code="key_expires", what="the key <b>ends</b> soon", next="cmesh login")
    update = {"problems": [problem], "login_url": "https://login.example/x", "phase": "login"}
    operations.status_view = operations.status_view.model_copy(update=update)
    worker = operations.peers["worker"]
    operations.peers["worker"] = worker.model_copy(update={"trust": "waiting"})
    page = (await browser.get("/")).text
    assert "the key &lt;b&gt;ends&lt;/b&gt; soon" in page
    assert "cmesh login" in page
    assert "worker asks to be trusted" in page
    assert "https://login.example/x" in page


async def test_a_missing_page_is_told_as_such(browser: Browser):
    answer = await browser.get("/nothing")
    assert answer.status_code == 404
    assert "there is no such page" in answer.text


async def test_it_is_there_before_the_node_is(browser: Browser, operations: FakeOperations):
    operations.failures["list_peers"] = NodeClosed("the node is not up")
    operations.status_view = operations.status_view.model_copy(update={"phase": "setup"})
    for path in ("/", "/tasks"):
        assert (await browser.get(path)).status_code == 200
