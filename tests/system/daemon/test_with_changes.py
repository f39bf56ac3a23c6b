"""Uncommitted changes, out with a task and home with its patch, through real daemons."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.errors import ChangesRefused, CmeshError, PatchConflict, PolicyDenied, SecretFound
from cmesh.model import Profile, TaskState
from cmesh.node.testnet import Testnet
from tests.system.daemon.conftest import OUTBOUND
from tests.system.daemon.machine import Machine, worker_user
from tests.system.daemon.test_apply import clone, give
from tests.system.daemon.test_edit import TOKEN, ask, commands, rules
from tests.system.patch.trees import raw
from tests.system.runner.copying import commit, git

pytestmark = [pytest.mark.anyio, pytest.mark.system]

WHO = "-c user.name=a -c user.email=a@b"
SENDS = OUTBOUND.replace("profiles =", "send_changes = true\nprofiles =")


@pytest.fixture(scope="module")
async def pair(ground: Path, testnet: Testnet) -> AsyncIterator[tuple[Machine, Machine]]:
    """Return laptop and worker, up, the laptop trusted, either allowing changes."""
    assert SENDS != OUTBOUND
    laptop = Machine("sends", ground, testnet, worker_user())
    worker = Machine("takes", ground, testnet, worker_user())
    inbound = commands() + rules(worker.base) + "take_changes = true\n"
    async with AsyncExitStack() as stack:
        for machine, lines in ((laptop, SENDS), (worker, inbound)):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        await asyncio.gather(laptop.up(), worker.up())
        await ask(
            laptop, worker, worker.directory("app"), "nothing", profile=Profile.QUERY, wait_s=0
        )
        await worker.trust(laptop)
        if "tier3" not in (await worker.status()).enforcement:
            pytest.skip("no sandbox of tier 3 here")
        yield laptop, worker


@pytest.fixture
def trees(
    pair: tuple[Machine, Machine], request: pytest.FixtureRequest
) -> tuple[Machine, Machine, Path, Path]:
    """Return the pair, a repository of the worker, and a clone of it that the laptop has."""
    laptop, worker = pair
    place = worker.directory(request.node.name[:40])
    (place / "code").write_text("one\n")
    (place / "gone").write_text("gone\n")
    (place / ".gitignore").write_text("secret\n")
    commit(place)
    return laptop, worker, place, clone(laptop, place)


def send(
    laptop: Machine, worker: Machine, place: Path, home: Path, *more: str, script: str = "change"
) -> "tuple[int, str, str]":
    words = (worker.name, "do it", "-C", str(place), "--profile", "edit")
    done = laptop.cli(
        "delegate", *words, "--runner", f"command:{script}", "--with-changes", *more, cwd=home
    )
    return done.returncode, done.stdout, done.stderr


async def newest(machine: Machine) -> TaskView:
    [[task_id]] = await machine.sql("SELECT task_id FROM tasks ORDER BY created_at DESC LIMIT 1")
    return await machine.task(task_id)


async def test_changes_go_out_and_the_patch_comes_home_on_them(
    trees: tuple[Machine, Machine, Path, Path],
) -> None:
    laptop, worker, place, home = trees
    (home / "code").write_bytes(b"one\r\nmine\n")
    (home / "gone").unlink()
    (home / "staged").write_bytes(bytes(range(256)) * 9)
    git(home, "add", "staged")
    (home / "run").write_text("#!/bin/sh\n")
    (home / "run").chmod(0o755)
    (home / "link").symlink_to("code")
    (home / "secret").write_text("stays\n")
    (place / "code").write_text("of the worker\n")
    give(home)
    before = raw(home, "status", "--porcelain")
    status, said, why = send(laptop, worker, place, home, "--untracked", script="look")
    assert (status, said) == (0, "one\nmine\n"), why
    status, _, why = send(laptop, worker, place, home, "--untracked")
    assert status == 0, why
    view = await newest(laptop)
    assert view.patch is not None
    assert (view.patch.base, view.patch.dirty, view.patch.withheld) == ("changes", False, "")
    assert view.patch.base_commit == git(home, "rev-parse", "HEAD")
    assert view.patch.changed == ["A .claude/settings.json", "M code", "A new"]
    # What was copied is the tree that is here, by its bytes.
    git(home, "add", "--all")
    assert view.patch.left_out == []
    tree = git(home, "write-tree")
    git(home, "reset", "--quiet")
    git(home, "add", "staged")
    [[there]] = await worker.sql(
        f"SELECT patch->>'base_tree' FROM results WHERE task_id = '{view.task_id}'"
    )
    assert there == tree
    give(home)
    assert raw(home, "status", "--porcelain") == before

    words = ("apply", view.task_id, "-C", str(home))
    on_branch = laptop.cli(*words, "--branch", "x", "--yes")
    assert "which no branch has" in on_branch.stderr
    shown = laptop.cli(*words, "--check")
    assert shown.returncode == 0, shown.stderr
    assert "and the changes that you sent" in shown.stdout
    applied = laptop.cli(*words, "--yes")
    assert applied.returncode == 0, applied.stderr
    assert (home / "code").read_bytes() == b"one\r\nmine\ntwo\n"
    # What has changed since is in the way, as ever.
    (home / "code").write_text("one\nother\n")
    refused = laptop.cli(*words, "--check")
    assert (refused.returncode, "uncommitted" in refused.stderr) == (
        PatchConflict.exit_status,
        True,
    )


async def test_a_clean_tree_sends_its_commit_and_a_history_that_is_not_whole_is_said(
    trees: tuple[Machine, Machine, Path, Path],
) -> None:
    laptop, worker, place, home = trees
    (place / "code").write_text("of the worker\n")
    git(place, "commit", "--quiet", "--all", "--message=ahead")
    status, said, why = send(laptop, worker, place, home, script="look")
    assert (status, said) == (0, "one\n"), why
    # Of a shallow clone nobody can pack what lies before it.
    shallow = home.parent / "shallow"
    git(home.parent, "clone", "--quiet", "--depth=1", f"file://{place}", str(shallow))
    git(place, "reset", "--quiet", "--hard", "HEAD~1")
    git(shallow, "commit", "--quiet", "--allow-empty", "--message=more")
    give(home.parent)
    status, said, why = send(laptop, worker, place, shallow)
    view = await newest(laptop)
    assert (status != 0, view.code) == (True, "changes_refused"), why
    assert "is not in its repository, and the caller sends no bundle of it: " in said + why


async def test_what_would_not_arrive_exactly_is_refused_and_nothing_is_asked(
    trees: tuple[Machine, Machine, Path, Path],
) -> None:
    laptop, worker, place, home = trees
    asked = await laptop.sql("SELECT count(*) FROM tasks")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 5\n"
    dirty_inside = (
        f"git init -q sub; git -C sub {WHO} commit -q --allow-empty -m x;"
        f" git add sub; git {WHO} commit -q -m sub; echo x >sub/new"
    )
    cases: dict[str, tuple[str, type[CmeshError], str]] = {
        "loose": ("echo x >loose", ChangesRefused, "loose"),
        "secret": (f"echo {TOKEN} >>code", SecretFound, "1 secrets are in your changes, in code"),
        "pipe": ("rm code; mkfifo code", ChangesRefused, "cannot be sent as they are: code"),
        "lfs": (f"printf '{pointer}' >code", ChangesRefused, "git LFS keeps"),
        "submodule": (
            dirty_inside,
            ChangesRefused,
            "submodule `sub` is not as the commit has it",
        ),
        "nothing": ("rm -rf .git; git init -q", ChangesRefused, "nothing is committed"),
    }
    for name, (script, error, words) in cases.items():
        tree = home.parent / name
        shutil.copytree(home, tree, symlinks=True)
        subprocess.run(["/bin/sh", "-ec", script], cwd=tree, check=True, capture_output=True)
        give(home.parent)
        status, _, why = send(laptop, worker, place, tree)
        assert (name, status) == (name, error.exit_status), why
        assert words in why
        assert TOKEN not in why
    assert await laptop.sql("SELECT count(*) FROM tasks") == asked


async def test_either_side_has_to_allow_it(trees: tuple[Machine, Machine, Path, Path]) -> None:
    laptop, worker, place, home = trees
    (home / "code").write_text("mine\n")
    give(home)
    await laptop.configure(OUTBOUND)
    status, _, why = send(laptop, worker, place, home)
    assert (status, "send_changes = true" in why) == (PolicyDenied.exit_status, True)
    await laptop.configure(SENDS)
    await worker.configure(commands() + rules(worker.base))
    try:
        status, _, why = send(laptop, worker, place, home)
        assert "policy_denied" in why
        view = await newest(laptop)
        assert view.state is TaskState.DENIED
    finally:
        await worker.configure(commands() + rules(worker.base) + "take_changes = true\n")
