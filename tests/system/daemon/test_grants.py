"""A grant of the tailnet lets a caller in, its value narrows the rule, and it goes when it goes."""

from pathlib import Path

import pytest

from cmesh.daemon.arguments import ExplainArguments
from cmesh.model import Profile, TaskState
from cmesh.node.testnet import Grant, Testnet
from tests.contract.grants import EXAMPLES, grants, read_policy
from tests.system.daemon.conftest import MakeMachine
from tests.system.daemon.machine import ME, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system]

OUTBOUND = """
[[outbound.allow]]
name = "ask build machines"
peers = ["tag:build"]
profiles = ["query"]
"""
WAIT_S = 20


def example(place: Path) -> tuple[str, list[Grant]]:
    """Return the first example, for a directory of the test and the test's own user."""
    text = (EXAMPLES / "developers.toml").read_text("utf-8")
    text = text.replace("/srv/myapp", str(place)).replace("/srv/other", str(place.parent / "other"))
    policy = read_policy(EXAMPLES / "developers.hujson")
    policy["groups"]["group:dev"].append(ME)
    return text, grants(policy)


async def test_a_grant_of_the_tailnet_lets_in_and_its_value_narrows(
    make_machine: MakeMachine, ground: Path, testnet: Testnet
) -> None:
    place = ground / "granted" / "app"
    text, given = example(place)
    laptop = await make_machine("caller", OUTBOUND)
    worker = await make_machine("granted", text)
    worker.directory("app")
    worker.directory("other")
    (place / "README").write_text("read me\n", "utf-8")
    await worker.up()
    await laptop.up()
    await testnet.set_tags("granted", ["tag:build"])

    async def tagged() -> bool | None:
        return "tag:build" in (await worker.status()).user or None

    await eventually(tagged)

    async def asked(runner: str, directory: Path) -> tuple[TaskState, str]:
        view = await laptop.delegate(
            "granted", runner, directory, profile=Profile.QUERY, new=True, wait_s=WAIT_S
        )
        return view.state, view.code

    first = await laptop.delegate("granted", "command:check", place, profile=Profile.QUERY)
    await worker.trust(laptop)
    denied = (TaskState.DENIED, "policy_denied")
    ended = await laptop.ended(first.task_id)
    assert (ended.state, ended.code) == denied, "trusted, and nothing granted yet"

    allowed = (TaskState.SUCCEEDED, "")
    if "netns" not in (await worker.status()).enforcement:
        allowed = (TaskState.DENIED, "sandbox_unavailable")  # after policy has said yes

    async def until(effect: str, runner: str) -> None:
        """Wait until the worker's netmap has the change, and open a new link, which looks at once.

        A link that stays is looked at again within a minute: grants come without a notice.
        """
        question = ExplainArguments(
            direction="inbound", peer="caller", runner=runner, directory=str(place)
        )

        async def so() -> bool | None:
            return (await worker.call("explain", question))["effect"] == effect or None

        await eventually(so)
        await laptop.stop()
        await laptop.up()

    await testnet.set_grants(given)
    await until("allow", "command:units")
    assert await asked("command:check", place) == allowed
    await testnet.set_grants(
        [
            Grant(src=grant.src, dst=grant.dst, app={name: [{"runners": ["command:check"]}]})
            for grant in given
            for name in grant.app
        ]
    )
    await until("deny", "command:units")
    assert await asked("command:units", place) == denied
    assert await asked("command:check", place) == allowed
    await testnet.set_grants([])
    await until("deny", "command:check")
    assert await asked("command:check", place) == denied
    assert "Traceback" not in worker.log_text()
