"""Codex's `exec --json` as events and an outcome. Pure.

Measured with 0.169.0. It names no cost, and its tokens are those of the whole conversation.
"""

from collections.abc import Iterator

from typing_extensions import override

from cmesh.model import Usage
from cmesh.runner.evidence import Exit
from cmesh.runner.json_lines import (
    FINAL_CHARS,
    ID_CHARS,
    Json,
    JsonLineReader,
    Step,
    arguments_of,
    as_map,
    cost_step,
    count_of,
    dump,
    id_of,
    map_of,
    maps_of,
    only,
    shown,
    text_of,
    usage_of,
)
from cmesh.runner.reader import ERROR_CHARS, Outcome, RunnerEvent
from cmesh.text import cut, one_line, scrub

__all__ = ["CodexReader"]

# So a line begins that tells of one more try; every other `error` line is a failure.
_RETRY = "Reconnecting..."
_SILENT = {"turn.started", "item.updated"}
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

    @override
    def _steps(self, line: Json, raw: Step) -> Iterator[Step]:
        match text_of(line, "type"):
            case "thread.started":
                self._session = text_of(line, "thread_id")
                yield "raw", "session started", only(line, ("thread_id",))
            case "item.started":
                yield from _started(map_of(line, "item"))
            case "item.completed":
                yield from self._completed(map_of(line, "item"), raw)
            case "turn.completed":
                self._usage = usage_of(map_of(line, "usage"))
                # A success that carries an error is none, and neither takes an earlier one back.
                self._said = _error(line) or self._said or ""
                yield cost_step(self._usage)
            case "turn.failed":
                self._said = _error(line) or "the turn failed"
            case "error":
                message = one_line(text_of(line, "message"), ERROR_CHARS)
                if message.startswith(_RETRY):
                    yield "retry", message, {}
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
                data = id_of(item, "id") | {"is_error": text_of(item, "status") != "completed"}
                exit_code = count_of(item, "exit_code")
                data["exit_code"] = exit_code
                yield "tool_result", shown(text_of(item, "aggregated_output")), data
            case "mcp_tool_call":
                is_error = text_of(item, "status") != "completed"
                yield (
                    "tool_result",
                    shown(_answer(item)),
                    id_of(item, "id") | {"is_error": is_error},
                )
            case "file_change" | "web_search" as kind:
                about = item.get("changes", item.get("query", ""))
                yield "tool_call", kind, id_of(item, "id") | {"arguments": arguments_of(about)}
            case "error":
                # A warning about the set-up; the turn goes on.
                yield "warning", one_line(text_of(item, "message"), ERROR_CHARS), {}
            case kind if kind in _SILENT_ITEMS:
                return
            case _:
                yield raw

    @override
    def _outcome(self, exit_: Exit, events: tuple[RunnerEvent, ...], error: str) -> Outcome:
        state, reason, code = self._end(exit_, error)
        return Outcome(
            events=events,
            state=state,
            text=cut(scrub(self._text), FINAL_CHARS),
            error=reason,
            code=code,
            usage=self._usage,
            session=one_line(self._session, ID_CHARS),
        )

    @override
    def _verdict(self) -> str | None:
        return self._said


def _started(item: Json) -> Iterator[Step]:
    match text_of(item, "type"):
        case "command_execution":
            arguments = arguments_of({"command": text_of(item, "command")})
            yield "tool_call", "command", id_of(item, "id") | {"arguments": arguments}
        case "mcp_tool_call":
            name = f"mcp__{text_of(item, 'server')}__{text_of(item, 'tool')}"
            arguments = arguments_of(item.get("arguments"))
            yield "tool_call", one_line(name), id_of(item, "id") | {"arguments": arguments}
        case _:
            return  # told when it is complete


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
    return one_line(message, ERROR_CHARS) or "the turn failed"
