"""What a real agent says it did, beside what its worker's checks say, as another agent reads it."""

import asyncio

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.errors import AcceptanceFailed
from cmesh.model import Profile, TaskState
from tests.fakes.model_server import ModelServer
from tests.system.daemon.conftest import OUTBOUND, MakeMachine
from tests.system.daemon.machine import Machine, here
from tests.system.daemon.test_agent_query import AGENTS, KEY, config, program_of
from tests.system.runner.copying import commit, git

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

END_LIMIT_S = 100.0
CHECK = ["grep", "-c", "fixed", "code"]


async def test_what_an_agent_claims_stands_beside_what_checks_say(
    make_machine: MakeMachine, model: ModelServer
) -> None:
    program_of("claude")
    laptop = await make_machine("reads", OUTBOUND, user=here())
    builder = await make_machine("proves")
    place = builder.directory("app")
    (place / "code").write_text("broken\n")
    head = commit(place)
    key_file = builder.base / "config" / "agent.key"
    key_file.write_text(KEY, "utf-8")
    key_file.chmod(0o600)
    text = config("claude", key_file, model.url, place).replace('["query"]', '["query", "edit"]')
    await builder.configure(f'{text}accept = ["grep -c fixed code"]\n')
    await asyncio.gather(builder.up(), laptop.up())

    async def run(script: str) -> TaskView:
        view = await laptop.delegate(
            builder.name, "claude", place, prompt=f"mend it <<fake:{script}>>",
            profile=Profile.EDIT, accept=CHECK, new=True, wait_s=0,
        )  # fmt: skip
        await builder.trust(laptop)
        return await laptop.ended(view.task_id, END_LIMIT_S)

    def order(command: str) -> dict[str, object]:
        return dict(AGENTS["claude"].order(command, place))

    done = {"text": "Done. The test passes."}
    model.scripts = {
        "mend": [order("echo fixed >>code"), done],
        "boast": [done],
        "miss": [order("echo fxied >>code"), done],
    }
    mended = await run("mend")
    if "tier3" not in (await builder.status()).enforcement:
        pytest.skip("no sandbox of tier 3 here")
    assert (mended.state, mended.code) == (TaskState.SUCCEEDED, ""), mended
    boasted, missed = await run("boast"), await run("miss")
    for view in (boasted, missed):
        assert (view.state, view.exit_code) == (TaskState.SUCCEEDED, 0), view
        assert view.code == AcceptanceFailed.code
    assert mended.evidence is not None
    assert mended.evidence.tool_calls == 1
    assert [(ran.command, ran.failed) for ran in mended.evidence.commands] == [
        ("echo fixed >>code", False)
    ]
    assert mended.patch is not None
    assert (mended.patch.base_commit, mended.patch.changed) == (head, ["M code"])

    # All three say the same; only the line above it tells them apart.
    told = [await as_read(laptop, view) for view in (mended, boasted, missed)]
    passed = "checks say `grep -c fixed code` passed (exit 0"
    failed = "checks say `grep -c fixed code` failed (exit 1"
    assert told[0].startswith(f"agent says done; {passed}")
    assert told[0].endswith("1 file was changed")
    assert told[1].startswith(f"agent says done and called no tool; {failed}")
    assert told[1].endswith("no file was changed")
    assert told[2].startswith(f"agent says done; {failed}")
    assert told[2].endswith("1 file was changed")
    assert git(place, "status", "--porcelain") == ""


async def as_read(laptop: Machine, view: TaskView) -> str:
    """Return the verdict that stands above the agent's words; those and the check's are there."""
    async with laptop.mcp() as agent:
        text = (await agent.call("get_result", task_id=view.task_id)).text
        head, _, words = text.partition("\n\n")
        assert "Done. The test passes." in words
        checked = (await agent.call("get_result", task_id=view.task_id, part="acceptance")).text
        assert ("\n1\n" in checked) == (view.code == "")
    (line,) = [line for line in head.splitlines() if line.startswith("verdict: ")]
    return line.removeprefix("verdict: ")
