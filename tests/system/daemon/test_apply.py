"""The patch of a task, home: checked, shown and applied by a person; checked, and no more, by an agent."""

import json
import os
import shutil
from pathlib import Path

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.errors import PatchApplied, PatchConflict, SecretFound, UsageError
from tests.system.daemon.machine import Machine
from tests.system.daemon.test_edit import ask, machines, pair
from tests.system.patch.trees import state
from tests.system.runner.copying import commit, git

__all__ = ["machines", "pair"]

pytestmark = [pytest.mark.anyio, pytest.mark.system]


def clone(machine: Machine, place: Path) -> Path:
    """Return a clone that the machine's user has, with a name for commits."""
    home = machine.directory(f"{place.name[:30]}-clone") / "app"
    git(place, "clone", "--quiet", str(place), str(home))
    git(home, "config", "user.name", "Ada")
    git(home, "config", "user.email", "ada@example.com")
    give(home.parent)
    return home


def give(place: Path) -> None:
    """Make all that is in a directory its owner's."""
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            os.lchown(Path(folder, name), place.stat().st_uid, place.stat().st_gid)


async def changed(
    machines: tuple[Machine, Machine, Path], script: str = "change"
) -> tuple[Machine, TaskView, Path]:
    laptop, worker, place = machines
    view = await ask(laptop, worker, place, script)
    return laptop, view, clone(laptop, place)


