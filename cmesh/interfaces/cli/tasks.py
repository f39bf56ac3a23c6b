"""The commands about tasks: delegate, wait, tasks, show, result, cancel, approve, deny."""

from collections.abc import Callable
from typing import Annotated, NoReturn
from uuid import uuid4

import typer

from cmesh.daemon.operations import (
    TEXT_CHARACTERS,
    ApproveArguments,
    CancelArguments,
    DelegateArguments,
    ResultArguments,
    ResultView,
    TaskArguments,
    TasksArguments,
    TaskView,
)
from cmesh.errors import DaemonRestarted
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.exits import DETACHED_EXIT, TASK_EXITS
from cmesh.interfaces.cli.follow import Progress, make_progress, wait_for
from cmesh.interfaces.cli.options import (
    JsonOption,
    PeerArgument,
    ProfileOption,
    RunnerOption,
    TaskArgument,
    accept_argv,
    seconds,
)
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.client import ControlClient
from cmesh.model import TaskState
from cmesh.text import one_line

__all__ = ["register"]

SHOWN_EVENTS = 20


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (delegate, wait, tasks, show, result, cancel, approve, deny):
        app.command()(command)


def delegate(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    peer: PeerArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the agent there is to do.")],
    directory: Annotated[
        str, typer.Option("--directory", "-C", help="Absolute directory on the worker.")
    ],
    runner: RunnerOption = "claude",
    profile: ProfileOption = "query",
    accept: Annotated[
        str, typer.Option(metavar="COMMAND", help="Acceptance command to run there afterwards.")
    ] = "",
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="Longest run time there: 90, 15m, 2h.")
    ] = "15m",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for the end, or print the id only.")
    ] = True,
    key: Annotated[
        str, typer.Option(help="Idempotency key: the same key never starts a second task.")
    ] = "",
    new: Annotated[
        bool, typer.Option("--new", help="Start again although an equal task is unfinished.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Hand a task to the agent on another machine.

    Waits for its end and prints the result. Ctrl-C stops the waiting, never the task.
    """
    arguments = checked(
        DelegateArguments,
        peer=peer,
        prompt=prompt,
        directory=directory,
        runner=runner,
        profile=profile,
        accept=accept_argv(accept),
        timeout_s=seconds(timeout),
        # With a key of its own the call can be repeated when the daemon restarts under it.
        idempotency_key=key or f"cli-{uuid4().hex}",
        new=new,
    )
    progress = make_progress(quiet=as_json)

    def submitted() -> TaskView:
        view = _submit(arguments)
        progress.show(view.model_copy(update={"events": [], "last_event": 0}))
        return view

    if not wait:
        view = submitted()
        _note_duplicate(view)
        output.print_json(view) if as_json else output.data(view.task_id)
        _explain_obstacle(view)
        raise typer.Exit(TASK_EXITS[view.state] if view.state == TaskState.DENIED else 0)
    _until_end(submitted, progress, as_json=as_json)


def wait(*, task_id: TaskArgument, as_json: JsonOption = False) -> None:
    """Wait for a task's end and print its result. Ctrl-C stops the waiting only."""
    progress = make_progress(quiet=as_json)

    def known() -> TaskView:
        view = call(lambda client: client.get_task(checked(TaskArguments, task_id=task_id)))
        progress.show(view.model_copy(update={"events": [], "last_event": 0}))
        return view

    _until_end(known, progress, as_json=as_json)


def tasks(
    *,
    state: Annotated[
        str, typer.Option(help="Only this state; `open` = unfinished, `any` = all.")
    ] = "any",
    mine: Annotated[bool, typer.Option("--mine", help="Only tasks made by this CLI.")] = False,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List tasks, newest first. Those handed out and those worked on here."""
    arguments = checked(TasksArguments, state=state, mine=mine, limit=limit)
    view = call(lambda client: client.list_tasks(arguments))
    if as_json:
        output.print_json(view)
        return
    output.table(
        ["ID", "STATE", "WAY", "PEER", "RUNNER", "CREATED", "DIRECTORY", "PROMPT"],
        [
            [
                task.task_id,
                task.state.value,
                task.direction.value,
                task.peer,
                task.runner,
                output.moment(task.created_at),
                task.directory,
                one_line(task.prompt, 60),
            ]
            for task in view.tasks
        ],
    )
    if view.more:
        output.say("there are older tasks; raise --limit to see them")


def show(*, task_id: TaskArgument, as_json: JsonOption = False) -> None:
    """Show all that is known of a task. State and witness, rule, age, last events."""
    arguments = checked(TaskArguments, task_id=task_id, events=SHOWN_EVENTS)
    view = call(lambda client: client.get_task(arguments))
    if as_json:
        output.print_json(view)
        return
    output.pairs(_facts(view))
    for event in view.events:
        line = one_line(event.text, 200)
        output.data(f"{event.seq:>5}  {output.moment(event.ts)}  {event.kind}  {line}")


def result(
    *,
    task_id: TaskArgument,
    part: Annotated[str, typer.Option(help="summary, output or errors.")] = "summary",
    offset: Annotated[int, typer.Option(help="Skip this many characters.")] = 0,
    everything: Annotated[
        bool, typer.Option("--all", help="Print to the end, however long.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print a part of a task's result. It is what the other agent says, unchecked."""
    first = checked(ResultArguments, task_id=task_id, part=part, offset=offset)
    view = call(lambda client: _read(client, first, everything=everything))
    if as_json:
        output.print_json(view)
        return
    output.data(view.text)
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
    """Ask for a task's end. It is `cancelled` once the worker counted no processes left."""
    arguments = checked(CancelArguments, task_id=task_id, reason=reason)
    view = call(lambda client: client.cancel_task(arguments))
    if as_json:
        output.print_json(view)
        return
    output.data(f"{view.task_id} {view.state}")
    if view.state == TaskState.CANCELLING:
        output.hint(f"cmesh wait {view.task_id}")


def approve(*, task_id: TaskArgument, as_json: JsonOption = False) -> None:
    """Let a task that waits for you run here. See `cmesh show ID` first."""
    _answer(checked(ApproveArguments, task_id=task_id, approve=True), as_json=as_json)


def deny(
    *,
    task_id: TaskArgument,
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


def _submit(arguments: DelegateArguments) -> TaskView:
    try:
        return call(lambda client: client.delegate(arguments))
    except DaemonRestarted:
        output.say("the daemon restarted; asking again")
        return call(lambda client: client.delegate(arguments))


def _until_end(begin: Callable[[], TaskView], progress: Progress, *, as_json: bool) -> NoReturn:
    """Get a task, wait for its end, print it, exit as its state says."""
    try:
        with progress:
            view = begin()
            _note_duplicate(view)
            view = wait_for(view.task_id, progress)
    except KeyboardInterrupt:
        _detached(progress.view, as_json=as_json)
        raise typer.Exit(DETACHED_EXIT) from None
    if as_json:
        output.print_json(view)
    else:
        output.data(view.summary)
        _explain_end(view)
    raise typer.Exit(TASK_EXITS[view.state])


def _detached(view: TaskView | None, *, as_json: bool) -> None:
    if as_json:
        interrupted = {"code": "interrupted", "message": "interrupted before the task was known"}
        body = {"error": {**interrupted, "hint": "cmesh tasks --mine"}}
        output.print_json(view if view is not None else body)
    if view is None:
        output.say("stopped; whether the task was made is not known here")
        output.hint("cmesh tasks --mine")
        return
    output.say(f"no longer waiting; the task is {view.state} and goes on")
    output.hint(f"cmesh wait {view.task_id}, or cmesh cancel {view.task_id}")


def _note_duplicate(view: TaskView) -> None:
    if view.duplicate_of:
        output.say(f"an equal task is unfinished: this is {view.duplicate_of}, no new one")


def _explain_obstacle(view: TaskView) -> None:
    """Say what keeps a task that has not ended, if anything does."""
    if view.code:
        output.say(
            f"task {view.task_id} {view.state.replace('_', ' ')} [{view.code}]: {view.reason}"
        )
        output.hint(f"cmesh show {view.task_id}")


def _explain_end(view: TaskView) -> None:
    if view.state == TaskState.SUCCEEDED and not view.code:
        return
    code = f" [{view.code}]" if view.code else ""
    reason = f": {view.reason}" if view.reason else ""
    output.say(f"task {view.task_id} {view.state.replace('_', ' ')}{code}{reason}")
    output.hint(f"cmesh show {view.task_id}")


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


def _facts(view: TaskView) -> list[tuple[str, str]]:
    cancel_wish = "requested" if view.cancel_requested else ""
    cost = "" if view.cost_usd is None else f"{view.cost_usd:.4f} USD"
    left = "" if view.processes_left is None else str(view.processes_left)
    return [
        ("task", view.task_id),
        ("state", view.state.value),
        ("witness", view.witness),
        ("known", f"{output.duration(view.known_s)} ago, link {view.link}"),
        ("reason", f"{view.reason}{f' [{view.code}]' if view.code else ''}"),
        ("way", "handed out" if view.direction == "out" else "worked on here"),
        ("peer", f"{view.peer} ({view.node_id})"),
        ("rule", view.rule or "none"),
        ("runner", view.runner),
        ("profile", view.profile.value),
        ("enforced", view.profile_enforced),
        ("credential", view.credential),
        ("directory", view.directory),
        ("prompt", view.prompt),
        ("created", output.moment(view.created_at)),
        ("started", output.moment(view.started_at)),
        ("ended", output.moment(view.ended_at)),
        ("elapsed", output.duration(view.elapsed_s) if view.started_at else ""),
        ("exit code", "" if view.exit_code is None else str(view.exit_code)),
        ("cost", cost),
        ("cancel", cancel_wish),
        ("processes", left),
        ("receipt", view.receipt),
        ("duplicate", view.duplicate_of or ""),
        ("summary", view.summary),
        ("events", str(view.last_event) if view.last_event else ""),
    ]
