"""The command `release`: a machine's owner gives a task's caller what a secret has withheld."""

import sys
from typing import Annotated

import typer

from cmesh.daemon.arguments import ReleaseArguments
from cmesh.daemon.file_answers import ReleaseView, WithheldView
from cmesh.errors import UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.options import JsonOption, OneTaskArgument
from cmesh.interfaces.cli.session import call, checked
from cmesh.text import one_line

__all__ = ["release"]


def release(
    *,
    task_id: OneTaskArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Give a task's caller the patch and files that are withheld for a secret. On the worker only.

    It shows where secrets were found, without them, and who would get all of it as it is, and
    asks. It is written down with the process that asked and cannot be taken back. Not from
    within a task. The caller then asks again: `cmesh result ID --patch FILE`, `cmesh apply ID`.
    """
    view = call(lambda client: client.release(checked(ReleaseArguments, task_id=task_id)))
    open_ = [one for one in view.withheld if one.released_at is None]
    if not as_json:
        _show(view)
    if open_ and not yes:
        _ask(view, as_json=as_json)
    # Only what was shown is released. What was before is told to the caller anew.
    names = [one.sha256 for one in open_ or view.withheld]
    arguments = checked(ReleaseArguments, task_id=view.task_id, sha256=names)
    done = call(lambda client: client.release(arguments))
    if as_json:
        output.print_json(done)
        return
    output.data(f"{done.task_id} released" if open_ else f"{done.task_id} was released already")
    told = "is told now" if done.told else "is not linked; it gets it when it asks again"
    output.say(f"{done.peer} {told}")


def _show(view: ReleaseView) -> None:
    who = f"{view.peer} ({view.node_id}{f', {view.principal}' if view.principal else ''})"
    output.pairs([("task", view.task_id), ("for", who)])
    for one in view.withheld:
        output.data(f"{_name(one)}, {one.bytes} bytes{_standing(one)}")
        for found in one.found:
            output.data(f"  {found.kind}  {one_line(found.place, 300)}  {found.text}")
        rest = one.found_count - len(one.found)
        if rest > 0:
            output.say(f"and {rest} more places in it")
        if not one.found_count:
            output.say("what was found when the task ended is not known to this daemon any more")


def _name(one: WithheldView) -> str:
    return "the patch" if one.part == "patch" else one_line(one.path, 200)


def _standing(one: WithheldView) -> str:
    return f", released at {output.moment(one.released_at)}" if one.released_at else ""


def _ask(view: ReleaseView, *, as_json: bool) -> None:
    if as_json or not output.somebody():
        raise UsageError(
            "there is nobody to ask", hint=f"cmesh release {view.task_id} --yes, after a look"
        )
    # Not typer.confirm: it writes a blank to stdout, which belongs to the data.
    output.forget_typed()
    sys.stderr.write(f"Give it to {view.peer}, secrets and all? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not released", hint="nothing was changed")
