"""The commands that hand out work and wait for it: delegate, reply, wait."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NoReturn
from uuid import uuid4

import typer

from cmesh.daemon.answers import SUMMARY_CHARACTERS, TaskView
from cmesh.daemon.arguments import (
    DelegateArguments,
    FanOutArguments,
    ReplyArguments,
    TaskArguments,
)
from cmesh.errors import AcceptanceFailed, AnswerInvalid, DaemonRestarted, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.exits import DETACHED_EXIT, TASK_EXITS, exit_of
from cmesh.interfaces.cli.follow import Progress, make_progress, wait_for
from cmesh.interfaces.cli.group import hand_out_all, is_group, wait_group
from cmesh.interfaces.cli.options import (
    CostOption,
    JsonOption,
    OneTaskArgument,
    ProfileOption,
    RunnerOption,
    SchemaOption,
    StartWithinOption,
    TaskArgument,
    TokensOption,
    TurnsOption,
    WaitOption,
    WhereOption,
    accept_argv,
    complete_peer,
    count,
    read_schema,
    seconds,
)
from cmesh.interfaces.cli.patch import apply_hint
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.client import ControlClient
from cmesh.model import TaskState
from cmesh.platform.elsewhere import is_absolute

__all__ = ["POSSIBLE", "delegate", "explain_end", "reply", "wait"]

POSSIBLE = "possible"


def delegate(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    peer: Annotated[
        str,
        typer.Argument(
            metavar="[PEER]",
            help="Name or node id, see `cmesh peers`; left out with --where.",
            autocompletion=complete_peer,
        ),
    ],
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What the agent there is to do.")
    ] = "",
    peers: Annotated[
        list[str],
        typer.Option(
            "--peer",
            metavar="PEER",
            help="Ask this peer too; repeat for more. PEER may also be several, with commas; "
            "PEER:/directory where one has another directory.",
            autocompletion=complete_peer,
        ),
    ] = [],  # noqa: B006 - typer makes a new one
    where: WhereOption = [],  # noqa: B006 - typer makes a new one
    everyone: Annotated[
        bool, typer.Option("--all", help="With --where: ask every peer that matches, not one.")
    ] = False,
    directory: Annotated[
        str, typer.Option("--directory", "-C", help="Absolute directory on the worker.")
    ] = "",
    runner: RunnerOption = "claude",
    profile: ProfileOption = "query",
    base: Annotated[
        str,
        typer.Option(
            metavar="head|working-tree",
            help="What the copy of edit and build holds: the commit, or with uncommitted changes.",
        ),
    ] = "head",
    with_changes: Annotated[
        bool,
        typer.Option("--with-changes", help="Send the uncommitted changes of this repository too."),
    ] = False,
    untracked: Annotated[
        bool,
        typer.Option("--untracked", help="With them also the files that git does not track."),
    ] = False,
    accept: Annotated[
        str,
        typer.Option(
            metavar="COMMAND",
            help="Acceptance command, such as `make test`: the worker runs it afterwards, in the"
            " task's sandbox, without a shell. Its rule must list it.",
        ),
    ] = "",
    artifact: Annotated[
        list[str],
        typer.Option(
            metavar="GLOB", help="Files it hands over at its end: 'dist/*.whl'. Repeatable."
        ),
    ] = [],  # noqa: B006 - typer copies it
    answer_schema: SchemaOption = "",
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="Longest run time there: 90, 15m, 2h.")
    ] = "15m",
    max_turns: TurnsOption = "0",
    max_tokens: TokensOption = "0",
    max_cost: CostOption = 0,
    wait: WaitOption = True,
    if_offline: Annotated[
        str,
        typer.Option(
            metavar="fail|queue",
            help="When the peer cannot be reached: fail at once, or keep the task here for it.",
        ),
    ] = "fail",
    start_within: StartWithinOption = "0",
    key: Annotated[
        str, typer.Option(help="Idempotency key: the same key never starts a second task.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Hand a task to the agent on another machine.

    Waits for its end and prints the result. Ctrl-C stops the waiting, never the task.
    Exits with status 65 where the task succeeded and its acceptance command did not; for several
    peers with the first one's status that is not 0.
    With --where the peer is chosen: of those that match and can be reached the one with the
    fewest tasks of this node, then by name; which one, and why not the others, is said on stderr.
    Several peers (`box,mac`, --peer again, or --where with --all) get a task each, a group: their
    results are printed side by side. One that is refused or away stops no other.
    Each call makes a task of its own, an equal one too, unless it has the key of an earlier one.
    """
    if (where or peers) and not prompt:
        peer, prompt = "", peer
    if not prompt:
        raise UsageError(
            "PROMPT is missing", hint="cmesh delegate PEER PROMPT, or --where CONDITION PROMPT"
        )
    named = [one for text in (peer, *peers) for one in text.split(",") if one]
    several = everyone or len(named) > 1 or any(":/" in one for one in named)
    _check_directory(directory, needed=not several)
    fields: dict[str, Any] = {
        "where": where,
        "prompt": prompt,
        "runner": runner,
        "profile": profile,
        "base": base,
        "with_changes": with_changes,
        "untracked": untracked,
        "accept": accept_argv(accept),
        "artifacts": artifact,
        "answer_schema": read_schema(answer_schema),
        "timeout_s": seconds(timeout),
        "turns": count(max_turns),
        "tokens": count(max_tokens),
        "cost_usd": max_cost,
        "if_offline": if_offline,
        "start_within_s": seconds(start_within),
        "idempotency_key": key or _own_key(),
        "directory": directory,
    }
    if several:
        fanned = checked(FanOutArguments, peers=named, **fields)
        hand_out_all(fanned, wait=wait, as_json=as_json)
    arguments = checked(DelegateArguments, peer="".join(named), **fields)
    _hand_out(lambda client: client.delegate(arguments), wait=wait, as_json=as_json)


