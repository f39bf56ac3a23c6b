"""Answers of the daemon as tool results: what a model may read, fenced and capped.

Every string that another machine wrote passes through a `Fence`. Nothing
here calls the daemon.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

import mcp_types as types

from cmesh.daemon.answers import (
    EventView,
    MachineView,
    PeerView,
    SqlView,
    StatusView,
    TaskView,
)
from cmesh.daemon.event_lines import event_line
from cmesh.daemon.evidence_answers import CommandView, EvidenceView
from cmesh.daemon.file_answers import PatchView
from cmesh.daemon.fleet_view import SqlNodeView
from cmesh.errors import AcceptanceFailed, CmeshError, NoPeerMatches, QueryRefused
from cmesh.interfaces.age import heard
from cmesh.interfaces.mcp.fence import Fence, cut_json, json_length, plain
from cmesh.interfaces.mcp.relay_wire import literal
from cmesh.model import ENDED, Direction, TaskState
from cmesh.protocol.where import bytes_text
from cmesh.text import cut, defang, one_line, scrub

__all__ = [
    "NAMES_CHARACTERS",
    "POSSIBLE",
    "call_text",
    "error_result",
    "peer_fields",
    "reply_call",
    "result",
    "rows_result",
    "sql_fields",
    "status_fields",
    "task_fields",
    "task_next",
    "when",
]


LIST_CHARACTERS = 9_000
SUMMARY_CHARACTERS = 3_000
EVENTS_CHARACTERS = 2_700
EVENT_CHARACTERS = 400
PROMPT_CHARACTERS = 200
NAMES_CHARACTERS = 600
TOOLS_SHOWN = 16
QUESTION_CHARACTERS = 600
ANSWER_CHARACTERS = 3_000
ANSWER_INVALID = "answer_invalid"
REPAIR = "Your answer did not fit the JSON Schema. Answer again: one JSON object that fits it."
MESSAGE_CHARACTERS = 1_500
WAIT_S = 20
POSSIBLE = "possible"

_CODE = re.compile(r"[a-z_]{1,40}")


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
    message = one_line(error.message, MESSAGE_CHARACTERS)
    if isinstance(error, QueryRefused):
        # The database quotes values in its errors, and another machine may have written them.
        message = Fence().whole(defang(message), "this-node", what="Error about records of")
    elif isinstance(error, NoPeerMatches):
        # It says what speaks against each peer, in that peer's own words.
        message = Fence().whole(defang(message), "this-node", what="Error about peers of")
    after = "" if error.retry_after_s is None else f" (in {error.retry_after_s} s)"
    text = f"{error.code}: {message}\nNext: {scrub(next_call)}{after}"
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)


def call_text(tool: str, /, **arguments: object) -> str:
    """Return a literal call: `get_task(task_id="…", wait_s=20)`."""
    return f"{tool}({', '.join(f'{key}={literal(value)}' for key, value in arguments.items())})"


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
        "directory": mark.name(view.directory, source) if remote else cut_json(view.directory, 300),
        "created_at": when(view.created_at),
        "expires_at": when(view.expires_at),
        "elapsed_s": round(view.elapsed_s, 1),
        "code": view.code if _CODE.fullmatch(view.code) else "",
        "exit_code": view.exit_code,
        "duplicate_of": view.duplicate_of,
        "follows": view.follows,
        "turn": view.turn if view.turn > 1 else None,
        "followed_by": view.followed_by,
        "retry_after_s": view.retry_after_s,
    }
    if brief:
        return _filled(fields) | ({} if remote else {"prompt": cut(prompt, 80)})
    events, last = _events(view.events, mark, source)
    fields |= {
        "prompt": mark.text(prompt, source, PROMPT_CHARACTERS) if remote else prompt,
        "witness": mark.name(view.witness, source),
        "chosen": mark.text(defang(view.chosen), "this-node", 900),
        "known_s": round(view.known_s, 1),
        "known_at": when(view.known_at),
        "heard": heard(view.model_copy(update={"peer": plain(view.peer)})),
        "link": view.link,
        "rule": mark.name(view.rule or "", source) if remote else one_line(view.rule or ""),
        "reason": mark.text(defang(view.reason), source, 600),
        "advice": mark.text(defang(view.advice), source, 600),
        "verdict": view.verdict,
        "evidence": _evidence(view.evidence, mark, source),
        "accept": view.accept if not remote else None,
        "summary": mark.text(defang(view.summary), source, SUMMARY_CHARACTERS),
        "cost_usd": view.cost_usd,
        "tokens": view.tokens,
        "model_turns": view.model_turns,
        "profile_enforced": mark.name(view.profile_enforced, source),
        "credential": mark.name(view.credential, source),
        "containment": view.containment,
        "processes_left": view.processes_left,
        "patch": _patch(view.patch, mark, source),
        "redacted": view.redacted or None,
        "prompt_redacted": view.prompt_redacted or None,
        "receipt": view.receipt if view.receipt != "none" else "",
        "follow_up": view.follow_up,
        "follow_up_until": when(view.follow_up_until),
        "reply": reply_call(view.task_id) if view.follow_up == POSSIBLE else "",
        "answer": _answer(view, mark),
        "question": mark.text(defang(view.question), source, QUESTION_CHARACTERS),
        "started_at": when(view.started_at),
        "ended_at": when(view.ended_at),
        "events": events,
        "last_event": last or view.last_event,
    }
    if view.events_cut:
        fields["events_cut"] = True
    if view.cancel_requested and view.state not in ENDED:
        fields["cancel_requested"] = True
    return _filled(fields)


def _answer(view: TaskView, mark: Fence) -> str:
    """Return the answer as JSON between marks; empty = none, or it is read in pieces."""
    if view.answer is None:
        return ""
    text = json.dumps(view.answer, ensure_ascii=False)
    return mark.whole(text, view.peer) if json_length(text) <= ANSWER_CHARACTERS else ""


def _patch(patch: PatchView | None, mark: Fence, source: str) -> dict[str, object] | None:
    """Return what is known of a patch: facts, and names between marks."""
    if patch is None:
        return None
    facts: dict[str, object] = {
        "files": patch.files,
        "bytes": patch.bytes,
        "sha256": patch.sha256,
        "base_commit": patch.base_commit,
        "base": patch.base,
        "dirty": patch.dirty,
        "withheld": patch.withheld,
        "released_at": when(patch.released_at) if patch.released_at else None,
        "changed": mark.text("\n".join(patch.changed), source, NAMES_CHARACTERS),
        "flagged": mark.text("\n".join(patch.flagged), source, NAMES_CHARACTERS),
        "left_out": patch.left_out_count or None,
    }
    return _filled(facts)


def _evidence(evidence: EvidenceView | None, mark: Fence, source: str) -> dict[str, object] | None:
    """Return what was found out about a run: facts, and what others wrote between marks."""
    if evidence is None:
        return None
    facts: dict[str, object] = {
        "tool_calls": evidence.tool_calls,
        "commands": mark.text(
            "\n".join(_ran(ran) for ran in evidence.commands), source, NAMES_CHARACTERS
        ),
        "commands_count": evidence.commands_count or None,
        "denials": mark.text("\n".join(evidence.denials), source, NAMES_CHARACTERS),
        "model": mark.name(evidence.model, source) if evidence.model else "",
    }
    if (before := evidence.before) is not None:
        facts["before"] = _filled(
            {
                "commit": before.commit,
                "branch": mark.name(before.branch, source) if before.branch else "",
                "dirty": before.dirty,
                "reason": mark.text(before.reason, source, 300),
            }
        )
    if (changed := evidence.changed) is not None:
        facts["changed"] = {
            "files": changed.files,
            "names": mark.text("\n".join(changed.names), source, NAMES_CHARACTERS),
            "complete": changed.complete,
        } | ({} if changed.complete else {"reason": mark.text(changed.reason, source, 300)})
    if (told := evidence.acceptance) is not None:
        facts["acceptance"] = _filled(
            {
                "passed": told.passed,
                "end": told.end,
                "exit_code": told.exit_code,
                "runtime_s": round(told.runtime_s, 1),
                "reason": mark.text(told.reason, source, 300),
                "output": mark.text(defang(told.output), source, NAMES_CHARACTERS),
                "output_bytes": told.output_bytes,
            }
        )
    return _filled(facts)


def _ran(ran: CommandView) -> str:
    how = "failed" if ran.failed else "ok" if ran.failed is False else "no end told"
    how = how if ran.exit_code is None else f"exit {ran.exit_code}"
    return f"{one_line(defang(ran.command), 200)} ({how})"


def task_next(view: TaskView, last_event: int) -> str:
    """Return the literal next call for a task in its state."""
    if view.state is TaskState.DENIED and view.retry_after_s is not None:
        return f"delegate again with the same arguments in {view.retry_after_s} s"
    if view.state is TaskState.DENIED:
        return call_text("list_peers")
    if view.state is TaskState.EXPIRED:
        return call_text("list_tasks", state="open")
    if view.state in ENDED:
        return _ended_next(view)
    if view.state is TaskState.UNKNOWN:
        # Waiting is not promised to end, and without `new` this very task would be the answer.
        return "tell the user `reason`; to have it done all the same, delegate again with new=true"
    state = str(view.state)
    return call_text(
        "get_task",
        task_id=view.task_id,
        wait_s=WAIT_S,
        after_event=last_event,
        known_state=state,
    )


def _ended_next(view: TaskView) -> str:
    if view.question and view.direction is Direction.OUT:
        return reply_call(view.task_id)
    if view.code == ANSWER_INVALID and view.follow_up == POSSIBLE:
        # Without the reason: names in it may be the other machine's.
        return call_text("reply_task", task_id=view.task_id, prompt=REPAIR, same_schema=True)
    if view.code == AcceptanceFailed.code:
        return call_text("get_result", task_id=view.task_id, part="acceptance")
    if view.answer is not None:
        return call_text("get_result", task_id=view.task_id, part="answer")
    return call_text("get_result", task_id=view.task_id)


def reply_call(task_id: str) -> str:
    """Return the literal call that goes on with a task's conversation."""
    return call_text("reply_task", task_id=task_id, prompt="…")


