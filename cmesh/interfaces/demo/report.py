"""What a run of the demo has shown: the steps, the facts, and the one line of `--json`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cmesh.errors import CmeshError, DemoFailed

__all__ = ["Report", "StepReport", "require"]


@dataclass(slots=True, kw_only=True)
class StepReport:
    """One step: what happened in it, and what was asserted at its end."""

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    checked: str = ""
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Report:
    """A whole run.

    Attributes:
        ok: every assertion held and everything that was started has ended, or is kept.
        model: the agent that did the work; empty = a script, no model.
        states: the task's states by the worker's own record, oldest first.
        refused: the refused task: id, code and the condition that failed.
        audit: what was compared between the two nodes.
        keep: how to use and stop what still runs.
    """

    ok: bool = False
    model: str = ""
    steps: list[StepReport] = field(default_factory=list[StepReport])
    task_id: str = ""
    finding: str = ""
    states: list[str] = field(default_factory=list[str])
    refused: Mapping[str, object] = field(default_factory=dict[str, object])
    audit: Mapping[str, object] = field(default_factory=dict[str, object])
    keep: Mapping[str, object] = field(default_factory=dict[str, object])
    error: CmeshError | None = None

    def line(self) -> str:
        """Return the run as one line of JSON."""
        error = self.error
        body: dict[str, object] = {
            "ok": self.ok,
            "model": self.model,
            "steps": [
                {
                    "title": step.title,
                    "seconds": round(step.seconds, 3),
                    "facts": [{"label": label, "text": text} for label, text in step.facts],
                    "checked": step.checked,
                }
                for step in self.steps
            ],
            "task_id": self.task_id,
            "finding": self.finding,
            "states": self.states,
            "refused": self.refused,
            "audit": self.audit,
            "seconds": round(sum(step.seconds for step in self.steps), 3),
        }
        if self.keep:
            body["keep"] = self.keep
        if error is not None:
            body["error"] = {"code": error.code, "message": error.message, "hint": error.hint}
        return json.dumps(body, ensure_ascii=False)


def require(holds: object, otherwise: str, *found: Sequence[object] | object) -> None:
    """Assert what the demo claims; `found` is what was there instead.

    Raises:
        DemoFailed: it does not hold.
    """
    if not holds:
        seen = "; ".join(str(item) for item in found)
        raise DemoFailed(otherwise + (f" (found: {seen[:400]})" if seen else ""))
