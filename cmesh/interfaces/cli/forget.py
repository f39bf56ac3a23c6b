"""The commands `audit forget` and `audit compact`: texts that go, and the disk they were on."""

import sys
from datetime import datetime
from typing import Annotated

import typer

from cmesh.clock import SystemClock
from cmesh.daemon.forget_calls import ForgetArguments, ForgetView
from cmesh.errors import UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.options import JsonOption
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.reporting import ALWAYS, moment_of
from cmesh.paths import state_dir

__all__ = ["compact", "forget"]

SHOWN = 20


def forget(
    *,
    task_id: Annotated[
        str, typer.Argument(metavar="[TASK]", help="One task: its id, or an end of it.")
    ] = "",
    before: Annotated[
        str,
        typer.Option(
            "--before",
            metavar="TIME",
            help="Every task that ended before 2026-01-31, or longer ago than 7d or 12h.",
        ),
    ] = "",
    peer: Annotated[
        str, typer.Option("--peer", metavar="NAME", help="Every task with this peer.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Erase the texts and files of ended tasks on this machine, for good.

    Prompts, answers, events, reasons, patches, outputs and signatures go; ids, states, times, costs, and who asked whom stay, and `audit verify` still fits. Open tasks are left out. What the peer has is the peer's. It cannot be taken back, and is written down with the process that asked. Not from within a task.
    """
    if not (task_id or before or peer):
        raise UsageError(
            "what is to be forgotten?",
            hint="name a task, --peer NAME or --before TIME, and look with --dry-run",
        )
    asked = {"task_id": task_id or None, "peer": peer or None, "ended_before": _moment(before)}
    view = call(lambda client: client.forget(checked(ForgetArguments, **asked)))
    if not as_json:
        _show(view)
    if view.count and not dry_run:
        if not yes:
            _ask(view, as_json=as_json)
        confirmed = checked(ForgetArguments, **asked, confirmed=view.confirm)
        view = call(lambda client: client.forget(confirmed))
    if as_json:
        output.print_json(view)
    elif view.asked:
        _tell(view)


def compact(*, as_json: JsonOption = False) -> None:
    """Write the audit's database anew: smaller, and without a trace of what was erased.

    The daemon does so by itself, a day after texts were erased at the latest. It needs as much free disk as the database takes. Not from within a task.
    """
    view = call(lambda client: client.compact_store())
    if as_json:
        output.print_json(view)
    elif view.done:
        output.pairs(
            [("before", f"{view.bytes_before:,} bytes"), ("after", f"{view.bytes_after:,} bytes")]
        )
    else:
        output.say("it goes on in the daemon")


def _moment(text: str) -> datetime | None:
    """Return the moment a task must have ended before; as `audit report --since`, but for `all`.

    Raises:
        UsageError: it is no time. `all` is none: it is the beginning, so it would name no task.
    """
    if not text:
        return None
    if text == ALWAYS:
        raise UsageError(f"`{ALWAYS}` is no time", hint="write 7d, 12h or 2026-01-31")
    return moment_of(text, SystemClock().now())


def _show(view: ForgetView) -> None:
    if view.open:
        output.say(
            f"{view.open:,} open tasks are left out: they have not ended, or wait to be told"
        )
    if not view.count:
        output.say("there is nothing to forget")
        return
    rows = [
        (one.task_id, one.direction, one.peer, one.state, output.moment(one.created_at))
        for one in view.tasks[:SHOWN]
    ]
    output.table(("TASK", "DIRECTION", "PEER", "STATE", "CREATED"), rows)
    if view.count > len(rows):
        output.say(f"and {view.count - len(rows):,} more")


def _tell(view: ForgetView) -> None:
    tasks = f"{view.count:,} task{'s' * (view.count != 1)}"
    if not view.done:
        output.data(f"{tasks}: the daemon goes on erasing them, also after a restart")
        return
    output.data(f"{tasks} forgotten: {view.rows:,} rows, {view.files:,} files")
    for one in sorted(state_dir().glob("store.replaced-*")):
        output.say(f"`{one}` may have them still: delete it once you do not miss it")
    if view.not_compacted:
        output.say(f"the database was not written anew: {view.not_compacted}")
        output.hint("cmesh audit compact, once there is room; until then its free blocks hold it")


def _ask(view: ForgetView, *, as_json: bool) -> None:
    if as_json or not output.somebody():
        raise UsageError("there is nobody to ask", hint="look with --dry-run, then say --yes")
    # Not typer.confirm: it writes a blank to stdout, which belongs to the data.
    sys.stderr.write(f"Erase the texts of {view.count:,} tasks for good? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not forgotten", hint="nothing was changed")
