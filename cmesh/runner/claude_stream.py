"""Claude Code's `--output-format stream-json` as events and an outcome. Pure.

Measured with 2.1.330 (print mode, `--verbose`). A line of an unknown type becomes a `raw`
event; nothing in the stream can break a run.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import NoReturn, cast

from typing_extensions import override

from cmesh.model import TaskState, Usage
from cmesh.runner.evidence import Exit
from cmesh.runner.reader import Outcome, Reader, RunnerEvent, ended, plain
from cmesh.text import cut, one_line, scrub

__all__ = ["ClaudeReader"]

STREAM_LINE_LIMIT_BYTES = 4 * 1024 * 1024
TEXT_CHARS = 8000
ARGUMENTS_CHARS = 2000
RAW_CHARS = 1000
FINAL_CHARS = 64 * 1024
DENIALS_LIMIT = 20

Json = Mapping[str, object]
Step = tuple[str, str, Json]

# Heartbeats and echoes that say nothing a person needs.
_SILENT = {"tool_progress", "stream_event", "keep_alive"}
_RETRY_KEYS = ("attempt", "max_retries", "retry_delay_ms", "error_status")
_INIT_KEYS = ("session_id", "model", "permissionMode", "claude_code_version")


class ClaudeReader(Reader):
    """Reads one run of `claude -p`; the last `result` line wins."""

    line_limit = STREAM_LINE_LIMIT_BYTES

    def __init__(self) -> None:
        super().__init__()
        self._session = ""
        self._result: Json | None = None

    @override
    def _piece(self, data: bytes, start: int) -> int:
        found = data.find(b"\n", start, start + self.line_limit)
        if found >= 0:
            return found + 1 - start
        return self.line_limit if len(data) - start >= self.line_limit else 0

    @override
    def _events_of(self, piece: bytes, end: int) -> list[RunnerEvent]:
        steps = list(self._steps(piece))
        # Each gets an offset of its own inside the line, so that a reader that stored only the
        # first ones tells the others again.
        return [
            RunnerEvent(kind=kind, text=text, data=data, end=end - len(steps) + 1 + index)
            for index, (kind, text, data) in enumerate(steps)
        ]

    def _steps(self, piece: bytes) -> Iterator[Step]:
        line = _parsed(piece)
        if line is None:
            if piece.strip():
                yield "raw", cut(plain(piece).strip(), RAW_CHARS), {}
            return
        self._session = _str(line, "session_id") or self._session
        match _str(line, "type"):
            case "assistant" | "user":
                yield from _message(line)
            case "system":
                yield from _system(line)
            case "rate_limit_event":
                info = _map(line, "rate_limit_info")
                yield "rate_limit", one_line(_str(info, "status")), _capped(info)
            case "result":
                self._result = line
                yield from _result(line)
            case kind if kind in _SILENT:
                return
            case _:
                yield "raw", cut(plain(piece).strip(), RAW_CHARS), {}

    @override
    def _outcome(self, exit_: Exit, events: tuple[RunnerEvent, ...], error: str) -> Outcome:
        state, reason, code = ended(exit_)
        result = self._result
        if exit_.verdict == "exited":
            state, reason = self._judge(state, reason, error)
        return Outcome(
            events=events,
            state=state,
            text=cut(scrub(_str(result or {}, "result")), FINAL_CHARS),
            error=reason,
            code=code,
            usage=_usage(result or {}),
            session=one_line(self._session, 80),
            denials=tuple(_denials(result or {})),
        )

    def _judge(self, state: TaskState, reason: str, error: str) -> tuple[TaskState, str]:
        """Success needs both: exit 0 and a result line that is no error.

        `subtype` is `success` even when the API failed, and a signal can end in exit 0.
        """
        if self._result is None:
            return TaskState.FAILED, ": ".join(p for p in (reason, error) if p) or "no result line"
        if self._result.get("is_error") is not False:
            return TaskState.FAILED, _failure(self._result)
        return state, reason


def _message(line: Json) -> Iterator[Step]:
    content = _map(line, "message").get("content")
    if isinstance(content, str) and line["type"] == "assistant":
        yield "text", _text(content), {}
    for block in _maps(content):
        match _str(block, "type"):
            case "text" if line["type"] == "assistant":
                yield "text", _text(_str(block, "text")), {}
            case "tool_use":
                arguments = cut(scrub(_dump(block.get("input"))), ARGUMENTS_CHARS)
                data: Json = {"id": one_line(_str(block, "id"), 80), "arguments": arguments}
                yield "tool_call", one_line(_str(block, "name")), data
            case "tool_result":
                data = {
                    "id": one_line(_str(block, "tool_use_id"), 80),
                    "is_error": block.get("is_error") is True,
                }
                yield "tool_result", _text(_block_text(block.get("content"))), data
            case _:
                continue  # thinking, images: nothing to show


def _system(line: Json) -> Iterator[Step]:
    match _str(line, "subtype"):
        case "init":
            yield "raw", "session started", _only(line, _INIT_KEYS)
        case "api_retry":
            yield "retry", one_line(_dump(line.get("error"))), _only(line, _RETRY_KEYS)
        case "permission_denied":
            yield "warning", f"tool denied: {one_line(_str(line, 'tool_name'))}", {}
        case subtype:
            yield "raw", f"system {one_line(subtype, 60)}", {}


def _result(line: Json) -> Iterator[Step]:
    denied = list(_denials(line))
    if denied:
        text = f"the agent was refused {len(denied)} tool calls: {', '.join(denied)}"
        yield "warning", text, {"permission_denials": denied}
    usage = _usage(line)
    data = {
        "cost_usd": usage.cost_usd,
        "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out,
        "turns": _int(line, "num_turns"),
    }
    yield "cost", "", data


def _failure(result: Json) -> str:
    errors = "; ".join(_dump(error) for error in _list(result.get("errors")))
    said = errors or _str(result, "result")
    why = _str(result, "terminal_reason") or _str(result, "subtype")
    return one_line(": ".join(part for part in (why, said) if part), 1000) or "the agent failed"


def _usage(result: Json) -> Usage:
    usage = _map(result, "usage")
    cost = result.get("total_cost_usd")
    read = [_int(usage, f"{kind}input_tokens") for kind in ("", "cache_creation_", "cache_read_")]
    known = [tokens for tokens in read if tokens is not None]
    return Usage(
        cost_usd=float(cost) if isinstance(cost, int | float) else None,
        tokens_in=sum(known) if known else None,
        tokens_out=_int(usage, "output_tokens"),
    )


def _denials(result: Json) -> Iterator[str]:
    for denial in _maps(result.get("permission_denials"))[:DENIALS_LIMIT]:
        arguments = cut(_dump(denial.get("tool_input")), 200)
        yield one_line(f"{_str(denial, 'tool_name')} {arguments}", 300)


def _block_text(content: object) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_str(block, "text") or f"[{_str(block, 'type')}]" for block in _maps(content))


def _parsed(piece: bytes) -> Json | None:
    try:
        value: object = json.loads(piece, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return _as_map(value)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"`{text}` is no JSON number")


def _as_map(value: object) -> Json | None:
    if not isinstance(value, dict):
        return None
    return {str(key): item for key, item in cast("dict[object, object]", value).items()}


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _map(of: Json, key: str) -> Json:
    return _as_map(of.get(key)) or {}


def _maps(value: object) -> list[Json]:
    return [item for item in map(_as_map, _list(value)) if item is not None]


def _str(of: Json, key: str) -> str:
    value = of.get(key)
    return value if isinstance(value, str) else ""


def _int(of: Json, key: str) -> int | None:
    value = of.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: str) -> str:
    return cut(scrub(value), TEXT_CHARS)


def _dump(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _only(of: Json, keys: tuple[str, ...]) -> Json:
    return _capped({key: of[key] for key in keys if key in of})


def _capped(of: Json) -> Json:
    """Return flat, small and harmless data: scalars stay, all else becomes short text."""
    return {
        one_line(key, 60): value
        if isinstance(value, int | float | None)
        else one_line(_dump(value), 300)
        for key, value in list(of.items())[:20]
    }