def peer_fields(view: PeerView, mark: Fence, *, brief: bool = False) -> dict[str, object]:
    """Return a peer; what it says about itself is data. `brief`: its tools without versions."""
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
            "operations": [mark.name(one, source) for one in view.operations[:8]],
            "version": mark.name(view.version, source) if view.version else "",
            "expired": view.expired or None,
            "shared": view.shared or None,
            "last_contact_s": contact,
            "machine": _machine(view.machine, mark, source, brief=brief),
        }
    )


def _machine(
    machine: MachineView | None, mark: Fence, source: str, *, brief: bool
) -> dict[str, object] | None:
    """Return what a peer has told of its machine; words as they are, all else as data."""
    if machine is None:
        return None
    tools = dict(list((machine.tools or {}).items())[:TOOLS_SHOWN])
    named = {mark.name(tool, source): mark.name(v, source) for tool, v in tools.items()}
    ready = [runner.name for runner in machine.runners or () if runner.ready]
    facts: dict[str, object] = {
        "os": mark.name(machine.os, source) if machine.os else "",
        "distribution": mark.name(machine.distribution, source) if machine.distribution else "",
        "os_version": mark.name(machine.os_version, source) if machine.os_version else "",
        "arch": mark.name(machine.arch, source) if machine.arch else "",
        "cpus": machine.cpus,
        "memory": None if machine.memory is None else bytes_text(machine.memory),
        "tools": list(named) if brief else named,
        "gpu": mark.text(defang(", ".join(machine.gpus or ())), source, 200),
        "runners_ready": [mark.name(runner, source) for runner in ready[:8]],
        "labels": [mark.name(label, source) for label in (machine.labels or ())[:16]],
        "told_s": round(machine.known_s),
        "stale": machine.stale or None,
    }
    return _filled(facts)


