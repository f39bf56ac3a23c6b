"""How a node gets onto a tailnet, and what happens when it may not."""

import asyncio
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import pytest

from cmesh.errors import LoginRequired, NodeError
from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet
from tests.system.node.support import ALICE, EVENT_LIMIT_S, MakeNode

pytestmark = [pytest.mark.anyio, pytest.mark.system]


def _options(testnet: Testnet, state_dir: Path, auth_key: str = "") -> NodeOptions:
    return NodeOptions(
        state_dir=state_dir,
        hostname="node",
        control_url=testnet.control_url,
        auth_key=auth_key,
        allow_testnet=True,
    )


async def test_a_person_logs_the_node_in_by_url(testnet: Testnet, tmp_path: Path) -> None:
    shown: list[str] = []

    async def log_in(url: str) -> None:
        shown.append(url)
        await testnet.complete_login(url, ALICE)

    async with Node(_options(testnet, tmp_path / "n")) as node:
        status = await node.up(on_login=log_in)
        assert status.state == "Running"
        assert status.user == ALICE
        assert status.testnet
    assert len(shown) == 1


async def test_a_needed_login_is_an_error_with_its_url_and_can_be_completed(
    testnet: Testnet, tmp_path: Path
) -> None:
    async with Node(_options(testnet, tmp_path / "n")) as node:
        with pytest.raises(LoginRequired, match=f"`{testnet.control_url}/login/"):
            await node.up()
        await testnet.complete_login((await node.status()).login_url, ALICE)
        assert (await node.up()).user == ALICE


async def test_a_login_survives_a_restart_of_the_node(testnet: Testnet, tmp_path: Path) -> None:
    options = _options(testnet, tmp_path / "n", await testnet.auth_key(ALICE))
    async with Node(options) as node:
        first = await node.up()
    async with Node(_options(testnet, tmp_path / "n")) as node:
        again = await node.up()
    assert (again.node_id, again.addresses) == (first.node_id, first.addresses)


async def test_an_auth_key_that_nobody_made_is_refused(testnet: Testnet, tmp_path: Path) -> None:
    async with Node(_options(testnet, tmp_path / "n", "tskey-auth-wrong")) as node:
        with pytest.raises(LoginRequired, match="invalid auth key"):
            await node.up()


async def test_an_expired_auth_key_is_refused(
    testnet: Testnet, tmp_path: Path, long_ago: datetime
) -> None:
    key = await testnet.auth_key(ALICE, expires_at=long_ago)
    async with Node(_options(testnet, tmp_path / "n", key)) as node:
        with pytest.raises(LoginRequired, match="expired"):
            await node.up()


async def test_a_one_off_auth_key_works_once(testnet: Testnet, tmp_path: Path) -> None:
    key = await testnet.auth_key(ALICE)
    async with Node(_options(testnet, tmp_path / "a", key)) as first:
        await first.up()
    async with Node(_options(testnet, tmp_path / "b", key)) as second:
        with pytest.raises(LoginRequired, match="used already"):
            await second.up()


async def test_a_reusable_auth_key_works_again(testnet: Testnet, tmp_path: Path) -> None:
    key = await testnet.auth_key(ALICE, reusable=True)
    names: list[str] = []
    for directory in ("a", "b"):
        async with Node(_options(testnet, tmp_path / directory, key)) as node:
            names.append((await node.up()).name.partition(".")[0])
    assert names == ["node", "node-1"]


async def test_the_key_is_not_shown_with_the_options() -> None:
    options = NodeOptions(state_dir=Path("x"), hostname="n", auth_key="tskey-secret")
    assert "tskey-secret" not in repr(options)


async def test_an_expired_node_logs_in_again_as_itself(
    testnet: Testnet, tmp_path: Path, long_ago: datetime
) -> None:
    async def log_in(url: str) -> None:
        await testnet.complete_login(url, ALICE)

    async with Node(_options(testnet, tmp_path / "n")) as node:
        first = await node.up(on_login=log_in)
        async with asyncio.timeout(EVENT_LIMIT_S), aclosing(node.notifications()) as news:
            await testnet.expire("node", long_ago)
            async for notification in news:
                if notification.state == "NeedsLogin":
                    break
        await node.login()
        assert (await node.up(on_login=log_in)).node_id == first.node_id


async def test_logging_out_ends_the_login(testnet: Testnet, tmp_path: Path) -> None:
    key = await testnet.auth_key(ALICE)
    async with Node(_options(testnet, tmp_path / "n", key)) as node:
        await node.up()
        await node.logout()
    async with Node(_options(testnet, tmp_path / "n")) as node:
        with pytest.raises(LoginRequired):
            await node.up()


async def test_a_denied_login_says_why(testnet: Testnet, tmp_path: Path) -> None:
    async def deny(url: str) -> None:
        await testnet.deny_login(url, "not on my watch")

    async with Node(_options(testnet, tmp_path / "n")) as node:
        with pytest.raises(LoginRequired, match="not on my watch"):
            await node.up(on_login=deny)


async def test_a_test_tailnet_is_refused_unless_allowed(testnet: Testnet, tmp_path: Path) -> None:
    await testnet.set_auto_user(ALICE)
    options = NodeOptions(
        state_dir=tmp_path / "n", hostname="node", control_url=testnet.control_url
    )
    async with Node(options) as node:
        with pytest.raises(NodeError, match="test tailnet"):
            await node.up()


async def test_nodes_find_a_restarted_control_server_that_kept_its_keys(
    tmp_path: Path,
) -> None:
    async with Testnet(state_dir=tmp_path / "control", auto_user=ALICE) as control:
        address = control.control_url.removeprefix("http://")
        node = Node(_options(control, tmp_path / "n"))
        await node.start()
        first = await node.up()
    try:
        async with Testnet(state_dir=tmp_path / "control", listen=address) as control:
            assert [n.node_id for n in await control.nodes()] == [first.node_id]
            await control.set_auto_user(ALICE)
            async with Node(_options(control, tmp_path / "other")) as other:
                wanted = (await other.up()).node_id
                async with asyncio.timeout(EVENT_LIMIT_S), aclosing(node.notifications()) as news:
                    async for _ in news:
                        if wanted in [p.identity.node_id for p in await node.peers()]:
                            break
    finally:
        await node.close()


async def test_make_node_gives_each_user_its_own_login(make_node: MakeNode) -> None:
    bob = await make_node("bob", user="bob@example.com")
    assert (await bob.status()).user == "bob@example.com"
