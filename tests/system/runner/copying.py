"""Tasks that work on a copy, under a real shim: what the tests of copies share."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from cmesh.beneath import Judged, identity, open_root
from cmesh.model import Profile, TaskId
from cmesh.policy.profiles import BUILT_IN, NamedProfile
from cmesh.runner.confine import Sandboxes
from cmesh.runner.copies import Start, patch_path
from cmesh.runner.evidence import Exit
from cmesh.runner.launch import Launch
from cmesh.runner.programs import Needs
from cmesh.sandbox.tier import Enforcement
from tests.system.runner.support import Worker, new_id

__all__ = ["Copied", "commit", "edit", "git", "judge", "launch_of"]


def git(place: Path, *argv: str) -> str:
    """Run git as a person does, with no settings of a machine."""
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.defpath}
    who = ("-c", "user.name=me", "-c", "user.email=me@example.com", "-c", "safe.directory=*")
    done = subprocess.run(
        ["/usr/bin/git", *who, *argv], cwd=place, env=quiet, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def commit(place: Path) -> str:
    """Make a repository of a directory, with all that is in it."""
    git(place, "init", "--quiet", "--initial-branch=main")
    git(place, "add", "--all")
    git(place, "commit", "--quiet", "--message=first")
    return git(place, "rev-parse", "HEAD")


def judge(place: Path) -> Judged:
    fd = open_root(str(place))
    try:
        return (str(place), "", *identity(fd))
    finally:
        os.close(fd)


_STARTS = ("base", "changes", "bundle", "earlier")


class Copied:
    """One task that has ended.

    Attributes:
        own: its directory.
    """

    def __init__(self, worker: Worker, task_id: TaskId, exit_: Exit) -> None:
        self.exit = exit_
        self.own = worker.supervisor.directory(task_id)
        self.output = worker.output(task_id).decode()

    @property
    def patch(self) -> str:
        return patch_path(self.own).read_text()


def launch_of(
    worker: Worker,
    task_id: TaskId,
    place: Path,
    found: Enforcement,
    script: str,
    own: NamedProfile = BUILT_IN[Profile.EDIT],
    **more: object,
) -> Launch:
    directory = worker.supervisor.directory(task_id)
    sandboxes = Sandboxes([worker.supervisor.tasks_dir])
    sandboxes.found = found
    start = Start(**{name: cast("Any", more.pop(name)) for name in _STARTS if name in more})
    copy = sandboxes.copy(
        directory, str(place), judge(place), own, start=start, **cast("Any", more)
    )
    assert copy is not None
    launch = Launch(
        argv=("/bin/sh", "-c", script),
        cwd=copy.place,
        env={"PATH": os.defpath, "HOME": f"{directory}/home", "TMPDIR": f"{directory}/tmp"},
        stdin=b"",
        runtime_s=60,
        output_bytes=100_000,
    )
    return sandboxes.confine(launch, own, Needs(), copy=copy)


async def edit(
    worker: Worker,
    place: Path,
    found: Enforcement,
    script: str,
    *,
    own: NamedProfile = BUILT_IN[Profile.EDIT],
    between: Callable[[], object] | None = None,
    laid: Mapping[str, bytes] | None = None,
    **more: object,
) -> Copied:
    """Let a script work on a copy of a directory, to its end; `between` planning and start.

    `more` is of the copy: its start, and `binds`; `laid` is put into the task's directory before.
    """
    task_id = new_id()
    launch = launch_of(worker, task_id, place, found, script, own, **more)
    for name, data in (laid or {}).items():
        (worker.supervisor.directory(task_id) / name).write_bytes(data)
    worker.supervisor.prepare(task_id, launch)
    if between is not None:
        between()
    await worker.supervisor.spawn(task_id)
    return Copied(worker, task_id, await worker.result(task_id))
