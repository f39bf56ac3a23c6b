"""A group of tasks as a tool's result: a row a peer, what they say as one text that is data."""

from collections.abc import Mapping

import mcp_types as types

from cmesh.daemon.answers import GroupView, TaskView
from cmesh.daemon.file_answers import PatchView
from cmesh.interfaces.matrix import accepted
from cmesh.interfaces.mcp.fence import Fence, cut_json
from cmesh.interfaces.mcp.render import call_text, reply_call, result
from cmesh.model import TERMINAL, TaskState
from cmesh.text import cut, defang, one_line, scrub

__all__ = ["group_result", "group_text"]

WAIT_S = 20
SAYS_CHARACTERS = 2_400
TEXT_CHARACTERS = 7_000


def group_result(view: GroupView) -> types.CallToolResult:
    """Return a group with a row for each peer, and the next call."""
    mark = Fence()
    fields: dict[str, object] = {
        "group": view.group,
        "asked": view.asked,
        "ended": view.ended,
        "succeeded": view.succeeded,
        "done": view.done,
        "tasks": [_row(task, mark) for task in view.tasks],
        "refused": [_refused(one.peer, one.code, one.reason, mark) for one in view.refused],
        "chosen": mark.text(defang(view.chosen), "this-node", 900),
        "says": _says(view, mark, SAYS_CHARACTERS),
        "repeated": view.repeated or None,
        "prompt_redacted": view.prompt_redacted or None,
    }
    return result(_filled(fields), _next(view))


def group_text(view: GroupView) -> str:
    """Return the results of a group one below the other, each cut to its share."""
    mark = Fence()
    lines = [f"group: {view.group}", f"ended: {view.ended} of {len(view.tasks)}"]
    lines += [
        f"{one_line(task.peer, 63)}: {task.state}, exit {task.exit_code}, task {task.task_id}"
        + (f", acceptance: {how}" if (how := accepted(task)) else "")
        for task in view.tasks
    ]
    lines += [f"{one_line(one.peer, 63)}: no task, {one.code}" for one in view.refused]
    text = _says(view, mark, TEXT_CHARACTERS)
    return "\n".join([*lines, "", text or "(no results yet)", "", f"Next: {_next(view)}"])


def _row(task: TaskView, mark: Fence) -> dict[str, object]:
    return _filled(
        {
            "peer": mark.name(task.peer, "unnamed"),
            "task_id": task.task_id,
            "state": task.state,
            "code": task.code,
            "exit_code": task.exit_code,
            "accepted": accepted(task),
            "cost_usd": task.cost_usd,
            "elapsed_s": round(task.elapsed_s, 1),
            "patch": _patch(task.patch),
            "duplicate_of": task.duplicate_of,
        }
    )


def _patch(patch: PatchView | None) -> dict[str, object] | None:
    if patch is None or not patch.files:
        return None
    return {"files": patch.files, "bytes": patch.bytes, "flagged": patch.flagged_count}


def _refused(peer: str, code: str, reason: str, mark: Fence) -> dict[str, object]:
    return {
        "peer": mark.name(peer, "unnamed"),
        "code": code,
        "reason": one_line(scrub(reason), 200),
    }


def _says(view: GroupView, mark: Fence, room: int) -> str:
    """Return the first words of each peer's result, or why there is none, as one text.

    INVARIANT: each peer's words are indented below its name, so that none can speak as another.
    """
    words = [(task.peer, task.summary or task.reason) for task in view.tasks]
    said = [(peer, text) for peer, text in words if text]
    if not said:
        return ""
    share = room // len(said)
    parts: list[str] = []
    for peer, text in said:
        lines = cut(defang(scrub(text)), share).splitlines()
        indented = "\n".join(f"  {line}" for line in lines)
        parts.append(f"[{one_line(peer, 63)}]\n{cut_json(indented, share)}")
    return mark.whole("\n".join(parts), "of-the-group", what="Output of peers")


def _next(view: GroupView) -> str:
    if not view.done:
        return call_text("get_task", task_id=view.group, wait_s=WAIT_S)
    asking = next((task for task in view.tasks if task.state is TaskState.WAITING_INPUT), None)
    if asking is not None:
        return reply_call(asking.task_id)
    ended = next((task for task in view.tasks if task.state in TERMINAL), None)
    if ended is None:
        return call_text("list_peers")
    return call_text("get_result", task_id=ended.task_id)


def _filled(fields: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in fields.items() if value not in (None, "", [], {})}
