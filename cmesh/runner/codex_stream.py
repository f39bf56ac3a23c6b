"""Codex's `exec --json` as events and an outcome. Pure.

Measured with 0.169.0. It names no cost, and its tokens are those of the whole conversation.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from typing_extensions import override

from cmesh.model import Usage
from cmesh.runner.evidence import Exit
from cmesh.runner.json_lines import (
    FINAL_CHARS,
    JsonLineReader,
    as_map,
    count_of,
    dump,
    map_of,
    maps_of,
    only,
    reason_of,
    text_of,
    usage_of,
)
from cmesh.runner.reader import ERROR_CHARS, Outcome, RunnerEvent
from cmesh.runner.steps import (
    ID_CHARS,
    Call,
    Calls,
    Change,
    Json,
    Step,
    cost_step,
    file_change,
    shown,
    tool_result,
)
from cmesh.text import cut, one_line, scrub

__all__ = ["CodexReader"]

# So a line begins that tells of one more try; every other `error` line is a failure.
_RETRY = "Reconnecting..."
_ATTEMPT = re.compile(r"Reconnecting\.\.\. (\d{1,4})/(\d{1,4})")
_CHANGES = frozenset({"add", "update", "delete"})
_SHELL_ARGUMENTS = {"-c", "-lc"}
_SILENT = {"turn.started", "item.updated"}
CHANGES_MOST = 200
SHELL_CHARS = 20_000
_SILENT_ITEMS = {"reasoning", "todo_list"}


class CodexReader(JsonLineReader):
    """Reads one run of `codex exec`; the last line that ends a turn wins."""

    last_line = "turn.completed"

    def __init__(self) -> None:
        super().__init__()
        self._session = ""
        self._text = ""
        self._usage = Usage()
        self._said: str | None = None
        self._calls = Calls()

    @override
    def _steps(self, line: Json, raw: Step) -> Iterator[Step]:
        match text_of(line, "type"):
            case "thread.started":
                self._session = text_of(line, "thread_id")
                yield "raw", "session started", only(line, ("thread_id",))
            case "item.started":
                yield from self._started(map_of(line, "item"))
            case "item.completed":
                yield from self._completed(map_of(line, "item"), raw)
            case "turn.completed":
                self._usage = usage_of(map_of(line, "usage"))
                self.used.tell_tokens(self._usage)
                # A success that carries an error is none, and neither takes an earlier one back.
                self._said = _error(line) or self._said or ""
                yield cost_step(self._usage, self.used.turns)
            case "turn.failed":
                self._said = _error(line) or "the turn failed"
            case "error":
                message = one_line(reason_of(text_of(line, "message")), ERROR_CHARS)
                if message.startswith(_RETRY):
                    yield "retry", message, _attempt(message)
                else:
                    self._said = message or "the agent failed"
                    yield "warning", message, {}
            case kind if kind in _SILENT:
                return
            case _:
                yield raw

    def _completed(self, item: Json, raw: Step) -> Iterator[Step]:
        match text_of(item, "type"):
            case "agent_message":
                self._text = text_of(item, "text")
                yield "text", shown(self._text), {}
            case "command_execution":
                yield self._ran(item)
            case "mcp_tool_call":
                failed = text_of(item, "status") != "completed"
                yield tool_result(self._ended(item), _answer(item), is_error=failed)
            case "file_change":
                yield from self._changed(item)
            case "web_search":
                about = text_of(item, "query")
                yield self._calls.begin(text_of(item, "id"), "web_search").step(about)
            case "error":
                # A warning about the set-up; the turn goes on.
                yield "warning", one_line(text_of(item, "message"), ERROR_CHARS), {}
            case kind if kind in _SILENT_ITEMS:
                return
            case _:
                yield raw

    def _started(self, item: Json) -> Iterator[Step]:
        identifier = text_of(item, "id")
        match text_of(item, "type"):
            case "command_execution":
                said = text_of(item, "command")
                call = self._calls.begin(identifier, "command", command=_inner(said))
                yield call.step({"command": said})
            case "mcp_tool_call":
                name = f"mcp__{text_of(item, 'server')}__{text_of(item, 'tool')}"
                yield self._calls.begin(identifier, name).step(item.get("arguments"))
            case "file_change":
                yield self._calls.begin(identifier, "file_change").step(item.get("changes"))
            case _:
                return  # told when it is complete

    def _ran(self, item: Json) -> Step:
        code = count_of(item, "exit_code")
        failed = text_of(item, "status") != "completed"
        return tool_result(
            self._ended(item), text_of(item, "aggregated_output"), is_error=failed, exit_code=code
        )

    def _changed(self, item: Json) -> Iterator[Step]:
        """Yield one step for each file of a patch, and the call where none told of it."""
        if not self._calls.is_open(text_of(item, "id")):
            yield from self._started(item)
        call, failed = self._ended(item), text_of(item, "status") == "failed"
        changes = maps_of(item.get("changes"))
        text = f"{len(changes)} file{'' if len(changes) == 1 else 's'}"
        yield tool_result(call, text, is_error=failed)
        for change in changes[:CHANGES_MOST] if not failed else ():
            kind = text_of(change, "kind")
            what = cast("Change", kind) if kind in _CHANGES else "write"
            yield from file_change(call, text_of(change, "path"), what)

    def _ended(self, item: Json) -> Call:
        return self._calls.end(text_of(item, "id"))

    @override
    def _outcome(self, exit_: Exit, events: tuple[RunnerEvent, ...], error: str) -> Outcome:
        state, reason, code = self._end(exit_, error)
        return Outcome(
            events=events,
            state=state,
            text=cut(scrub(self._text), FINAL_CHARS),
            last=self._text[-FINAL_CHARS:],
            error=reason,
            code=code,
            usage=replace(self._usage, turns=self.used.turns or None),
            session=one_line(self._session, ID_CHARS),
        )

    @override
    def _verdict(self) -> str | None:
        return self._said


def _attempt(message: str) -> Json:
    found = _ATTEMPT.match(message)
    return {"attempt": int(found[1]), "max_retries": int(found[2])} if found else {}


def _inner(command: str) -> str:
    """Return what was given to the shell that codex starts for each command."""
    if len(command) > SHELL_CHARS:  # taking it apart would take too long
        return command
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    return words[2] if len(words) == 3 and words[1] in _SHELL_ARGUMENTS else command


def _answer(item: Json) -> str:
    """Return what an MCP server answered, or the error that took its place."""
    failed = as_map(item.get("error"))
    if failed is not None:
        return text_of(failed, "message")
    blocks = maps_of(map_of(item, "result").get("content"))
    return "\n".join(text_of(block, "text") or f"[{text_of(block, 'type')}]" for block in blocks)


def _error(line: Json) -> str:
    """Return the error of a line that ends a turn; empty = it has none."""
    error = line.get("error")
    if error is None:
        return ""
    message = text_of(as_map(error) or {}, "message") or dump(error)
    return one_line(reason_of(message), ERROR_CHARS) or "the turn failed"
