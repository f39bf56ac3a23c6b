"""The walk of `docs/runner-manifests.md`: another agent CLI becomes a runner, by a manifest alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from cmesh.daemon.arguments import NoArguments
from cmesh.daemon.runner_answers import RunnersView, RunnerView
from cmesh.errors import CmeshError
from cmesh.model import Profile, TaskState
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import Machine, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(180)]

# An agent of the test's own, which nobody has told cmesh about. It counts the prompt's words.
PARLEY = r"""#!/bin/sh
case "$*" in
--version) echo "parley 0.3.1"; exit ;;
"run --json") ;;
*) echo "parley: no such arguments: $*" >&2; exit 2 ;;
esac
words=$(($(wc -w)))
said="$words words"
[ "$words" = 10 ] && said=ready  # the prompt of a live run
while [ -e hold ]; do sleep 0.05; done
echo '{"type":"assistant","message":{"content":[{"type":"text","text":"counting"}]}}'
printf '{"type":"result","is_error":false,"result":"%s","num_turns":1,' "$said"
printf '"usage":{"input_tokens":%d,"output_tokens":2}}\n' "$words"
"""

QUERY = """
[[inbound.allow]]
name = "the laptop may look"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["query"]
runners = ["parley"]
paths = ["{directory}"]
"""
VERSIONS = '\n[versions]\nfirst = "0.3.0"\nbelow = "0.4"\n'


def install(machine: Machine) -> Path:
    program = machine.directory("bin") / "parley"
    program.write_text(PARLEY, "utf-8")
    program.chmod(0o755)
    machine.directory("bin")  # once more, so that the file is the machine's user's
    return program


async def runner(machine: Machine) -> RunnerView:
    view = RunnersView.model_validate(await machine.call("list_runners", NoArguments()))
    return next(one for one in view.runners if one.name == "parley")


async def problem_with(machine: Machine, text: str) -> str:
    async def told() -> str | None:
        problems = [one.what for one in (await machine.status()).problems if text in one.what]
        return problems[0] if problems else None

    return await eventually(told)


def said(machine: Machine, *arguments: str) -> tuple[int, Any]:
    done = machine.cli(*arguments, "--json")
    return done.returncode, json.loads(done.stdout)


async def running(machine: Machine, task_id: str) -> bool | None:
    return (await machine.task(task_id)).state is TaskState.RUNNING or None


async def refused(laptop: Machine, directory: Path, profile: Profile) -> str:
    """Return the code with which a task for `parley` is refused."""
    try:
        task = await laptop.delegate("builder", "parley", directory, profile=profile, new=True)
    except CmeshError as error:
        return error.code
    return (await laptop.ended(task.task_id)).code


async def test_an_agent_that_cmesh_does_not_know_is_added_by_a_manifest(
    make_machine: MakeMachine,
) -> None:
    laptop = await make_machine("laptop", OUTBOUND)
    builder = await make_machine("builder")
    app, program = builder.directory("app"), install(builder)
    rules = inbound(app, ["parley", "command:true"]) + QUERY.format(directory=app)
    await builder.configure(command("true", "/bin/true") + rules)
    await builder.up()
    await laptop.up()
    # Before: the rule names a runner that nobody knows.
    assert "which is not here" in await problem_with(builder, "the runner `parley`")

    # 1. A manifest to edit.
    status, new = said(builder, "runners", "new", "parley", "--program", str(program))
    assert (status, new["program"], new["copied"]) == (0, str(program), False)
    file = Path(new["file"])
    assert file == builder.config / "runners" / "parley.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    status, again = said(builder, "runners", "new", "parley")
    assert (status, again["error"]["code"]) == (42, "task_conflict")

    # 2. Its arguments, and how its output is read.
    text = file.read_text("utf-8").replace("argv = []", 'argv = ["run", "--json"]', 1)
    text = text.replace('parser = "output"', 'parser = "claude-stream-json"')
    file.write_text(text, "utf-8")

    # 3. What is found of it: it works, but for what nobody has tried.
    status, checked = said(builder, "runners", "check", "parley")
    [view] = checked["runners"]
    items = {item["what"]: item for item in view["items"]}
    assert (status, view["ok"]) == (51, False)
    assert items["manifest"] == {"what": "manifest", "ok": True, "found": str(file), "next": ""}
    assert items["program"]["ok"]
    assert not items["version"]["ok"]
    assert "`full`" in items["version"]["next"]
    now = await runner(builder)
    assert (now.profiles, now.manifest.file, now.version) == (["full"], str(file), "parley 0.3.1")
    assert now.argv["full"] == [str(program), "run", "--json"]
    assert f"parley: {file}" in (await builder.status()).manifests

    # A live run: in a sandbox not yet, and without one where its owner says so.
    status, live = said(builder, "runners", "test", "parley")
    assert (status, live["error"]["code"]) == (51, "runner_unavailable")
    assert "`--full`" in live["error"]["hint"]
    status, live = said(builder, "runners", "test", "parley", "--full")
    assert (status, live["ok"], live["text"]) == (0, True, "ready")
    assert (live["profile"], live["version"]) == ("full", "parley 0.3.1")
    assert (live["tokens_in"], live["tokens_out"], live["credential"]) == (10, 2, "none")
    [row] = await builder.sql("SELECT data FROM audit WHERE kind = 'runner_asked'")
    assert json.loads(row[0])["profile"] == "full"

    # 4. A task, as its steps tell it.
    await laptop.delegate("builder", "parley", app, prompt="one two three")
    await builder.trust(laptop)
    [task_id] = [row[0] for row in await laptop.sql("SELECT task_id FROM tasks")]
    task = await laptop.ended(task_id)
    assert (task.state, task.summary) == (TaskState.SUCCEEDED, "3 words")
    events = {event.kind: event for event in (await laptop.task(task_id, events=50)).events}
    assert events["text"].text == "counting"
    assert (events["cost"].data["tokens_in"], events["cost"].data["tokens_out"]) == (3, 2)
    assert events["running"].data["runner_version"] == "parley 0.3.1"

    # 5. In a sandbox once its owner has tried it, and says so.
    assert await refused(laptop, app, Profile.QUERY) == "runner_unavailable"
    file.write_text(text + VERSIONS, "utf-8")
    if "netns" in (await builder.status()).enforcement:
        assert (await runner(builder)).profiles == ["query", "edit", "build", "full"]
        status, live = said(builder, "runners", "test", "parley")
        assert (status, live["profile"], live["text"]) == (0, "query", "ready")
        assert "netns" in live["enforcement"]
        task = await laptop.delegate("builder", "parley", app, profile=Profile.QUERY, new=True)
        assert (await laptop.ended(task.task_id)).state is TaskState.SUCCEEDED

    # What waits is started by no other manifest than the one it was admitted with.
    hold = builder.directory("app") / "hold"
    hold.touch()
    held = [await laptop.delegate("builder", "parley", app, new=True) for _ in range(2)]
    for task in held:
        await eventually(lambda one=task.task_id: running(builder, one))
    waits = await laptop.delegate("builder", "parley", app, new=True)
    await eventually(lambda: builder.task(waits.task_id))  # admitted, with the manifest of now
    file.write_text(text.replace('"--json"]', '"--json", "--more"]', 1), "utf-8")
    hold.unlink()
    for task in held:
        assert (await laptop.ended(task.task_id)).state is TaskState.SUCCEEDED
    assert (await laptop.ended(waits.task_id)).code == "runner_unavailable"
    file.write_text(text + VERSIONS, "utf-8")

    # What runs is read as it was started, though its manifest goes, and the daemon as well.
    hold.touch()
    task = await laptop.delegate("builder", "parley", app, prompt="one two", new=True)
    await eventually(lambda: running(builder, task.task_id))
    file.unlink()
    await builder.stop()
    await builder.up()
    assert "which is not here" in await problem_with(builder, "the runner `parley`")
    hold.unlink()
    task = await laptop.ended(task.task_id)
    assert (task.state, task.summary) == (TaskState.SUCCEEDED, "2 words")
    assert said(builder, "runners", "new", "parley")[0] == 0

    # A mistake is named by file and key, and takes away this runner alone.
    file.write_text(text.replace("reports_cost = false", "reports_cost = 1"), "utf-8")
    what = await problem_with(builder, str(file))
    assert "`reports_cost`" in what
    status, checked = said(builder, "runners", "check", "parley")
    assert [item["what"] for item in checked["runners"][0]["items"]] == ["manifest"]
    assert await refused(laptop, app, Profile.FULL) == "runner_unavailable"
    other = await laptop.delegate("builder", "command:true", app)
    assert (await laptop.ended(other.task_id)).state is TaskState.SUCCEEDED

    # And so does one that others may write.
    file.write_text(text, "utf-8")
    file.chmod(0o660)
    assert "lets other users in" in await problem_with(builder, str(file))
    file.chmod(0o600)
    task = await laptop.delegate("builder", "parley", app, new=True)
    assert (await laptop.ended(task.task_id)).state is TaskState.SUCCEEDED