def status_fields(view: StatusView) -> dict[str, object]:
    """Return the daemon's state.

    INVARIANT: without the login URL; no link that authorises stands in a tool result.
    """
    fields = view.model_dump(mode="json", exclude_none=True, exclude={"login_url", "problems"})
    fields["outbox"] = [
        box.model_dump(mode="json") | {"peer": plain(box.peer)} for box in view.outbox[:10]
    ]
    fields["problems"] = [problem.model_dump() for problem in view.problems[:10]]
    return _filled(fields)


def sql_fields(view: SqlView, mark: Fence) -> tuple[dict[str, object], bool]:
    """Return the rows as one fenced text, a JSON row a line, and whether any are missing."""
    lines: list[str] = []
    room = LIST_CHARACTERS - 1_000
    for row in view.rows:
        line = cut(json.dumps(row, ensure_ascii=False, default=str), 2_000)
        room -= json_length(line)
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
    if view.nodes:
        # Names of columns are a peer's own choice, as its words are.
        fields["columns"] = [mark.name(column, "peers") for column in view.columns[:50]]
        fields["types"] = [mark.name(kind, "peers") for kind in view.types[:50]]
        fields["nodes"] = [_node_fields(node, mark) for node in view.nodes]
    return fields, truncated


def _node_fields(node: SqlNodeView, mark: Fence) -> dict[str, object]:
    """Return how one node of a fleet query answered."""
    said = node.model_dump(
        mode="json", exclude={"reason", "hint", "node", "head_hash", "node_id", "code"}
    )
    return _filled(
        {
            "node": mark.name(node.node, "peers"),
            **said,
            "code": mark.name(node.code, "peers") if node.code else "",
            "reason": mark.text(defang(node.reason), "peers", 300),
        }
    )


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


def _events(views: Iterable[EventView], mark: Fence, source: str) -> tuple[str, int]:
    """Return events as one fenced text and the number of the last one shown."""
    lines: list[str] = []
    room, last = EVENTS_CHARACTERS, 0
    for view in views:
        text = defang(event_line(view, EVENT_CHARACTERS))
        line = f"{view.seq} {one_line(view.kind, 40)} {text}".rstrip()
        room -= json_length(line)
        if room < 0:
            break
        lines.append(line)
        last = view.seq
    return (mark.whole("\n".join(lines), source) if lines else ""), last


def when(moment: datetime | None) -> str:
    """Return a moment as text; empty for none."""
    return moment.isoformat(timespec="seconds") if moment else ""


def _filled(fields: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in fields.items() if value not in (None, "", [], {})}
