"""The patch of a task, home: looked at, shown, and applied when a person says so.

All that git does here is `cmesh.patch`'s; this shows what it found and asks.
"""

import base64
import hashlib
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import typer

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import PatchArguments, TaskArguments
from cmesh.daemon.file_answers import PatchFile
from cmesh.daemon.patch_answers import AppliedView, CheckPatchView, ObjectionView, check_view
from cmesh.errors import DirtyTree, PatchConflict, RemoteProtocolError, UsageError, by_code
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.patch import say_withheld
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.client import ControlClient
from cmesh.patch.branch import commit, require_person
from cmesh.patch.look import Look, look
from cmesh.patch.repository import Repository
from cmesh.patch.write import put, take_back
from cmesh.paths import git_environment
from cmesh.text import one_line

__all__ = ["Wish", "apply_patch"]

NAME_CHARACTERS = 300
SHORT_ID = 12
NAMES_SHOWN = 3

_RELATIONS = {
    "same": "which is what is checked out",
    "diverged": "from which what is checked out has gone another way",
    "missing": "which is not in this repository",
    "unknown": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a patch is to be applied: the options of the command."""

    directory: str
    branch: str
    yes: bool
    check: bool
    as_json: bool


def apply_patch(task_id: str, wish: Wish) -> None:
    """Look at the patch of a task, show it, ask, and apply it. Blocks on the person.

    Raises:
        UsageError: there is nobody to ask.
        CmeshError: why it is not applied, or is not here.
    """
    task, found = call(lambda client: _fetch(client, task_id))
    data = base64.b64decode(found.data)
    if not data:
        output.say("the task changed nothing: there is no patch to apply")
        if wish.as_json:
            output.print_json(found.patch)
        return
    if hashlib.sha256(data).hexdigest() != found.sha256:
        raise RemoteProtocolError("the patch is not the one that its worker signed")
    base = found.patch.base_commit
    if not wish.check and take_back(Repository(wish.directory, based=bool(base))):
        output.say("an apply that was cut off here is taken back")
    with tempfile.TemporaryDirectory(prefix="cmesh-patch-") as aside:
        sent = base64.b64decode(found.sent) if found.patch.base == "changes" else None
        seen = look(Path(aside), data, base, wish.directory, wish.branch, sent)
        view = check_view(task.task_id, seen, found.sha256, len(data), patch=found.patch)
        if not wish.as_json:
            _show(view, seen, found)
        if wish.check:
            _end_check(view, data, as_json=wish.as_json)
            return
        _require(view)
        _agree(data, view.root, wish)
        done = _do(view, seen, task, wish.branch)
    if wish.as_json:
        output.print_json(done)
        return
    output.say(f"applied: {done.files} files, {_where(done)}")
    output.hint(_next(done))


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


async def _fetch(client: ControlClient, task_id: str) -> tuple[TaskView, PatchFile]:
    task = await client.get_task(checked(TaskArguments, task_id=task_id, events=0))
    return task, await client.get_patch(checked(PatchArguments, task_id=task.task_id))


def _show(view: CheckPatchView, seen: Look, found: PatchFile) -> None:
    """Print what is known of the patch and of the tree."""
    output.pairs(
        [
            ("patch", f"of task {view.task_id}: {view.files} files, +{view.added} -{view.deleted}"),
            ("base", _base(view)),
            ("tree", view.root),
        ]
    )
    letters = {change.name: change.letter for change in seen.changes}
    for one in seen.numbers:
        lines = "binary" if one.added is None else f"+{one.added} -{one.deleted}"
        output.data(f"  {letters.get(one.name, ' ')} {_name(one.name)}  {lines}")
    for name in seen.flagged:
        output.say(f"look first: {_name(name)}")
    for name in view.collisions:
        output.say(f"some systems take two names for one: {_name(name)}")
    say_withheld(found.patch)
    if found.patch.left_out_count:
        output.say(f"{found.patch.left_out_count} names were left out by the worker")


def _base(view: CheckPatchView) -> str:
    """Say what the patch was made of and how the tree stands to it."""
    commit_id = view.base_commit[:SHORT_ID]
    if not commit_id:
        return "a directory without a commit: its paths are taken to be in the one you named"
    how = _RELATIONS.get(view.base_relation)
    if how is None:
        how = f"{view.ahead or view.behind} commits {'before' if view.ahead else 'after'} yours"
    dirty = " and uncommitted changes" if view.dirty_base else ""
    if view.sent_base:
        dirty = " and the changes that you sent"
    return f"{commit_id}{dirty}{f', {how}' if how else ''}"


def _name(name: str) -> str:
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return one_line(text, NAME_CHARACTERS)


def _end_check(view: CheckPatchView, data: bytes, *, as_json: bool) -> None:
    """Answer `--check`: the status is that of the first objection."""
    if as_json:
        output.print_json(view)
        if view.objections:
            raise typer.Exit(by_code(view.objections[0].code).exit_status)
        return
    _require(view)
    output.paged(data.decode("utf-8", "replace"))
    output.say("it would apply")


def _require(view: CheckPatchView) -> None:
    """Raise the first objection; the others are told before, each cause once."""
    for one in view.objections[1:]:
        if not _follows(one, view.objections[0]):
            output.say(f"also: {one.why}{_about(one)} [{one.code}]")
    if view.objections:
        first = view.objections[0]
        why = f"the patch is not applied: {first.why}{_about(first)}"
        raise by_code(first.code)(why, hint=first.next)


def _follows(one: ObjectionView, first: ObjectionView) -> bool:
    """Say whether an objection is but what the first one causes: a person's own changes conflict."""
    if (first.code, one.code) != (DirtyTree.code, PatchConflict.code):
        return False
    return all(any(name.startswith(f"{own}: ") for own in first.names) for name in one.names)


def _about(one: ObjectionView) -> str:
    """Return some of the paths that an objection is about, and the count of the rest."""
    names = ", ".join(_name(name) for name in one.names[:NAMES_SHOWN])
    rest = one.count - NAMES_SHOWN
    more = f" and {rest} more (`--check --json` lists them)" if rest > 0 else ""
    return f": {names}{more}" if names else ""


def _agree(data: bytes, root: str, wish: Wish) -> None:
    """Have the person's word; raises UsageError where it cannot be had, or could not be kept."""
    if wish.branch:  # before somebody reads a patch, and says yes to what cannot be
        require_person(root, git_environment())
    if wish.yes:
        return
    if wish.as_json or not _can_ask():
        raise UsageError("there is nobody to ask", hint="say --yes, or --check to only look")
    _ask(data, wish.branch or root)


def _ask(data: bytes, where: str) -> None:
    output.paged(data.decode("utf-8", "replace"))
    if not typer.confirm(f"Apply it to {one_line(where)}?", default=False, err=True):
        output.say("nothing was changed")
        raise typer.Abort


def _do(view: CheckPatchView, seen: Look, task: TaskView, branch: str) -> AppliedView:
    made = ""
    if branch:
        made = commit(seen, branch, _message(task), git_environment())
    else:
        put(seen)
    return AppliedView(**view.model_dump(), applied=True, branch=branch, commit=made)


def _message(task: TaskView) -> str:
    """Return the commit's message; what other machines chose is one line each."""
    return (
        f"Apply the patch of task {task.task_id}\n\n"
        f"Cmesh-Task: {task.task_id}\n"
        f"Cmesh-Peer: {one_line(task.peer, NAME_CHARACTERS)}\n"
        f"Cmesh-Runner: {one_line(task.runner, NAME_CHARACTERS)}\n"
    )


def _where(done: AppliedView) -> str:
    return f"commit {done.commit[:SHORT_ID]} on branch {done.branch}" if done.branch else done.root


def _next(done: AppliedView) -> str:
    git = f"git -C {shlex.quote(done.root)}"
    if done.branch:
        return f"{git} diff {done.base_commit[:SHORT_ID]} {shlex.quote(done.branch)}"
    return f"{git} status; nothing is staged or committed"
