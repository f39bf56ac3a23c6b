"""Tasks of any age for whoever looks at them: found, one with its record, the figures of a span.

Only reads; what is wanted is put to the store in its own words.
"""

from cmesh.daemon.answers import ConditionView
from cmesh.daemon.core import Daemon
from cmesh.daemon.history_calls import (
    DecidedView,
    FiguresArguments,
    FiguresView,
    FindArguments,
    FoundTasksView,
    RecordArguments,
    RecordView,
    SignatureView,
    StepView,
)
from cmesh.daemon.lookup import Lookup
from cmesh.keys import fingerprint
from cmesh.model import TERMINAL, TaskState, host_label
from cmesh.store.history import Decided, Wanted
from cmesh.store.records import TaskSnapshot
from cmesh.text import one_line, scrub

__all__ = ["figures", "find", "record"]

OPEN_STATES = tuple(state for state in TaskState if state not in TERMINAL)
"""What `open` means in a list of tasks: what goes on, and what waits for somebody."""

OPEN_MOST = 10_000
"""Tasks that go on, or wait, that are looked through; a full queue has fewer."""

_NAME_CHARACTERS = 64
_TEXT_CHARACTERS = 2_000


async def find(daemon: Daemon, lookup: Lookup, arguments: FindArguments) -> FoundTasksView:
    """Return a page of tasks.

    What goes on is in memory; ends are looked for in the database, which takes no walk over
    the events.
    """
    before = (await lookup.task(arguments.before)).seq if arguments.before else 0
    state = arguments.state
    wanted = Wanted(
        end=TaskState(state) if state in TERMINAL else None,
        direction=None if arguments.direction == "any" else arguments.direction,
        peer=arguments.peer,
        runner=arguments.runner,
        text=arguments.text,
        since=arguments.since,
        until=arguments.until,
        before=before,
    )
    most = arguments.limit + 1
    if wanted == Wanted(direction=wanted.direction) and state == "any":
        # The first page, which is looked at again and again: memory has it.
        tasks = await daemon.store.tasks(direction=wanted.direction, limit=most)
    elif state == "any" or state in TERMINAL:
        tasks = await daemon.store.found(wanted, most)
    else:
        states = OPEN_STATES if state == "open" else (TaskState(state),)
        going_on = await daemon.store.tasks(states=states, limit=OPEN_MOST)
        tasks = [task for task in going_on if wanted.fits(task)][:most]
    read = tasks[: arguments.limit]
    shown = [await lookup.view(task) for task in read]
    if wanted.end is not None:
        # One that waits for input has ended by the log as succeeded, and is shown as what it waits for.
        shown = [view for view in shown if view.state == wanted.end]
    older = read[-1].record.task_id if len(tasks) > arguments.limit else ""
    return FoundTasksView(tasks=shown, older=older)


async def record(daemon: Daemon, lookup: Lookup, arguments: RecordArguments) -> RecordView:
    """Return the rows about a task, and how its signatures stand when they are to be checked."""
    task = await lookup.task(arguments.task_id)
    kept = await daemon.store.history(task.record.task_id)
    first = StepView(
        seq=task.seq,
        ts=task.created_at,
        kind="state",
        name="queued" if task.record.direction == "out" else "accepted",
        witness="this node committed the row",
    )
    steps = [
        StepView(
            seq=0 if step.told else step.seq,
            ts=step.ts,
            kind="state" if step.kind == "state" else "fact",
            name=one_line(step.name, _NAME_CHARACTERS),
            witness=one_line(step.witness, _TEXT_CHARACTERS),
            code=one_line(step.code, _NAME_CHARACTERS),
            reason=scrub(step.reason)[:_TEXT_CHARACTERS],
            told=step.told,
        )
        for step in kept.steps
    ]
    return RecordView(
        task_id=task.record.task_id,
        steps=[first, *steps],
        decisions=[_decided(one) for one in kept.decisions],
        signatures=await _signatures(daemon, task) if arguments.check else [],
    )


async def figures(daemon: Daemon, arguments: FiguresArguments) -> FiguresView:
    """Return the figures since a moment."""
    found = await daemon.store.figures(arguments.since)
    return FiguresView(
        asked=found.asked,
        worked=found.worked,
        ended=dict(found.ended),
        cost_usd=found.cost_usd,
        tokens=found.tokens,
        untold=found.untold,
    )


async def _signatures(daemon: Daemon, task: TaskSnapshot) -> list[SignatureView]:
    if task.result is None:
        return []
    names = {task.record.peer_id: host_label(task.record.peer)}
    return [
        SignatureView(
            by=one.by,
            signer=names.get(one.signer, "this machine"),
            state=one.state,
            key=fingerprint(one.key) if one.key else "",
        )
        for one in await daemon.store.end_signatures(task.record.task_id)
    ]


def _decided(one: Decided) -> DecidedView:
    return DecidedView(
        seq=one.seq,
        ts=one.ts,
        operation=one.operation,
        effect=one.effect,
        rule=one.rule,
        reason=scrub(one.reason)[:_TEXT_CHARACTERS],
        failed=[ConditionView.model_validate(condition) for condition in one.failed],
        policy_sha256=one.policy_sha256,
    )
