"""Claude Code's `--output-format stream-json` as events and an outcome. Pure.

Measured with 2.1.330 (print mode, `--verbose`).
"""

from collections.abc import Iterator

from typing_extensions import override

from cmesh.model import Usage
from cmesh.runner.evidence import Exit
from cmesh.runner.json_lines import (
    DENIALS_LIMIT,
    FINAL_CHARS,
    ID_CHARS,
    Json,
    JsonLineReader,
    Step,
    arguments_of,
    capped,
    cost_step,
    count_of,
    dump,
    id_of,
    list_of,
    map_of,
    maps_of,
    only,
    shown,
    text_of,
)
from cmesh.runner.reader import ERROR_CHARS, Outcome, RunnerEvent
from cmesh.text import cut, one_line, scrub

__all__ = ["ClaudeReader"]

# Heartbeats and echoes that say nothing a person needs.
_SILENT = {"tool_progress", "stream_event", "keep_alive"}
_RETRY_KEYS = ("attempt", "max_retries", "retry_delay_ms", "error_status")
_INIT_KEYS = ("session_id", "model", "permissionMode", "claude_code_version")


class ClaudeReader(JsonLineReader):
    """Reads one run of `claude -p`; the last `result` line wins."""

    def __init__(self) -> None:
        super().__init__()
        self._session = ""
        self._result: Json | None = None

    @override
    def _steps(self, line: Json, raw: Step) -> Iterator[Step]:
        self._session = text_of(line, "session_id") or self._session
        match text_of(line, "type"):
            case "assistant" | "user":
                yield from _message(line)
            case "system":
                yield from _system(line)
            case "rate_limit_event":
                info = map_of(line, "rate_limit_info")
                yield "rate_limit", one_line(text_of(info, "status")), capped(info)
            case "result":
                self._result = line
                yield from _result(line)
            case kind if kind in _SILENT:
                return
            case _:
                yield raw

    @override
    def _outcome(self, exit_: Exit, events: tuple[RunnerEvent, ...], error: str) -> Outcome:
        state, reason, code = self._end(exit_, error)
        result = self._result
        return Outcome(
            events=events,
            state=state,
            text=cut(scrub(text_of(result or {}, "result")), FINAL_CHARS),
            error=reason,
            code=code,
            usage=_usage(result or {}),
            session=one_line(self._session, ID_CHARS),
            denials=tuple(_denials(result or {})),
        )

    @override
    def _verdict(self) -> str | None:
        """Say what the result line says.

        `subtype` is `success` even when the API failed, and a signal can end in exit 0.
        """
        if self._result is None:
            return None
        return "" if self._result.get("is_error") is False else _failure(self._result)


def _message(line: Json) -> Iterator[Step]:
    content = map_of(line, "message").get("content")
    if isinstance(content, str) and line["type"] == "assistant":
        yield "text", shown(content), {}
    for block in maps_of(content):
        match text_of(block, "type"):
            case "text" if line["type"] == "assistant":
                yield "text", shown(text_of(block, "text")), {}
            case "tool_use":
                arguments = arguments_of(block.get("input"))
                data = id_of(block, "id") | {"arguments": arguments}
                yield "tool_call", one_line(text_of(block, "name")), data
            case "tool_result":
                data = id_of(block, "tool_use_id") | {"is_error": block.get("is_error") is True}
                yield "tool_result", shown(_block_text(block.get("content"))), data
            case _:
                continue  # thinking, images: nothing to show


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
    usage = map_of(result, "usage")
    cost = result.get("total_cost_usd")
    read = [
        count_of(usage, f"{kind}input_tokens") for kind in ("", "cache_creation_", "cache_read_")
    ]
    known = [tokens for tokens in read if tokens is not None]
    return Usage(
        cost_usd=float(cost) if isinstance(cost, int | float) else None,
        tokens_in=sum(known) if known else None,
        tokens_out=count_of(usage, "output_tokens"),
    )


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
