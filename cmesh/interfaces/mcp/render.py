"""Answers of the daemon as tool results: what a model may read, fenced and capped.

Every string that another machine wrote passes through a `Fence`. Nothing
here calls the daemon.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import mcp_types as types

from cmesh.daemon.operations import (
    EventView,
    PeerView,
    ResultView,
    SqlView,
    StatusView,
    TaskView,
)
from cmesh.errors import CmeshError
from cmesh.interfaces.mcp.relay_wire import literal
from cmesh.model import TERMINAL, Direction, TaskState
from cmesh.text import cut, defang, fence, one_line, scrub

__all__ = [
    "RESULT_CHARACTERS",
    "Fence",
    "call_text",
    "error_result",
    "peer_fields",
    "plain",
    "result",
    "result_text",
    "rows_result",
    "sql_fields",
    "status_fields",
    "task_fields",
    "task_next",
]

RESULT_CHARACTERS = 10_000
"""No result is longer; clients cut at 10,000 to 12,000, in the middle and silently."""

LIST_CHARACTERS = 9_000
SUMMARY_CHARACTERS = 3_000
EVENTS_CHARACTERS = 3_000
EVENT_CHARACTERS = 400
PROMPT_CHARACTERS = 200
MESSAGE_CHARACTERS = 1_500
WAIT_S = 20

_TOKEN = re.compile(r"[A-Za-z0-9@._:/+~-]{1,253}")
_CODE = re.compile(r"[a-z_]{1,40}")


class Fence:
    """Marks remote text in one result; every result has its own nonce."""

    def __init__(self, nonce: str | None = None) -> None:
        self._nonce = nonce or secrets.token_hex(8)

    def text(self, text: str, source: str, limit: int) -> str:
        """Return `text` cut to `limit` characters of JSON, as data; empty stays empty."""
        return self.whole(_cut_json(text, limit), source) if text else ""

    def whole(self, text: str, source: str, *, what: str = "Output of peer") -> str:
        """Return `text` as data, uncut; the caller has limited it."""
        named = source if _TOKEN.fullmatch(source) else "(unnamed)"
        return fence(text, source=named, nonce=self._nonce, what=what)

    def name(self, text: str, source: str) -> str:
        """Return an identifier as it is and anything else, such as free text, as data."""
        return text if _TOKEN.fullmatch(text) else self.text(one_line(text), source, 100)


def result(fields: Mapping[str, object], next_call: str) -> types.CallToolResult:
    """Return a result whose text says the same as its structured content.

    Clients differ in which of the two they show, so `next` stands in both.
    """
    content = {**fields, "next": next_call}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)], structured_content=content
    )


def error_result(error: CmeshError, next_call: str) -> types.CallToolResult:
    """Return an error the model reads: its code first, one line, and the next step.

    Not a JSON-RPC error: clients do not show those to the model.
    """
    text = f"{error.code}: {one_line(error.message, MESSAGE_CHARACTERS)}\nNext: {next_call}"
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)


def call_text(name: str, **arguments: object) -> str:
    """Return a literal call: `get_task(task_id="…", wait_s=20)`."""
    return f"{name}({', '.join(f'{key}={literal(value)}' for key, value in arguments.items())})"


def task_fields(view: TaskView, mark: Fence, *, brief: bool = False) -> dict[str, object]:
    """Return a task; `brief` leaves out what other machines wrote at length."""
    source = view.peer
    remote = view.direction is Direction.IN
    prompt = one_line(view.prompt, PROMPT_CHARACTERS)
    fields: dict[str, object] = {
        "task_id": view.task_id,
        "direction": view.direction,
        "peer": mark.name(view.peer, "unnamed"),
        "state": view.state,
        "runner": mark.name(view.runner, source),
        "profile": view.profile,
        "directory": mark.name(view.directory, source)
        if remote
        else _cut_json(view.directory, 300),
        "created_at": _time(view.created_at),
        "elapsed_s": round(view.elapsed_s, 1),
        "code": view.code if _CODE.fullmatch(view.code) else "",
        "exit_code": view.exit_code,
        "duplicate_of": view.duplicate_of,
    }
    if brief:
        return _filled(fields) | ({} if remote else {"prompt": cut(prompt, 80)})
    events, last = _events(view.events, mark, source)
    fields |= {
        "prompt": mark.text(prompt, source, PROMPT_CHARACTERS) if remote else prompt,
        "witness": mark.name(view.witness, source),
        "known_s": round(view.known_s, 1),
        "link": view.link,
        "rule": mark.name(view.rule or "", source) if remote else one_line(view.rule or ""),
        "reason": mark.text(defang(view.reason), source, 600),
        "summary": mark.text(defang(view.summary), source, SUMMARY_CHARACTERS),
        "cost_usd": view.cost_usd,
        "profile_enforced": mark.name(view.profile_enforced, source),
        "credential": mark.name(view.credential, source),
        "processes_left": view.processes_left,
        "receipt": view.receipt if view.receipt != "none" else "",
        "started_at": _time(view.started_at),
        "ended_at": _time(view.ended_at),
        "events": events,
        "last_event": last or view.last_event,
    }
    if view.cancel_requested and view.state not in TERMINAL:
        fields["cancel_requested"] = True
    return _filled(fields)


def task_next(view: TaskView, last_event: int) -> str:
    """Return the literal next call for a task in its state."""
    if view.state is TaskState.DENIED:
        return call_text("list_peers")
    if view.state is TaskState.EXPIRED:
        return call_text("list_tasks", state="open")
    if view.state in TERMINAL:
        return call_text("get_result", task_id=view.task_id)
    state = str(view.state)
    return call_text(
        "get_task",
        task_id=view.task_id,
        wait_s=WAIT_S,
        after_event=last_event,
        known_state=state,
    )


def plain(text: str) -> str:
    """Return a remote identifier for a `next`, where nothing is fenced; else an ellipsis."""
    return text if _TOKEN.fullmatch(text) else "…"


def peer_fields(view: PeerView, mark: Fence) -> dict[str, object]:
    """Return a peer; what it says about itself is data."""
    source = view.name
    contact = None if view.last_contact_s is None else round(view.last_contact_s)
    return _filled(
        {
            "name": mark.name(view.name, "unnamed"),
            "node_id": view.node_id,
            "user": mark.name(view.user, source) if view.user else "",
            "tags": [mark.name(tag, source) for tag in view.tags[:4]],
            "online": view.online,
            "link": view.link,
            "trust": view.trust,
            "may_ask": [mark.name(profile, source) for profile in view.may_ask[:6]],
            "runners": [mark.name(runner, source) for runner in view.runners[:8]],
            "paths": [mark.name(path, source) for path in view.paths[:8]],
            "version": mark.name(view.version, source) if view.version else "",
            "expired": view.expired or None,
            "shared": view.shared or None,
            "last_contact_s": contact,
        }
    )


def status_fields(view: StatusView) -> dict[str, object]:
    """Return the daemon's state.

    INVARIANT: without the login URL; no link that authorises stands in a tool result.
    """
    fields = view.model_dump(mode="json", exclude_none=True, exclude={"login_url", "problems"})
    fields["problems"] = [problem.model_dump() for problem in view.problems[:10]]
    return _filled(fields)


def sql_fields(view: SqlView, mark: Fence) -> tuple[dict[str, object], bool]:
    """Return the rows as one fenced text, a JSON row a line, and whether any are missing."""
    lines: list[str] = []
    room = LIST_CHARACTERS - 1_000
    for row in view.rows:
        line = cut(json.dumps(row, ensure_ascii=False, default=str), 2_000)
        room -= _json_length(line)
        if room < 0:
            break
        lines.append(line)
    truncated = view.truncated or len(lines) < len(view.rows)
    fields: dict[str, object] = {
        "columns": [one_line(column, 80) for column in view.columns[:50]],
        "types": [one_line(kind, 80) for kind in view.types[:50]],
        "row_count": len(lines),
        "rows": mark.whole("\n".join(lines), "this-node", what="Records of"),
        "elapsed_ms": round(view.elapsed_ms, 1),
        "head_seq": view.head_seq,
    }
    if truncated:
        fields["truncated"] = True
    return fields, truncated


@dataclass(frozen=True, slots=True)
class _Head:
    """The header lines of a result text."""

    view: ResultView
    shown: int

    def text(self) -> str:
        view = self.view
        end = view.offset + self.shown
        following = end if end < view.total else None
        lines = [
            f"task: {view.task_id}",
            f"peer: {one_line(view.peer, 63)}",
            f"state: {view.state}",
            f"part: {view.part}",
            f"characters: {view.offset} to {end} of {view.total}",
            f"next_offset: {'none' if following is None else following}",
        ]
        if view.sha256:
            lines.append(f"sha256: {one_line(view.sha256, 64)}")
        if view.truncated:
            lines.append("truncated: the worker kept only the beginning of the output")
        tier = "none (self-attested by the worker)" if view.self_attested else "enforced"
        lines.append(f"sandbox: {tier}")
        return "\n".join(lines)

    def next_call(self) -> str:
        view = self.view
        end = view.offset + self.shown
        if end < view.total and self.shown:
            return call_text("get_result", task_id=view.task_id, part=view.part, offset=end)
        other = "output" if view.part == "summary" else "summary"
        return call_text("get_result", task_id=view.task_id, part=other)


def result_text(view: ResultView, mark: Fence) -> str:
    """Return a slice of a result as text of at most `RESULT_CHARACTERS`.

    Offsets count characters of the part as the daemon holds it, so a slice
    that does not fit is cut at its end and `next_offset` says where.
    """
    shown = len(view.text)
    while True:
        text = _result_text(view, shown, mark)
        over = len(text) - RESULT_CHARACTERS
        if over <= 0 or shown == 0:
            return text
        shown = max(0, shown - over)


def rows_result(
    key: str,
    rows: Sequence[dict[str, object]],
    *,
    more: bool,
    next_call: Callable[[int], str],
) -> types.CallToolResult:
    """Return as many rows as fit; `next_call` gets how many those are."""
    shown: list[dict[str, object]] = []
    room = LIST_CHARACTERS
    for row in rows:
        room -= len(json.dumps(row, ensure_ascii=False)) + 1
        if room < 0:
            break
        shown.append(row)
    fields: dict[str, object] = {key: shown, "count": len(shown)}
    if more or len(shown) < len(rows):
        fields["more"] = True
    return result(fields, next_call(len(shown)))


def _result_text(view: ResultView, shown: int, mark: Fence) -> str:
    # Only a summary is prose that a client might render; anything else stays exact.
    body = view.text[:shown]
    body = defang(scrub(body)) if view.part == "summary" else body
    head = _Head(view, shown)
    fenced = mark.whole(body or "(empty)", view.peer)
    return f"{head.text()}\n\n{fenced}\n\nNext: {head.next_call()}"


def _events(views: Iterable[EventView], mark: Fence, source: str) -> tuple[str, int]:
    """Return events as one fenced text and the number of the last one shown."""
    lines: list[str] = []
    room, last = EVENTS_CHARACTERS, 0
    for view in views:
        text = one_line(defang(view.text), EVENT_CHARACTERS)
        line = f"{view.seq} {one_line(view.kind, 40)} {text}".rstrip()
        room -= _json_length(line)
        if room < 0:
            break
        lines.append(line)
        last = view.seq
    return (mark.whole("\n".join(lines), source) if lines else ""), last


def _cut_json(text: str, limit: int) -> str:
    room = limit
    shown = cut(text, room)
    while (length := _json_length(shown)) > limit + 2:
        room = room * limit // length
        shown = cut(text, room)
    return shown


def _json_length(line: str) -> int:
    return len(json.dumps(line, ensure_ascii=False))


def _time(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else ""


def _filled(fields: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in fields.items() if value not in (None, "", [], {})}
