"""What is asked and answered about tasks of any age: found by words, one's record, a span's figures.

Fields are stable; new ones may be added.
"""

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, Field

from cmesh.daemon.answers import ConditionView, TaskView
from cmesh.daemon.arguments import Arguments, TaskRef
from cmesh.daemon.evidence_answers import View
from cmesh.model import Direction, TaskState

__all__ = [
    "DecidedView",
    "FiguresArguments",
    "FiguresView",
    "FindArguments",
    "FoundTasksView",
    "RecordArguments",
    "RecordView",
    "SignatureView",
    "StepView",
]


class FindArguments(Arguments):
    """Arguments of `find_tasks`, newest first; what is empty is not asked for.

    `peer` is a name or node id, `text` a part of the prompt, whatever its case. `since` and `until`
    are of the time when a task was asked for; `before` is the last task of the page before.
    """

    state: TaskState | Literal["open", "any"] = "any"
    direction: Direction | Literal["any"] = "any"
    peer: str = Field(default="", max_length=253)
    runner: str = Field(default="", max_length=80)
    text: str = Field(default="", max_length=200)
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    before: TaskRef | Literal[""] = ""
    limit: int = Field(default=50, ge=1, le=200)


class FoundTasksView(View):
    """A page of tasks, newest first.

    `older`: what to give as `before` for those that come next; empty = there are none. The page may
    have read tasks that it does not show.
    """

    tasks: list[TaskView]
    older: str = ""

    @property
    def more(self) -> bool:
        """Whether older ones may exist."""
        return bool(self.older)


class RecordArguments(Arguments):
    """Arguments of `get_record`; `check`: the signatures on its end are checked as well."""

    task_id: TaskRef
    check: bool = False


class StepView(View):
    """A row of the log about a task: a state it came into, or a fact that lasts.

    `name` is the internal one of `cmesh.protocol.state`. `told`: it is the worker's word, by the
    worker's clock, on its caller; then it has no `seq` of its own.
    """

    seq: int = 0
    ts: datetime
    kind: Literal["state", "fact"]
    name: str
    witness: str = ""
    code: str = ""
    reason: str = ""
    told: bool = False


class DecidedView(View):
    """A policy decision of this node about a task, with the conditions that did not hold."""

    seq: int
    ts: datetime
    operation: str
    effect: str
    rule: str | None = None
    reason: str = ""
    failed: list[ConditionView] = Field(default_factory=list[ConditionView])
    policy_sha256: str = ""


class SignatureView(View):
    """A signature on a task's end, checked now against what is stored and the signer's keys.

    `fits`: it is its signer's, over exactly this end. `wrong`: it is not. `unknown`: no key of
    the signer is known here. `missing`: it has not come.
    """

    by: Literal["worker", "caller"]
    signer: str
    state: Literal["fits", "wrong", "unknown", "missing"]
    key: str = ""


class RecordView(View):
    """What the log has of one task, in its order; `signatures` only where they were checked."""

    task_id: str
    steps: list[StepView] = Field(default_factory=list[StepView])
    decisions: list[DecidedView] = Field(default_factory=list[DecidedView])
    signatures: list[SignatureView] = Field(default_factory=list[SignatureView])


class FiguresArguments(Arguments):
    """Arguments of `figures`: of what was asked for, or has ended, since then."""

    since: AwareDatetime


class FiguresView(View):
    """Figures of a span of time.

    `asked`: tasks handed out; `worked`: tasks taken here. `ended` counts ends by state; `cost_usd`
    and `tokens` are of those, as far as runners tell, and `untold` of them told no cost.
    """

    asked: int = 0
    worked: int = 0
    ended: dict[str, int] = Field(default_factory=dict[str, int])
    cost_usd: float | None = None
    tokens: int | None = None
    untold: int = 0
