"""The commands about tasks: delegate, reply, wait, show, result, apply, cancel and others."""

import json
import shlex
from typing import Annotated

import typer

from cmesh.daemon.answers import ResultView, TaskView, WillRunView
from cmesh.daemon.arguments import (
    TEXT_CHARACTERS,
    ApproveArguments,
    CancelArguments,
    ResultArguments,
    TaskArguments,
    TasksArguments,
)
from cmesh.daemon.event_lines import event_line
from cmesh.errors import RunnerCannot, SessionGone, TaskRefused
from cmesh.interfaces.age import age, heard
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.apply import apply
from cmesh.interfaces.cli.artifacts import artifact_facts, save_artifacts
from cmesh.interfaces.cli.bill import bill, bill_facts
from cmesh.interfaces.cli.delegate import POSSIBLE, delegate, explain_end, reply, wait
from cmesh.interfaces.cli.evidence import evidence_facts
from cmesh.interfaces.cli.exits import TASK_EXITS
from cmesh.interfaces.cli.group import cancel_group, is_group, show_group
from cmesh.interfaces.cli.options import JsonOption, OneTaskArgument, TaskArgument
from cmesh.interfaces.cli.patch import patch_facts, save
from cmesh.interfaces.cli.release import release
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.client import ControlClient
from cmesh.model import ENDED, NEVER_RAN, TaskState
from cmesh.text import one_line

__all__ = ["register"]

SHOWN_EVENTS = 20

_MAY_LACK = (
    "CODE",
    "CREATED",
    "RUNNER",
    "BILL",
    "HEARD",
    "WAY",
    "DIRECTORY",
    "GROUP",
    "TURN",
)
"""Columns that a narrow terminal lacks, the most wanted first."""

_NO_FOLLOW_UP = {
    RunnerCannot.code: "the runner keeps no conversation",
    SessionGone.code: "the worker no longer has the conversation",
}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    own = (delegate, reply, wait, tasks, show, result, apply, cancel, approve, deny, release)
    for command in own:
        app.command()(command)


