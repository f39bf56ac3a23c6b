"""What a task that ended here counts for against its peer's budgets of the day. Pure.

The query `used_since` says the same in SQL, for what ended in an earlier life.
"""

from cmesh.model import DayUse, TaskState
from cmesh.store.records import TaskSnapshot

__all__ = ["charge"]


def charge(task: TaskSnapshot) -> DayUse:
    """Return it for a task with a result: as told, else all that it was given; 0 = it never ran.

    INVARIANT: what nobody tells counts as used, or a task that was ended early would be free.
    """
    result = task.result
    if result is None or (task.started_at is None and result.state is not TaskState.INTERRUPTED):
        return DayUse()
    limits, usage = task.granted or task.record.spec.limits, result.usage
    seconds: float = limits.runtime_s
    if result.started_at is not None and result.ended_at is not None:
        seconds = max(0.0, (result.ended_at - result.started_at).total_seconds())
    cost = usage.cost_usd if usage.cost_usd is not None else limits.cost_usd
    # Read alone is not all of it: of an answer that was cut short nobody tells what was written.
    whole = usage.tokens_in is not None and usage.tokens_out is not None
    tokens = usage.tokens if whole else max(limits.tokens or 0, usage.tokens or 0)
    return DayUse(cost_usd=cost or 0.0, tokens=tokens or 0, runtime_s=seconds)
