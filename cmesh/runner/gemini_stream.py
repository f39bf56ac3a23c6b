"""Gemini CLI's `--output-format stream-json` as events and an outcome. Pure.

Measured with 0.61.0. It names no cost. What the agent says comes in small pieces, which become
one event when something else follows.
"""

from collections.abc import Iterator

from typing_extensions import override

from cmesh.runner.evidence import Exit
from cmesh.runner.json_lines import (
    DENIALS_LIMIT,
    FINAL_CHARS,
    JsonLineReader,
    map_of,
    only,
    reason_of,
    text_of,
    usage_of,
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

__all__ = ["GeminiReader"]

_INIT_KEYS = ("session_id", "model")
_DENIED = "policy_violation"
# It does not say whether a file was there before.
_CHANGES: dict[str, Change] = {"write_file": "write", "replace": "write"}


class GeminiReader(JsonLineReader):
    """Reads one run of `gemini`; the last `result` line wins."""

    def __init__(self) -> None:
        super().__init__()
        self._session = ""
        self._said = ""
        self._text = ""
        self._error = ""
        self._calls = Calls()
        self._denials: list[str] = []
        self._result: Json | None = None

    @override
    def _steps(self, line: Json, raw: Step) -> Iterator[Step]:
        kind = text_of(line, "type")
        if kind == "message":
            yield from self._message(line)
            return
        yield from self._told()
        match kind:
            case "init":
                self._session = text_of(line, "session_id")
                yield "raw", "session started", only(line, _INIT_KEYS)
            case "tool_use":
                yield self._called(line)
            case "tool_result":
                yield from self._answered(line)
            case "error":
                yield "warning", self._warned(line), {}
            case "result":
                self._result = line
                self.used.tell_tokens(usage_of(map_of(line, "stats")))
                yield cost_step(self.used.usage(), self.used.turns)
            case _:
                yield raw

    def _message(self, line: Json) -> Iterator[Step]:
        if text_of(line, "role") != "assistant":
            return  # the prompt, which the task holds already
        if line.get("delta") is not True:
            yield from self._told()
        # More than this is not shown, and a stream may bring it in a million pieces.
        if len(self._said) < 2 * FINAL_CHARS:
            self._said += text_of(line, "content")

    def _told(self) -> Iterator[Step]:
        """End what the agent was saying."""
        if self._said:
            self._text, self._said = self._said, ""
            yield "text", shown(self._text), {}

    def _called(self, line: Json) -> Step:
        name, given = text_of(line, "tool_name"), map_of(line, "parameters")
        call = self._calls.begin(
            text_of(line, "tool_id"),
            name,
            command=text_of(given, "command") if name == "run_shell_command" else "",
            path=text_of(given, "file_path"),
            change=_CHANGES.get(name),
        )
        return call.step(line.get("parameters"))

    def _answered(self, line: Json) -> Iterator[Step]:
        failed, call = map_of(line, "error"), self._calls.end(text_of(line, "tool_id"))
        if text_of(failed, "type") == _DENIED and len(self._denials) < DENIALS_LIMIT:
            self._denials.append(call.tool)
        is_error = text_of(line, "status") != "success"
        text = text_of(line, "output") or text_of(failed, "message")
        # A command that failed is `success` as well, and its exit code is told to the model alone.
        yield tool_result(call, text, is_error=is_error)
        if not is_error:
            yield from file_change(call)

    def _warned(self, line: Json) -> str:
        message = one_line(text_of(line, "message"), ERROR_CHARS)
        if text_of(line, "severity") != "warning":
            self._error = message or "the agent failed"
        return message

    @override
    def _outcome(self, exit_: Exit, events: tuple[RunnerEvent, ...], error: str) -> Outcome:
        state, reason, code = self._end(exit_, error)
        return Outcome(
            events=events,
            state=state,
            text=cut(scrub(self._said or self._text), FINAL_CHARS),
            last=(self._said or self._text)[-FINAL_CHARS:],
            error=reason,
            code=code,
            usage=self.used.usage(),
            session=one_line(self._session, ID_CHARS),
            denials=tuple(self._denials),
        )

    @override
    def _verdict(self) -> str | None:
        """Say what the result line says; an `error` line before it is a failure too.

        A run that is ended by a signal exits with 0 as well, and without that line.
        """
        if self._result is None:
            return self._error or None
        if text_of(self._result, "status") == "success":
            return self._error
        failed = text_of(map_of(self._result, "error"), "message")
        return one_line(reason_of(failed), ERROR_CHARS) or "the agent failed"
