"""The one line of the log about a task that has ended, and about a link. Pure: rows in, data out.

INVARIANT: no text of a task is in it, neither what was asked nor what came of it: a log is read
by more people than the audit, and kept by programs that nobody has asked.
"""

from datetime import datetime

from cmesh.link.link import Link
from cmesh.protocol.trace import trace_id
from cmesh.store.records import TaskSnapshot
from cmesh.text import one_line

__all__ = ["of_link", "of_task"]

_WORD = 64


def of_task(task: TaskSnapshot) -> dict[str, object]:
    """Return what is logged of a task that has ended; what is not known is left out."""
    record, result, spec = task.record, task.result, task.record.spec
    began, ended = task.started_at, task.ended_at
    data: dict[str, object] = {
        "task": record.task_id,
        "way": record.direction.value,
        "peer": one_line(record.peer.partition(".")[0], _WORD),
        "peer_id": record.peer_id,
        "runner": one_line(spec.runner, _WORD),
        "profile": spec.profile.value,
        "state": task.public_state.value,
        "code": one_line(task.code, _WORD),
        "rule": one_line(record.rule or "", _WORD),
        "waited_s": _seconds(task.created_at, began or ended),
        "ran_s": _seconds(began, ended),
        "events": task.last_event,
        "trace": trace_id(spec.traceparent),
    }
    if result is not None:
        data |= {
            "exit": result.exit_code,
            "tier": one_line(result.profile_enforced, _WORD),
            "credential": one_line(result.credential, _WORD),
            "output_bytes": result.output_bytes,
            "tokens": result.usage.tokens,
            "cost_usd": result.usage.cost_usd,
            "redacted": result.redacted or None,
        }
    return {key: value for key, value in data.items() if value not in (None, "")}


def of_link(link: Link, *, lasted_s: float, code: str) -> dict[str, object]:
    """Return what is logged of a link that has ended; `code` says why, empty = by a close."""
    data: dict[str, object] = {
        "peer": link.identity.name,
        "id": link.identity.node_id,
        "dialled": link.dialled,
        "lasted_s": round(lasted_s, 1),
        "frames_in": link.frames_in,
        "frames_out": link.frames_out,
        "bytes_in": link.bytes_in,
        "bytes_out": link.bytes_out,
        "code": code,
    }
    return {key: value for key, value in data.items() if value != ""}


def _seconds(begin: datetime | None, end: datetime | None) -> float | None:
    if begin is None or end is None:
        return None
    return round(max(0.0, (end - begin).total_seconds()), 3)
