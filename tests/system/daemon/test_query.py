"""Profile `query`: a task that the kernel keeps to its directory, through a real daemon pair."""

from pathlib import Path

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.model import Profile, TaskState
from cmesh.sandbox.tier import LABEL
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command
from tests.system.daemon.machine import Machine

pytestmark = [pytest.mark.anyio, pytest.mark.system]

LOOK = "cat note; cat ../secret; echo x >new; echo x >../new; echo y >$HOME/own && cat $HOME/own"
WAIT_S = 20


def rule(place: Path) -> str:
    return f"""
[[inbound.allow]]
name = "the laptop may look"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["query"]
runners = ["command:look", "claude"]
paths = ["{place}"]
"""


def narrowed(place: Path) -> str:
    return f"""
[profiles.docs]
base = "query"
read = ["docs"]

[[inbound.allow]]
name = "the laptop may look at a part"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["docs"]
runners = ["command:look"]
paths = ["{place}"]
"""


async def ask(laptop: Machine, place: Path, **more: object) -> TaskView:
    fields = {"profile": Profile.QUERY, "new": True, "wait_s": WAIT_S, **more}
    return await laptop.delegate("looked-at", "command:look", place, **fields)


async def test_a_query_reads_its_directory_and_changes_nothing(
    make_machine: MakeMachine, ground: Path
) -> None:
    place = ground / "looked-at" / "app"
    laptop = await make_machine("asks", OUTBOUND)
    worker = await make_machine("looked-at", command("look", "/bin/sh", "-c", LOOK) + rule(place))
    worker.directory("app")
    (place / "note").write_text("a note\n")
    (place.parent / "secret").write_text("a secret\n")
    await worker.up()
    await laptop.up()
    await ask(laptop, place, wait_s=0)
    await worker.trust(laptop)
    found = (await worker.status()).enforcement
    assert LABEL.fullmatch(found)
    view = await ask(laptop, place)
    if found == "none" or "netns" not in found:
        assert (view.state, view.code) == (TaskState.DENIED, "sandbox_unavailable")
        assert (await worker.task(view.task_id)).state is TaskState.DENIED
        pytest.skip(f"no sandbox here: {(await worker.status()).enforcement_note}")
    assert (view.state, view.exit_code) == (TaskState.SUCCEEDED, 0)
    assert view.summary == "a note\ny"
    assert (await worker.task(view.task_id)).profile_enforced == view.profile_enforced == found
    assert sorted(path.name for path in place.iterdir()) == ["note"]
    assert not (place.parent / "new").exists()
    for shown in (worker.cli("show", view.task_id), worker.cli("status")):
        assert found in shown.stdout
    rows = await worker.sql(
        f"SELECT profile_enforced FROM results WHERE task_id = '{view.task_id}'"
    )
    assert rows == [[found]]

    # A directory that leads out of the rule's path by now, and did not when it was written.
    (place / "out").symlink_to("/etc")
    out = await ask(laptop, place / "out")
    assert (out.state, out.code) == (TaskState.DENIED, "policy_denied")


async def test_a_profile_of_the_owner_shows_a_part_and_its_names_stay_here(
    make_machine: MakeMachine, ground: Path
) -> None:
    place = ground / "shows-part" / "app"
    look = "cat docs/text; cat key docs/../key docs/link; ls"
    laptop = await make_machine("asks-part", OUTBOUND)
    worker = await make_machine(
        "shows-part", command("look", "/bin/sh", "-c", look) + narrowed(place)
    )
    worker.directory("app")
    (place / "key").write_text("a secret\n")
    await worker.up()
    await laptop.up()
    fields = {"profile": Profile.QUERY, "new": True, "wait_s": WAIT_S}
    await laptop.delegate(worker.name, "command:look", place, **{**fields, "wait_s": 0})
    await worker.trust(laptop)
    if "netns" not in (await worker.status()).enforcement:
        pytest.skip(f"no sandbox here: {(await worker.status()).enforcement_note}")
    missing = await laptop.delegate(worker.name, "command:look", place, **fields)
    assert (missing.state, missing.code) == (TaskState.DENIED, "path_refused")
    assert "docs" not in missing.reason
    (reason,) = await worker.sql(
        f"SELECT reason FROM decisions WHERE task_id = '{missing.task_id}' AND effect = 'deny'"
    )
    assert "`[profiles.docs]` lists `docs`" in str(reason)
    (place / "docs").mkdir()
    (place / "docs" / "text").write_text("a text\n")
    (place / "docs" / "link").symlink_to("../key")
    shown = await laptop.delegate(worker.name, "command:look", place, **fields)
    assert (shown.state, shown.exit_code) == (TaskState.SUCCEEDED, 0)
    assert shown.summary == "a text\ndocs"