def tasks(
    *,
    state: Annotated[
        str,
        typer.Option(help="Only this state; `open` = unfinished or waiting for you, `any` = all."),
    ] = "any",
    mine: Annotated[bool, typer.Option("--mine", help="Only tasks made by this CLI.")] = False,
    group: Annotated[
        str, typer.Option(metavar="GROUP", help="Only those of this group (`g-…`).")
    ] = "",
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List tasks, newest first.

    Those handed out and those worked on here. CODE: why, as `cmesh show` says it; of one that
    succeeded `acceptance_failed` where its acceptance command did not pass. HEARD: when the worker of an unfinished one
    was last heard. BILL: what each has cost, as far as any of them says.
    """
    arguments = checked(TasksArguments, state=state, mine=mine, group=group, limit=limit)
    view = call(lambda client: client.list_tasks(arguments))
    if as_json:
        output.print_json(view)
        return
    billed = any(bill(task) for task in view.tasks)
    output.table(
        [
            "ID",
            "STATE",
            "CODE",
            "HEARD",
            "WAY",
            "PEER",
            "RUNNER",
            "TURN",
            "GROUP",
            "CREATED",
            *(["BILL"] if billed else []),
            "DIRECTORY",
            "PROMPT",
        ],
        [
            [
                task.task_id,
                task.state.value,
                task.code,
                _heard(task),
                task.direction.value,
                task.peer,
                task.runner,
                str(task.turn),
                task.group,
                output.short_moment(task.created_at),
                *([bill(task)] if billed else []),
                task.directory,
                one_line(task.prompt, 60),
            ]
            for task in view.tasks
        ],
        may_lack=_MAY_LACK,
    )
    if view.more:
        output.hint("there are older tasks; raise --limit to see them")


def show(*, task_id: TaskArgument, as_json: JsonOption = False) -> None:
    """Show all that is known of a task. State and witness, rule, age, last events.

    Of a group (`g-…`): its tasks side by side.
    """
    if is_group(task_id):
        show_group(task_id, as_json=as_json)
        return
    arguments = checked(TaskArguments, task_id=task_id, events=SHOWN_EVENTS)
    view = call(lambda client: client.get_task(arguments))
    if as_json:
        output.print_json(view)
        return
    output.pairs(_facts(view))
    for event in view.events:
        line = event_line(event, 200)
        output.data(f"{event.seq:>5}  {output.moment(event.ts)}  {event.kind}  {line}")


def result(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    task_id: TaskArgument,
    part: Annotated[
        str,
        typer.Option(help="summary, output, errors, patch, artifacts, acceptance or answer."),
    ] = "summary",
    patch: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="Save the patch as it is, for `git apply`; `-` = standard output."
        ),
    ] = "",
    artifacts: Annotated[
        str, typer.Option(metavar="DIR", help="Save the files it handed over below a folder.")
    ] = "",
    answer: Annotated[
        bool,
        typer.Option("--answer", help="Print the JSON object that fits --answer-schema, whole."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --artifacts: replace files of other content.")
    ] = False,
    offset: Annotated[int, typer.Option(help="Skip this many characters.")] = 0,
    everything: Annotated[
        bool, typer.Option("--all", help="Print to the end, however long.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print a part of a task's result. It is what the other agent says, unchecked.

    On standard error: what checks say of it. `acceptance`: the end of the acceptance command's
    own output.

    Of a group (`g-…`) the first lines of each, side by side.

    A task that was never started has none: it ends with that state's status, as `wait` does.

    The patch of a task that worked on a copy (profiles edit, build): `cmesh apply ID` shows it,
    checks it and applies it. One that may hold a secret comes once the worker's owner releases it.
    Files asked for by `--artifact` come with the result; `--artifacts DIR` writes them, and goes
    on where it stopped.
    """
    if is_group(task_id):
        show_group(task_id, as_json=as_json)
        return
    part, everything = ("answer", True) if answer else (part, everything)
    if patch:
        save(task_id, patch, as_json=as_json)
        return
    if artifacts:
        save_artifacts(task_id, artifacts, force=force, as_json=as_json)
        return
    first = checked(ResultArguments, task_id=task_id, part=part, offset=offset)
    view = call(lambda client: _read(client, first, everything=everything))
    if view.state in NEVER_RAN:
        ended = call(lambda client: client.get_task(checked(TaskArguments, task_id=view.task_id)))
        output.print_json(ended) if as_json else explain_end(ended)
        raise typer.Exit(TASK_EXITS[view.state])
    if as_json:
        output.print_json(view)
        return
    output.data(view.text)
    if view.verdict and view.offset == 0:
        output.say(view.verdict)
    if view.next_offset is not None:
        output.say(f"{view.next_offset} of {view.total} characters")
        output.hint(f"cmesh result {view.task_id} --part {view.part} --offset {view.next_offset}")
    if view.truncated:
        output.say("the worker kept only the beginning; the rest was over its limit")


def cancel(
    *,
    task_id: TaskArgument,
    reason: Annotated[str, typer.Option(help="Kept with the task, shown to the worker.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Ask for a task's end. It is `cancelled` once the worker counted no processes left.

    A task that has ended otherwise already is an error, status 43. Of a group (`g-…`) each task
    that goes on is asked to end.
    """
    if is_group(task_id):
        cancel_group(task_id, reason, as_json=as_json)
        return
    arguments = checked(CancelArguments, task_id=task_id, reason=reason)
    view = call(lambda client: client.cancel_task(arguments))
    if view.state in ENDED - {TaskState.CANCELLED}:
        ended = view.state.replace("_", " ")
        how = f"has already ended as {ended}"
        if view.state == TaskState.WAITING_INPUT:
            how = "has already ended with a question, and runs only when it is answered"
        raise TaskRefused(
            f"nothing to cancel: task `{view.task_id}` {how}", hint=f"cmesh show {view.task_id}"
        )
    if as_json:
        output.print_json(view)
        return
    output.data(f"{view.task_id} {view.state}")
    if view.state == TaskState.UNKNOWN:
        output.say(f"noted, and nobody can end it: {view.reason}")
    if view.state == TaskState.CANCELLING:
        output.hint(f"cmesh wait {view.task_id}")


def approve(*, task_id: OneTaskArgument, as_json: JsonOption = False) -> None:
    """Let a task that waits for you run here. See `cmesh show ID` first."""
    _answer(checked(ApproveArguments, task_id=task_id, approve=True), as_json=as_json)


def deny(
    *,
    task_id: OneTaskArgument,
    reason: Annotated[str, typer.Option(help="Told to the caller.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Refuse a task that waits for you here."""
    _answer(
        checked(ApproveArguments, task_id=task_id, approve=False, reason=reason), as_json=as_json
    )


def _answer(arguments: ApproveArguments, *, as_json: bool) -> None:
    view = call(lambda client: client.approve_task(arguments))
    if as_json:
        output.print_json(view)
    else:
        output.data(f"{view.task_id} {view.state}")


def _will_run(view: WillRunView | None) -> list[tuple[str, str]]:
    """Return what an approval would start; nothing for a task that waits for none."""
    if view is None:
        return []
    return [
        ("would run", shlex.join(view.argv)),
        ("in", view.directory),
        ("under", view.profile),
        ("narrowed", "; ".join(view.narrowed)),
        ("with changes", view.changes),
        ("beside it", ", ".join(view.bind_ignored)),
        ("is told", view.preface),
        ("answers by", view.answer),
        ("then runs", shlex.join(view.accept)),
        ("hands over", ", ".join(view.artifacts)),
        ("for", output.duration(view.runtime_s) if view.runtime_s else ""),
        ("cannot run", view.obstacle),
    ]


def _heard(task: TaskView) -> str:
    if not heard(task):
        return ""
    return "never" if task.known_at is None else f"{age(task.known_s)} ago"


async def _read(client: ControlClient, first: ResultArguments, *, everything: bool) -> ResultView:
    if not everything:
        return await client.get_result(first)
    view = await client.get_result(first.model_copy(update={"limit": TEXT_CHARACTERS}))
    texts = [view.text]
    while view.next_offset is not None:
        update = {"offset": view.next_offset, "limit": TEXT_CHARACTERS}
        view = await client.get_result(first.model_copy(update=update))
        texts.append(view.text)
    return view.model_copy(update={"text": "".join(texts), "offset": first.offset})


def _follow_up(view: TaskView) -> str:
    """Say whether `cmesh reply` can go on, and why not."""
    if view.followed_by:
        return f"followed by {view.followed_by}"
    if view.follow_up == POSSIBLE:
        return f"possible until {output.moment(view.follow_up_until)}"
    why = _NO_FOLLOW_UP.get(view.follow_up, "")
    return f"not possible: {why} [{view.follow_up}]" if why else view.follow_up


def _reason(view: TaskView) -> str:
    """Say why a task is as it is; of a forgotten one that its words are gone."""
    gone = view.forgotten and view.state not in (TaskState.SUCCEEDED, TaskState.WAITING_INPUT)
    reason = view.reason or ("erased" if gone else "")
    return f"{reason} [{view.code}]".lstrip() if view.code else reason


def _facts(view: TaskView) -> list[tuple[str, str]]:
    cancel_wish = "requested" if view.cancel_requested else ""
    more = " (the worker sent more than is kept)" if view.events_cut else ""
    left = "" if view.processes_left is None else str(view.processes_left)
    return [
        ("task", view.task_id),
        ("state", view.state.value),
        ("witness", view.witness),
        ("known", f"{heard(view)}, link {view.link}" if heard(view) else ""),
        ("reason", _reason(view)),
        ("instead", view.advice),
        ("retry in", "" if view.retry_after_s is None else output.duration(view.retry_after_s)),
        ("way", "handed out" if view.direction == "out" else "worked on here"),
        ("peer", f"{view.peer} ({view.node_id})"),
        ("chosen", view.chosen),
        ("group", view.group),
        ("rule", view.rule or "none"),
        ("runner", view.runner),
        ("profile", view.profile.value),
        ("enforced", view.profile_enforced),
        ("credential", view.credential),
        ("contained", view.containment.replace("_", " ")),
        ("directory", view.directory),
        ("forgotten", "its texts and files were erased here" * view.forgotten),
        ("prompt", view.prompt),
        *_will_run(view.will_run),
        ("created", output.moment(view.created_at)),
        ("expires", f"{output.moment(view.expires_at)} unless started" if view.expires_at else ""),
        ("started", output.moment(view.started_at)),
        ("ended", output.moment(view.ended_at)),
        ("elapsed", output.duration(view.elapsed_s) if view.started_at else ""),
        ("verdict", view.verdict),
        ("exit code", "" if view.exit_code is None else str(view.exit_code)),
        *bill_facts(view),
        ("cancel", cancel_wish),
        ("processes", left),
        ("redacted", f"{view.redacted} secrets" if view.redacted else ""),
        *evidence_facts(view),
        *patch_facts(view.patch),
        *artifact_facts(view),
        ("receipt", view.receipt),
        ("duplicate", view.duplicate_of or ""),
        ("turn", f"{view.turn} of thread {view.thread}" if view.follows else ""),
        ("follows", view.follows or ""),
        ("follow-up", _follow_up(view)),
        ("it asks", view.question),
        ("answer", "" if view.answer is None else json.dumps(view.answer, ensure_ascii=False)),
        ("summary", view.summary if view.summary.strip() != view.reason.strip() else ""),
        ("events", f"{view.last_event}{more}" if view.last_event else ""),
    ]
