"""Claude Code's `--output-format stream-json` as events and an outcome. Pure.

Measured with 2.1.330 (print mode, `--verbose`).
"""

import re
from collections.abc import Iterator
from dataclasses import replace

from typing_extensions import override

from cmesh.model import TaskState, Usage
from cmesh.runner.evidence import Exit
from cmesh.runner.json_lines import (
    DENIALS_LIMIT,
    FINAL_CHARS,
    JsonLineReader,
    as_map,
    capped,
    count_of,
    dump,
    list_of,
    map_of,
    maps_of,
    money_of,
    only,
    sum_of,
    text_of,
)
from cmesh.runner.reader import ERROR_CHARS, Outcome, RunnerEvent
from cmesh.runner.steps import (
    ID_CHARS,
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

__all__ = ["ClaudeReader"]

# Heartbeats and echoes that say nothing a person needs.
_SILENT = {"tool_progress", "keep_alive"}

_OWN_STOPS = {"max_turns", "budget_exhausted"}
"""Why it says that it stopped when it kept to a limit by itself."""
_RETRY_KEYS = ("attempt", "max_retries", "retry_delay_ms", "error_status")
_INIT_KEYS = ("session_id", "model", "permissionMode", "claude_code_version")

_CHANGES: dict[str, Change] = {"Write": "write", "Edit": "update", "NotebookEdit": "update"}
# What the result of a `Write` says.
_WROTE: dict[str, Change] = {"create": "add", "update": "update"}
_PATHS = ("file_path", "notebook_path")
# What a command that failed begins its result with; one that went well says no number.
_EXIT = re.compile(r"Exit code (\d{1,3})(?:\n|$)")
# What the result of a command holds whose end was not exit 0, or is not there yet.
_NO_EXIT = ("backgroundTaskId", "returnCodeInterpretation")


class ClaudeReader(JsonLineReader):
    """Reads one run of `claude -p`; the last `result` line wins."""

    counts_turns = True

    def __init__(self) -> None:
        super().__init__()
        self._session = ""
        self._result: Json | None = None
        self._calls = Calls()
        self._message = ""
        self._answers: dict[str, tuple[int, int]] = {}
        self._exact = False

    @override
    def _steps(self, line: Json, raw: Step) -> Iterator[Step]:
        self._session = text_of(line, "session_id") or self._session
        match text_of(line, "type"):
            case "assistant":
                yield from self._said(map_of(line, "message"))
            case "user":
                yield from self._answered(line)
            case "stream_event":
                self._stream_event(line)
            case "system":
                yield from _system(line)
            case "rate_limit_event":
                info = map_of(line, "rate_limit_info")
                yield "rate_limit", one_line(text_of(info, "status")), capped(info)
            case "result":
                self._result = line
                self._total(_usage(line))
                yield from _result(line)
            case kind if kind in _SILENT:
                return
            case _:
                yield raw

    def _said(self, message: Json) -> Iterator[Step]:
        content = message.get("content")
        if isinstance(content, str):
            yield "text", shown(content), {}
        for block in maps_of(content):
            match text_of(block, "type"):
                case "text":
                    yield "text", shown(text_of(block, "text")), {}
                case "tool_use":
                    yield self._called(block)
                case _:
                    continue  # thinking, images: nothing to show
        yield from self._spent(message)

    def _called(self, block: Json) -> Step:
        given, name = map_of(block, "input"), text_of(block, "name")
        call = self._calls.begin(
            text_of(block, "id"),
            name,
            command=text_of(given, "command") if name == "Bash" else "",
            path=next((text_of(given, key) for key in _PATHS if text_of(given, key)), ""),
            change=_CHANGES.get(name),
        )
        return call.step(block.get("input"))

    def _spent(self, message: Json) -> Iterator[Step]:
        """Tell what was read so far: one message has a line for each of its blocks.

        What was written stands in none of them, only in the result.
        """
        name, usage = text_of(message, "id"), map_of(message, "usage")
        self._answer(name, usage)
        if not _tokens_in(usage) or name == self._message:
            return
        self._message = name
        yield cost_step(Usage(tokens_in=self.used.tokens_in), self.used.turns)

    def _answered(self, line: Json) -> Iterator[Step]:
        blocks = maps_of(map_of(line, "message").get("content"))
        results = [block for block in blocks if text_of(block, "type") == "tool_result"]
        # It describes the one result of its line.
        more = as_map(line.get("tool_use_result")) if len(results) == 1 else None
        for block in results:
            call = self._calls.end(text_of(block, "tool_use_id"))
            is_error = block.get("is_error") is True
            text = _block_text(block.get("content"))
            exit_code = _exit_code(text, more, is_error=is_error)
            yield tool_result(call, text, is_error=is_error, exit_code=exit_code)
            if not is_error:
                yield from file_change(call, change=_WROTE.get(text_of(more or {}, "type")))

    @override
    def _outcome(self, exit_: Exit, events: tuple[RunnerEvent, ...], error: str) -> Outcome:
        state, reason, code = self._end(exit_, error)
        result = self._result
        return Outcome(
            events=events,
            state=state,
            text=cut(scrub(text_of(result or {}, "result")), FINAL_CHARS),
            error=reason,
            code=code or self._spent_by_itself(state),
            usage=self._in_all(),
            session=one_line(self._session, ID_CHARS),
            denials=tuple(_denials(result or {})),
            last=_last(result or {}),
        )

    def _answer(self, name: str, usage: Json) -> None:
        """Take what is told of one answer; its numbers only grow."""
        if not name:
            return
        if name not in self._answers:
            self._begin_turn()
        told = _tokens(usage)
        before = self._answers.get(name, (0, 0))
        now = (max(before[0], told.tokens_in or 0), max(before[1], told.tokens_out or 0))
        self._answers[name] = now
        self.used.tokens_in += now[0] - before[0]
        self.used.tokens_out += now[1] - before[1]
        self.used.told_tokens = True

    def _stream_event(self, line: Json) -> None:
        event = map_of(line, "event")
        match text_of(event, "type"):
            case "message_start":
                message = map_of(event, "message")
                self._answer(text_of(message, "id"), map_of(message, "usage"))
            case "message_delta":
                self._exact = True
                self._answer(text_of(line, "api_message_id"), map_of(event, "usage"))
            case _:
                return

    def _total(self, told: Usage) -> None:
        """Take the sum of a `result` line."""
        self.used.tokens_in = max(self.used.tokens_in, told.tokens_in or 0)
        self.used.tokens_out = max(self.used.tokens_out, told.tokens_out or 0)
        self.used.cost_usd = told.cost_usd

    def _in_all(self) -> Usage:
        """Return the bill: as the last line says, or as far as was told until then."""
        used = self.used.usage()
        if self._result is not None:
            return replace(_usage(self._result), turns=used.turns)
        return used if self._exact else replace(used, tokens_out=None)

    def _spent_by_itself(self, state: TaskState) -> str:
        why = text_of(self._result or {}, "terminal_reason")
        return "budget_spent" if state is TaskState.FAILED and why in _OWN_STOPS else ""

    @override
    def _verdict(self) -> str | None:
        """Say what the result line says.

        `subtype` is `success` even when the API failed, and a signal can end in exit 0.
        """
        if self._result is None:
            return None
        return "" if self._result.get("is_error") is False else _failure(self._result)


def _exit_code(text: str, more: Json | None, *, is_error: bool) -> int | None:
    if is_error:
        found = _EXIT.match(text)
        return int(found[1]) if found else None
    if more is None or more.get("interrupted") is not False:
        return None
    return None if any(more.get(key) for key in _NO_EXIT) else 0


def _system(line: Json) -> Iterator[Step]:
    match text_of(line, "subtype"):
        case "init":
            yield "raw", "session started", only(line, _INIT_KEYS)
        case "api_retry":
            yield "retry", one_line(dump(line.get("error"))), only(line, _RETRY_KEYS)
        case "permission_denied":
            yield "warning", f"tool denied: {one_line(text_of(line, 'tool_name'))}", {}
        case subtype:
            yield "raw", f"system {one_line(subtype, 60)}", {}


def _last(result: Json) -> str:
    """Return the answer by a schema that it names, or the text that may hold one."""
    answer = as_map(result.get("structured_output"))
    return text_of(result, "result") if answer is None else dump(answer)


def _result(line: Json) -> Iterator[Step]:
    denied = list(_denials(line))
    if denied:
        text = f"the agent was refused {len(denied)} tool calls: {', '.join(denied)}"
        yield "warning", text, {"permission_denials": denied}
    yield cost_step(_usage(line), count_of(line, "num_turns"))


def _failure(result: Json) -> str:
    errors = "; ".join(dump(error) for error in list_of(result.get("errors")))
    said = errors or text_of(result, "result")
    why = text_of(result, "terminal_reason") or text_of(result, "subtype")
    return (
        one_line(": ".join(part for part in (why, said) if part), ERROR_CHARS) or "the agent failed"
    )


def _usage(result: Json) -> Usage:
    return replace(_tokens(map_of(result, "usage")), cost_usd=money_of(result, "total_cost_usd"))


def _tokens(usage: Json) -> Usage:
    return Usage(tokens_in=_tokens_in(usage), tokens_out=count_of(usage, "output_tokens"))


def _tokens_in(usage: Json) -> int | None:
    kinds = ("", "cache_creation_", "cache_read_")
    return sum_of(*(count_of(usage, f"{kind}input_tokens") for kind in kinds))


def _denials(result: Json) -> Iterator[str]:
    for denial in maps_of(result.get("permission_denials"))[:DENIALS_LIMIT]:
        arguments = cut(dump(denial.get("tool_input")), 200)
        yield one_line(f"{text_of(denial, 'tool_name')} {arguments}", 300)


def _block_text(content: object) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(
        text_of(block, "text") or f"[{text_of(block, 'type')}]" for block in maps_of(content)
    )