def _check_directory(directory: str, *, needed: bool) -> None:
    if is_absolute(directory) or not (directory or needed):
        return
    wrong = "is not absolute" if directory else "is missing"
    raise UsageError(
        f"`--directory` {wrong}",
        hint="name a directory of the worker from its root, see PATHS in `cmesh peers`",
    )


def reply(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    task_id: OneTaskArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the agent is to do now.")],
    answer_schema: SchemaOption = "",
    same_schema: Annotated[
        bool,
        typer.Option("--same-schema", help="Answer by the JSON Schema of the turn before."),
    ] = False,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="Longest run time, at most the task's; 0 = that.")
    ] = "0",
    max_turns: TurnsOption = "0",
    max_tokens: TokensOption = "0",
    max_cost: CostOption = 0,
    wait: WaitOption = True,
    if_offline: Annotated[
        str,
        typer.Option(
            metavar="fail|queue",
            help="When the peer cannot be reached: fail at once, or keep the turn here for it.",
        ),
    ] = "fail",
    start_within: StartWithinOption = "0",
    key: Annotated[
        str, typer.Option(help="Idempotency key: the same key never starts a second turn.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Go on with the conversation of a task that succeeded or failed.

    The turn is a task of its own, on the same worker, runner, profile and directory, with the same
    limits or lower ones.
    Waits for its end and prints the result. Ctrl-C stops the waiting, never the task.
    """
    arguments = checked(
        ReplyArguments,
        task_id=task_id,
        prompt=prompt,
        answer_schema=read_schema(answer_schema),
        same_schema=same_schema,
        timeout_s=seconds(timeout),
        turns=count(max_turns),
        tokens=count(max_tokens),
        cost_usd=max_cost,
        if_offline=if_offline,
        start_within_s=seconds(start_within),
        idempotency_key=key or _own_key(),
    )
    _hand_out(lambda client: client.reply_task(arguments), wait=wait, as_json=as_json)


def wait(*, task_id: TaskArgument, as_json: JsonOption = False) -> None:
    """Wait for a task's end and print its result. Ctrl-C stops the waiting only.

    Of a group (`g-…`) all ends are waited for, and its tasks printed side by side.
    """
    if is_group(task_id):
        wait_group(task_id, as_json=as_json)
    progress = make_progress(quiet=as_json)

    def known() -> TaskView:
        view = call(lambda client: client.get_task(checked(TaskArguments, task_id=task_id)))
        progress.show(view.model_copy(update={"events": [], "last_event": 0}))
        return view

    _until_end(known, progress, as_json=as_json)


def _own_key() -> str:
    """Return a key for one call, so that it can be repeated when the daemon restarts under it."""
    return f"cli-{uuid4().hex}"


Ask = Callable[[ControlClient], Awaitable[TaskView]]


def _hand_out(ask: Ask, *, wait: bool, as_json: bool) -> NoReturn:
    """Ask for a task, under a key of its own; then wait for its end, or print its id."""
    if wait:
        progress = make_progress(quiet=as_json)

        def submitted() -> TaskView:
            view = _submit(ask)
            if not output.is_terminal():
                # At once: whoever is killed while it waits leaves the task's name behind.
                output.say(f"task {view.task_id}")
            progress.show(view.model_copy(update={"events": [], "last_event": 0}))
            return view

        _until_end(submitted, progress, as_json=as_json)
    view = _submit(ask)
    _note_duplicate(view)
    output.print_json(view) if as_json else output.data(view.task_id)
    _explain_obstacle(view)
    raise typer.Exit(TASK_EXITS[view.state] if view.state == TaskState.DENIED else 0)


def _submit(ask: Ask) -> TaskView:
    try:
        return call(ask)
    except DaemonRestarted:
        output.say("the daemon restarted; asking again")
        return call(ask)


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
        answer = view.answer
        if answer is not None:
            output.print_json(answer)
        elif not _only_reason(view):
            output.data(view.summary)
        explain_end(view)
        if view.question:
            output.say(f"it asks back: {view.question}")
        if view.code == AnswerInvalid.code and view.follow_up == POSSIBLE:
            output.hint(f"cmesh reply {view.task_id} --same-schema PROMPT")
        elif view.follow_up == POSSIBLE:
            output.hint(f"cmesh reply {view.task_id} {'ANSWER' if view.question else 'PROMPT'}")
    raise typer.Exit(exit_of(view))


def _only_reason(view: TaskView) -> bool:
    """Say whether a task left no text but why it failed: that is said once, at the end."""
    return bool(view.reason) and view.summary.strip() == view.reason.strip()


def _detached(view: TaskView | None, *, as_json: bool) -> None:
    if as_json:
        interrupted = {"code": "interrupted", "message": "interrupted before the task was known"}
        body = {"error": {**interrupted, "hint": "cmesh tasks --mine"}}
        output.print_json(view if view is not None else body)
    if view is None:
        output.say("stopped; whether the task was made is not known here")
        output.hint("cmesh tasks --mine")
        return
    output.say(f"no longer waiting; the task is {view.state.replace('_', ' ')} and goes on")
    output.hint(
        f"cmesh wait {view.task_id}, or cmesh logs -f {view.task_id}, "
        f"or cmesh cancel {view.task_id}"
    )


def _note_duplicate(view: TaskView) -> None:
    if view.chosen:
        output.say(view.chosen)
    if view.prompt_redacted:
        output.say(f"the prompt had {view.prompt_redacted} secrets in it: sent without them")
    if view.duplicate_of:
        output.say(f"the same was asked before: this is {view.duplicate_of}, no new one")


def _explain_obstacle(view: TaskView) -> None:
    """Say what keeps a task that has not ended, if anything does."""
    if view.code:
        output.say(
            f"task {view.task_id} {view.state.replace('_', ' ')} [{view.code}]: {view.reason}"
        )
        if view.retry_after_s is not None:
            output.hint(f"it is sent again in {output.duration(view.retry_after_s)}")
        output.hint(f"cmesh show {view.task_id}")


def _explain_artifacts(view: TaskView) -> None:
    """Say what came of the files that were asked for, if any were."""
    if given := sum(not one.withheld for one in view.artifacts):
        output.say(f"task {view.task_id} handed over {_files(given)}")
        output.hint(f"cmesh result {view.task_id} --artifacts DIR")
    if view.artifacts_reason:
        output.say(f"of the files that were asked for: {view.artifacts_reason}")


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


def explain_end(view: TaskView) -> None:
    """Say on stderr how a task ended, when that is not what was hoped for, and what helps."""
    if view.verdict:
        output.say(view.verdict)
    if len(view.summary) >= SUMMARY_CHARACTERS:
        output.say("this is the head and tail of a longer result")
        output.hint(f"cmesh result {view.task_id} --all")
    if view.patch is not None and view.patch.bytes:
        output.say(f"task {view.task_id} has a patch of {_files(view.patch.files)}")
        output.hint(apply_hint(view.task_id, view.patch))
    _explain_artifacts(view)
    if view.state in (TaskState.SUCCEEDED, TaskState.WAITING_INPUT) and not view.code:
        return
    code = f" [{view.code}]" if view.code else ""
    reason = f": {view.reason}" if view.reason else ""
    output.say(f"task {view.task_id} {view.state.replace('_', ' ')}{code}{reason}")
    if view.retry_after_s is not None:
        output.hint(f"delegate it again in {output.duration(view.retry_after_s)}")
    if view.advice:
        output.hint(view.advice)
    if view.code == AcceptanceFailed.code:
        output.hint(f"cmesh result {view.task_id} --part acceptance")
    output.hint(f"cmesh show {view.task_id}")
