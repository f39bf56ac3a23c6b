"""Real agents in profile `edit`: their changes come back as a patch, and go nowhere else."""

import pytest

from cmesh.model import Profile, TaskState
from tests.fakes.model_server import ModelServer
from tests.system.daemon.conftest import OUTBOUND, MakeMachine
from tests.system.daemon.machine import here
from tests.system.daemon.test_agent_query import AGENTS, KEY, config, program_of
from tests.system.daemon.test_edit import patch_of
from tests.system.runner.copying import commit, git

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

ORDER = "pwd; echo fixed >>code; mkdir -p .claude; echo '{}' >.claude/settings.json; git status -s"


@pytest.mark.parametrize("name", AGENTS)
async def test_what_an_agent_changes_in_its_copy_comes_back_as_a_patch(
    make_machine: MakeMachine, model: ModelServer, name: str
) -> None:
    program_of(name)
    agent = AGENTS[name]
    laptop = await make_machine(f"laptop-{name}", OUTBOUND, user=here())
    builder = await make_machine(f"builder-{name}")
    place = builder.directory(f"app-{name}")
    (place / "code").write_text("broken\n")
    head = commit(place)
    key_file = builder.base / "config" / "agent.key"
    key_file.write_text(KEY, "utf-8")
    key_file.chmod(0o600)
    text = config(name, key_file, model.url, place).replace('["query"]', '["query", "edit"]')
    await builder.configure(text)
    await builder.up()
    await laptop.up()
    model.scripts = {
        "mend": [
            dict(agent.order(ORDER, place)),
            {"text": "mended: {{last_tool_result}}"},
        ]
    }
    first = await laptop.delegate(
        builder.name, name, place, prompt="mend it <<fake:mend>>", profile=Profile.EDIT, wait_s=0
    )
    await builder.trust(laptop)
    view = await laptop.ended(first.task_id, 120)
    status = await builder.status()
    if "tier3" not in status.enforcement:
        pytest.skip(f"no sandbox of tier 3 here: {status.enforcement_note}")
    assert view.state is TaskState.SUCCEEDED, view
    assert str(place) in view.summary  # the copy has the directory's name
    assert view.patch is not None
    assert (view.patch.base_commit, view.patch.dirty) == (head, False)
    assert view.patch.changed == ["A .claude/settings.json", "M code"]
    assert view.patch.flagged == [".claude/settings.json"]
    assert b"+fixed\n" in await patch_of(laptop, view.task_id)
    assert git(place, "status", "--porcelain") == ""