async def test_a_patch_is_checked_shown_and_applied_once(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, view, home = await changed(machines)
    assert f"hint: cmesh apply {view.task_id}" in laptop.cli("wait", view.task_id).stderr
    before = state(home)
    words = ("apply", view.task_id, "-C", str(home))
    checked = laptop.cli(*words, "--check")
    assert (checked.returncode, checked.stderr.splitlines()[-1]) == (0, "it would apply")
    assert "which is what is checked out" in checked.stdout
    assert "  A .claude/settings.json  +1 -0\n  M code  +1 -0\n  A new  binary\n" in checked.stdout
    assert "+two\n" in checked.stdout
    assert "look first: .claude/settings.json" in checked.stderr
    unasked = laptop.cli(*words)
    assert (unasked.returncode, "--yes" in unasked.stderr) == (UsageError.exit_status, True)
    assert state(home) == before

    applied = laptop.cli(*words, "--yes")
    assert applied.returncode == 0, applied.stderr
    assert f"applied: 3 files, {home}" in applied.stderr
    assert (home / "code").read_text() == "one\ntwo\n"
    assert (home / "new").read_bytes() == b"a\0b"
    again = laptop.cli(*words, "--yes")
    assert again.returncode == PatchApplied.exit_status
    assert "is in this tree already [already_applied]" in again.stderr or (
        "the patch is in this tree already" in again.stderr
    )


async def test_as_json_each_answer_is_one_document(machines: tuple[Machine, Machine, Path]) -> None:
    laptop, view, home = await changed(machines)
    words = ("apply", view.task_id[:13], "-C", str(home), "--json")
    checked = laptop.cli(*words, "--check")
    told = json.loads(checked.stdout)
    assert (checked.returncode, told["applies"], told["base_relation"]) == (0, True, "same")
    assert told["changed"] == ["A .claude/settings.json", "M code", "A new"]
    done = json.loads(laptop.cli(*words, "--branch", "try", "--yes").stdout)
    assert (done["applied"], done["branch"]) == (True, "try")
    assert git(home, "rev-parse", "try") == done["commit"]
    assert git(home, "status", "--porcelain") == ""
    told = git(home, "log", "-1", "--format=%an %B", "try")
    assert told.startswith(f"Ada Apply the patch of task {view.task_id}\n")
    assert "Cmesh-Peer: copies" in told
    assert "Cmesh-Runner: command:change" in told
    (home / "code").write_text("mine\n")
    failed = laptop.cli(*words, "--check")
    told = json.loads(failed.stdout)
    assert (failed.returncode, told["applies"]) == (PatchConflict.exit_status, False)
    assert [one["code"] for one in told["objections"]] == ["dirty_tree", "patch_conflict"]
    failed = laptop.cli(*words, "--yes")
    assert json.loads(failed.stdout)["error"]["code"] == "dirty_tree"
    told = laptop.cli("apply", view.task_id, "-C", str(home), "--check").stderr
    causes = [line for line in told.splitlines() if not line.startswith("look first:")]
    assert len(causes) == 2, causes
    assert causes[0].endswith("or are not tracked: code")
    assert causes[1].startswith("hint: ")
    assert (home / "code").read_text() == "mine\n"


async def test_another_repository_is_refused(machines: tuple[Machine, Machine, Path]) -> None:
    laptop, view, home = await changed(machines)
    other = laptop.directory("another")
    refused = laptop.cli("apply", view.task_id, "-C", str(other), "--check")
    assert refused.returncode == PatchConflict.exit_status
    assert "not in the work tree of a git repository" in refused.stderr
    missing = laptop.cli("apply", view.task_id, "-C", str(other / "nosuch"), "--check")
    assert (missing.returncode, "is no directory" in missing.stderr) == (2, True)
    shutil.rmtree(home / ".git")
    refused = laptop.cli("apply", view.task_id, "-C", str(home), "--check")
    assert refused.returncode == PatchConflict.exit_status


async def test_a_patch_without_a_base_has_a_way_home(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    (place / "part").mkdir()
    (place / "part" / "code").write_text("one\n")
    view = await ask(laptop, worker, place / "part", "change")
    assert "a git repository with the same files" in laptop.cli("wait", view.task_id).stderr
    home = laptop.directory(f"{place.name[:30]}-plain")
    (home / "code").write_text("one\n")
    words = ("apply", view.task_id, "-C", str(home), "--yes")
    refused = laptop.cli(*words)
    assert "`git init`, `git add --all` and `git commit` make one" in refused.stderr
    git(home, "init", "--quiet")
    give(home)
    refused = laptop.cli(*words)
    assert "commit these changes, then repeat" in refused.stderr
    assert "--branch" not in refused.stderr
    commit(home)
    give(home)
    applied = laptop.cli(*words)
    assert applied.returncode == 0, applied.stderr
    assert (home / "code").read_text() == "one\ntwo\n"


async def test_who_cannot_commit_is_told_before_the_question(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, view, home = await changed(machines)
    for words in (("--unset", "user.name"), ("--unset", "user.email"), ("user.useConfigOnly", "1")):
        git(home, "config", *words)
    give(home)
    refused = laptop.cli("apply", view.task_id, "-C", str(home), "--branch", "try")
    assert (refused.returncode, "git does not know who you are" in refused.stderr) == (2, True)


async def test_a_patch_that_is_empty_or_withheld_is_not_applied(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, worker, place = machines
    empty = await ask(laptop, worker, place, "nothing")
    done = laptop.cli("apply", empty.task_id, "--yes")
    assert (done.returncode, "changed nothing" in done.stderr) == (0, True)
    leak = await ask(laptop, worker, place, "leak")
    assert laptop.cli("apply", leak.task_id, "--yes").returncode == SecretFound.exit_status


async def test_what_a_patch_hides_is_written_out(machines: tuple[Machine, Machine, Path]) -> None:
    laptop, view, home = await changed(machines, "odd")
    shown = laptop.cli("apply", view.task_id, "-C", str(home), "--check")
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout + shown.stderr
    assert "+a<U+001B>[31mred" in shown.stdout
    assert "  A x[2Jy  +1 -0" in shown.stdout


async def test_at_a_terminal_it_asks_and_no_is_the_default(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, view, home = await changed(machines)
    before = state(home)
    words = ("apply", view.task_id, "-C", str(home))
    for answer in ("", "n"):
        status, seen = laptop.terminal(answer, *words)
        assert (status, "nothing was changed" in seen) == (130, True), seen
        assert "+two" in seen
    assert state(home) == before
    status, seen = laptop.terminal("y", *words)
    assert status == 0, seen
    assert (home / "code").read_text() == "one\ntwo\n"


async def test_an_agent_checks_a_patch_in_its_project_and_cannot_apply_it(
    machines: tuple[Machine, Machine, Path],
) -> None:
    laptop, view, home = await changed(machines)
    before = state(home)
    async with laptop.mcp(home) as agent:
        answer = await agent.call("check_patch", task_id=view.task_id)
        assert (answer.fields["applies"], answer.fields["base_relation"]) == (True, "same")
        assert "<<<cmesh:" in str(answer.fields["flagged"])
        assert f"cmesh apply {view.task_id} -C {home}" in str(answer.fields["next"])
        assert not [name for name in agent.tools if "apply" in name]
        (home / "code").write_text("mine\n")
        answer = await agent.call("check_patch", task_id=view.task_id, directory=str(home))
        assert answer.fields["applies"] is False
        assert "do not apply" in str(answer.fields["next"])
        (home / "code").write_text("one\n")
        for directory in ("..", "/", str(machines[2])):
            answer = await agent.call("check_patch", task_id=view.task_id, directory=directory)
            assert answer.is_error
            assert "outside of this project" in answer.text
    assert state(home) == before
