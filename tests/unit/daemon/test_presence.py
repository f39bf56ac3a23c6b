"""How long a call waits for a node that is on its way up."""

# pyright: reportPrivateUsage=false

import asyncio
from pathlib import Path

import pytest

from cmesh.config import NodeConfig
from cmesh.daemon.presence import NODE_LOG, Phase, Presence
from cmesh.errors import ControlUnreachable, LoginRequired, NodeClosed

pytestmark = pytest.mark.anyio

LONG_S = 3600.0
LIMIT_S = 10.0
KEPT_OUT = "control: TryLogin: fetch control key: connection refused\n"


@pytest.fixture
def presence(tmp_path: Path) -> Presence:
    """Return a node's presence that says that it was started."""
    made = Presence(NodeConfig(), tmp_path, on_peers=lambda _: None, on_up=lambda: None)
    made.begun = True
    return made


@pytest.mark.parametrize("phase", ["up", "login", "failed", "down"])
async def test_a_call_waits_until_a_starting_node_has_got_somewhere(
    presence: Presence, phase: Phase
) -> None:
    waits = asyncio.create_task(presence.rising(LONG_S))
    await asyncio.sleep(0)
    presence._set("starting")  # news that changes nothing
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waits.done()
    presence._set(phase)
    async with asyncio.timeout(LIMIT_S):
        await waits


async def test_a_node_that_does_not_come_up_costs_a_call_its_limit_and_no_more(
    presence: Presence,
) -> None:
    async with asyncio.timeout(LIMIT_S):
        await presence.rising(0.01)
    with pytest.raises(NodeClosed, match="not on the tailnet yet"):
        presence.require_up()


async def test_nobody_waits_for_what_waiting_cannot_bring(
    presence: Presence, tmp_path: Path
) -> None:
    async with asyncio.timeout(LIMIT_S):
        presence._set("login")
        await presence.rising(LONG_S)
        presence._set("starting")
        presence._seen.error = LoginRequired("no page")
        await presence.rising(LONG_S)
        presence._seen.error = None
        presence.begun = False
        await presence.rising(LONG_S)
        presence.begun = True
        waits = asyncio.create_task(presence.rising(LONG_S))
        await asyncio.sleep(0)
        assert not waits.done()
        (tmp_path / NODE_LOG).write_text(KEPT_OUT, "utf-8")
        await waits
    with pytest.raises(ControlUnreachable):
        presence.require_up()


async def test_a_login_that_a_missing_key_file_has_caused_says_so(tmp_path: Path) -> None:
    key = tmp_path / "auth.key"
    made = Presence(
        NodeConfig(auth_key_file=key), tmp_path, on_peers=lambda _: None, on_up=lambda: None
    )
    made.begun = True
    made._set("login")
    assert made.trouble == f"the auth key file `{key}` is not there"
    key.write_text("tskey-1")
    assert made.trouble == ""
    key.unlink()
    made._set("up")
    assert made.trouble == ""  # it is deleted once it is used
