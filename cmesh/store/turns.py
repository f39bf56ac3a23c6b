"""Which turn follows a task, and whether its agent waits for an answer. Pure.

The view `tasks` says the same of `waiting_input`, from the rows.
"""

from collections.abc import Sequence
from datetime import datetime

from cmesh.errors import RunnerCannot, SessionGone
from cmesh.model import NEVER_RAN, Result, TaskState
from cmesh.question import question_in
from cmesh.store.records import TaskSnapshot

__all__ = ["POSSIBLE", "asks", "gone", "taken", "waits_for_input"]

POSSIBLE = "possible"
"""What a result says of its conversation when another turn can go on with it."""


def taken(turns: Sequence[TaskSnapshot]) -> TaskSnapshot | None:
    """Return the turn that has the place; one that certainly never began gives it free."""
    for turn in turns:
        # Cancelled without the worker's word: it was never sent.
        unsent = turn.state == TaskState.CANCELLED and turn.result is None
        if turn.state not in NEVER_RAN and not unsent:
            return turn
    return None


def gone(turns: Sequence[TaskSnapshot]) -> str:
    """Return the code by which a turn was told that none can follow; empty = none was."""
    codes = [turn.code for turn in turns if turn.code in {SessionGone.code, RunnerCannot.code}]
    return codes[-1] if codes else ""


def asks(result: Result | None) -> bool:
    """Say whether a task ended well with a question, and a reply was possible then."""
    return (
        result is not None
        and result.state == TaskState.SUCCEEDED
        and result.follow_up == POSSIBLE
        and result.follow_up_until is not None
        and bool(question_in(result.text))
    )


def waits_for_input(task: TaskSnapshot, turns: Sequence[TaskSnapshot], now: datetime) -> bool:
    """Say whether the caller's answer is waited for; `turns` are all that follow the task."""
    result = task.result
    if task.state != TaskState.SUCCEEDED or result is None or not asks(result):
        return False
    until = result.follow_up_until
    return until is not None and until > now and taken(turns) is None and not gone(turns)
