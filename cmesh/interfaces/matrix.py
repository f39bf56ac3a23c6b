"""The tasks of a group side by side: one row a peer, what can be compared in columns. Pure."""

from cmesh.daemon.answers import GroupView, RefusedView, TaskView
from cmesh.errors import AcceptanceFailed
from cmesh.model import TaskState
from cmesh.text import one_line

__all__ = ["COLUMNS", "accepted", "rows", "summed"]

COLUMNS = ("PEER", "STATE", "CODE", "EXIT", "ACCEPTED", "COST", "SECONDS", "PATCH", "ID", "SAYS")
SAYS_CHARACTERS = 160


def rows(view: GroupView) -> list[list[str]]:
    """Return a row for each peer that was asked, refused ones last."""
    asked = {task.peer for task in view.tasks}
    refused = [one for one in view.refused if one.peer not in asked]
    return [*(_row(task) for task in view.tasks), *(_refused(one) for one in refused)]


def summed(view: GroupView) -> str:
    """Return how a group stands in one line."""
    parts = [f"{view.succeeded} of {view.asked} succeeded"]
    failed = sum(task.code == AcceptanceFailed.code for task in view.tasks)
    parts += [f"{failed} of them not accepted"] if failed else []
    waiting = sum(task.state is TaskState.WAITING_INPUT for task in view.tasks)
    parts += [f"{waiting} waiting for input"] if waiting else []
    going_on = len(view.tasks) - view.ended
    parts += [f"{going_on} not ended"] if going_on else []
    parts += [f"{len(view.refused)} refused"] if view.refused else []
    costs = [task.cost_usd for task in view.tasks if task.cost_usd is not None]
    parts += [f"{sum(costs):.4f} USD"] if costs else []
    return f"group {view.group}: {', '.join(parts)}"


def _refused(one: RefusedView) -> list[str]:
    return [one.peer, "refused", one.code, "", "", "", "", "", "", one.reason]


def accepted(task: TaskView) -> str:
    """Return how a task's acceptance command ended, by its worker; empty = it tells of none."""
    found = task.evidence.acceptance if task.evidence is not None else None
    if found is None:
        return ""
    if found.passed:
        return "passed"
    return f"exit {found.exit_code}" if found.end == "exited" else one_line(found.end, 32)


def _row(task: TaskView) -> list[str]:
    patch = task.patch
    return [
        task.peer,
        task.state.value,
        task.code,
        "" if task.exit_code is None else str(task.exit_code),
        accepted(task),
        "" if task.cost_usd is None else f"{task.cost_usd:.4f}",
        f"{task.elapsed_s:.1f}",
        "" if patch is None or not patch.files else f"{patch.files} files, {patch.bytes} bytes",
        task.task_id,
        one_line(_says(task), SAYS_CHARACTERS),
    ]


def _says(task: TaskView) -> str:
    """Return the question, the verdict where it tells more than the other columns, else the agent's words."""
    evidence = task.evidence
    told = evidence is not None and (evidence.acceptance is not None or evidence.tool_calls == 0)
    return task.question or (task.verdict if told else "") or task.summary or task.reason
