"""The patch of a task on the command line: saved as it is, and told in `cmesh show`."""

import base64
import sys
from datetime import datetime

from cmesh.daemon.arguments import PatchArguments
from cmesh.daemon.file_answers import PatchView
from cmesh.errors import UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.session import call, checked
from cmesh.text import one_line

__all__ = ["apply_hint", "patch_facts", "released", "save", "say_withheld"]


def save(task_id: str, path: str, *, as_json: bool) -> None:
    """Write the bytes of a task's patch to a file that is not there yet."""
    if path == "-" and as_json:
        raise UsageError("`--patch -` prints the patch itself", hint="leave out --json")
    arguments = checked(PatchArguments, task_id=task_id)
    found = call(lambda client: client.get_patch(arguments))
    data = base64.b64decode(found.data)
    if not data:
        output.say("the task changed nothing: there is no patch to save")
        if as_json:
            output.print_json(found.patch)
        return
    if path == "-":
        sys.stdout.buffer.write(data)
        return
    try:
        with open(path, "xb") as file:  # noqa: PTH123 - as the shell gives it
            file.write(data)
    except OSError as error:
        raise UsageError(
            f"cannot write `{one_line(path, 200)}`: {error.strerror}", hint="name a new file"
        ) from error
    if as_json:
        output.print_json(found.patch)
        return
    view = found.patch
    output.say(f"{len(data)} bytes, {view.files} files, on {_base(view)}")
    for name in view.flagged:
        output.say(f"look first: {name}")
    say_withheld(view)
    output.hint(apply_hint(found.task_id, view))


def apply_hint(task_id: str, view: PatchView) -> str:
    """Return how a patch is applied: where its base is, or where the same files are."""
    if view.base_commit:
        return f"cmesh apply {task_id}, in a clone of the repository"
    return (
        f"cmesh apply {task_id} -C DIR, a git repository with the same files (`git init`,"
        " `git add --all` and `git commit` make one)"
    )


def say_withheld(view: PatchView) -> None:
    """Say that a secret withholds a patch from its caller, or did."""
    if view.released_at:
        output.say(f"look for secrets: {released(view.released_at)}")
    elif view.withheld:
        output.say(f"withheld from the caller: {view.reason}")


def released(at: datetime | None) -> str:
    """Return since when something is the caller's that a secret withheld; empty = nothing was."""
    return f"by the worker's owner, known since {output.moment(at)}" if at else ""


def _base(patch: PatchView) -> str:
    """Say what a patch was made against."""
    commit = patch.base_commit[:12] or "a directory without a commit"
    return f"{commit}{patch.dirt}"


def patch_facts(view: PatchView | None) -> list[tuple[str, str]]:
    """Return what is known of a patch; nothing for a task without a copy."""
    if view is None:
        return []
    missing = view.withheld and f"{view.reason} [{view.withheld}]"
    rest = view.files - len(view.changed)
    changed = [*view.changed, *([f"and {rest} more"] if rest > 0 else [])]
    return [
        ("patch", f"{view.files} files, {view.bytes} bytes, sha256 {view.sha256 or 'none'}"),
        ("base", _base(view)),
        ("changed", ", ".join(changed)),
        ("look first", ", ".join(view.flagged)),
        ("left out", f"{view.left_out_count}: {', '.join(view.left_out)}" if view.left_out else ""),
        ("withheld", missing),
        ("released", released(view.released_at)),
        ("not taken", view.refused),
    ]
