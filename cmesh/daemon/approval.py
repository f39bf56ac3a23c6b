"""A task that waits for this machine's owner: what is shown of it, and who may not answer.

Only the control socket leads here. No message of the link and no MCP tool does.
"""

import os
import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cmesh.daemon import followup
from cmesh.daemon.admission import Grant
from cmesh.daemon.answers import WillRunView
from cmesh.daemon.parts import Parts
from cmesh.daemon.release import program_of
from cmesh.errors import CmeshError, TaskRefused
from cmesh.model import Changes, Profile, TaskId
from cmesh.policy.explain import narrowing
from cmesh.runner.manifest import Manifest
from cmesh.runner.shim_processes import MARKER, stat_of
from cmesh.store.records import AuditRecord, TaskRecord
from cmesh.text import reveal

__all__ = ["APPROVAL", "DASHBOARD", "answered", "answering", "require_no_task", "will_run"]

APPROVAL = "approval"
"""Kind of audit row: which process of this machine gave the owner's word on a task."""

DASHBOARD = "cmesh dashboard"
"""What the audit calls a process that runs this command, whose own name says `cmesh` or `python`."""

_PREFACE = "{preface}"
"""Stands in the arguments for what an agent is told: its words are cmesh's own."""

_FILE_OF_PATCH = b"diff --git "

ANCESTORS_LIMIT = 64
"""Parents that are looked at; a shell stands far nearer to its terminal."""


def will_run(parts: Parts, record: TaskRecord, grant: Grant) -> WillRunView:
    """Return what is started if the owner says yes; reads the runner's key file, if any."""
    spec = replace(record.spec, directory=grant.directory, limits=grant.limits)
    own = parts.supervisor.directory(record.task_id)
    try:
        parts.sandboxes.require_parts(grant.directory, grant.judged, grant.profile)
        place = followup.place(parts, record)
        grant.runner.check_directory(spec.directory)
        launch = grant.runner.launch(spec, own, own / "home", place, _PREFACE)
        if spec.accept:  # its program must be here
            parts.runners().acceptance(spec.accept, grant.directory)
        changes = _changes(parts, spec.changes) if spec.changes else ""
    except CmeshError as error:
        return WillRunView(obstacle=error.message)
    except OSError as error:
        return WillRunView(obstacle=f"`{grant.directory}`: {error.strerror}")
    return WillRunView(
        prompt=reveal(spec.prompt),
        argv=list(launch.argv),
        directory=launch.cwd,
        profile=grant.profile.name,
        narrowed=narrowing(grant.profile),
        changes=changes,
        bind_ignored=list(grant.bind_ignored),
        accept=list(spec.accept),
        artifacts=list(spec.artifacts),
        preface=_preface(grant.runner.manifest, spec.profile),
        answer=_answer(grant.runner.manifest) if spec.answer_schema else "",
        runtime_s=launch.runtime_s,
    )


def _changes(parts: Parts, changes: Changes) -> str:
    """Say what of a caller's changes comes into the copy: how much, of how many files."""
    said = f"{changes.bytes:,} bytes on commit {changes.commit[:12]}"
    path = parts.store.blob_path(changes.sha256)
    if path is None:
        return f"{said}; they are not here yet"
    with path.open("rb") as file:
        files = sum(line.startswith(_FILE_OF_PATCH) for line in file)
    return f"{said}, {files} file{'' if files == 1 else 's'}"


def _preface(manifest: Manifest, profile: Profile) -> str:
    if not manifest.takes_preface:
        return ""
    way = "in front of the prompt" if manifest.preface_in_prompt else "as its system text"
    return f"cmesh's words for profile {profile.value}, {way}"


def _answer(manifest: Manifest) -> str:
    if manifest.options.answer_schema:
        return f"a JSON Schema, by {manifest.options.answer_schema[0]}"
    return "a JSON Schema, in front of the prompt" if manifest.program else "a JSON Schema"


def answering(pid: int) -> str:
    """Return what the audit calls the process that answers; empty when it is gone.

    The kernel says which program it runs and with what arguments; what it says of itself, by the
    control socket, any program of this user could say.
    """
    own = Path(f"/proc/{pid}")
    try:
        same = (own / "exe").samefile("/proc/self/exe")
        words = [os.fsdecode(one) for one in (own / "cmdline").read_bytes().split(b"\0")]
        serves = same and _is_dashboard(words[1:], (own / "cwd").readlink())
    except OSError:
        serves = False
    return DASHBOARD if serves else program_of(pid)


def _is_dashboard(words: Sequence[str], cwd: Path) -> bool:
    """Say whether an interpreter's arguments run the command `dashboard` of this installation."""
    if words[:2] == ["-m", "cmesh"]:
        return words[2:3] == ["dashboard"]
    launcher = Path(sysconfig.get_path("scripts"), "cmesh")
    return words[1:2] == ["dashboard"] and (cwd / words[0]).samefile(launcher)


def answered(task_id: TaskId, pid: int, program: str, *, yes: bool) -> AuditRecord:
    """Return the row of an answer to a task that waited; why it was no stands with its end."""
    data = {"answer": "approved" if yes else "denied", "pid": pid, "program": program}
    return AuditRecord(kind=APPROVAL, task_id=task_id, data=data)


def require_no_task(pid: int, why: str = "a task cannot approve a task") -> None:
    """Refuse what comes from within a task: none approves itself, nor another of its chain.

    Looks for a task's mark in the process and those above it, and at its PID namespace. This
    holds what a sandbox holds; a task with profile `full` can do all that its owner can.

    Raises:
        TaskRefused: the process belongs to a task, or cannot be looked at.
    """
    refused = TaskRefused(
        why,
        hint="answer at a terminal of this machine, outside of every task",
    )
    try:
        if pid and _namespace(pid) != _namespace(os.getpid()):
            raise refused
        for _ in range(ANCESTORS_LIMIT):
            if pid <= 1 or pid == os.getpid():
                return
            if _is_marked(pid):
                raise refused
            found = stat_of(pid)
            if found is None:
                break
            pid = found[1]
    except PermissionError:
        return  # above it stands another user's process, which no task of ours is
    except OSError as error:
        raise refused from error


def _namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


def _is_marked(pid: int) -> bool:
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    return any(item.startswith(f"{MARKER}=".encode()) for item in environment.split(b"\0"))
