"""opencode's `run --format json` as events and an outcome. Pure.

Measured with 1.18.33. No line says how the run ended, so the last step does, beside the exit.
"""

from collections.abc import Iterator

from typing_extensions import override

from cmesh.model import Usage
from cmesh.runner.evidence import Exit
from cmesh.runner.json_lines import (
    COUNT_MOST,
    DENIALS_LIMIT,
    FINAL_CHARS,
    JsonLineReader,
    count_of,
    dump,
    map_of,
    maps_of,
    money_of,
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

__all__ = ["OpencodeReader"]

# What a tool's error begins with when the program itself refused the call.
_REFUSED = "The user rejected permission"
_SILENT = {"reasoning", "done"}
_CHANGES: dict[str, Change] = {"write": "write", "edit": "update"}
# The types that a patch gives to its files.
_PATCHED: dict[str, Change] = {"add": "add", "update": "update", "delete": "delete"}
CHANGES_MOST = 200

_CALLS = "tool-calls"
"""Why a step ends after which the model is asked again."""


class OpencodeReader(JsonLineReader):
    """Reads one run of `opencode run`; tokens and cost are the sum of its steps."""

    last_line = "step_finish"

    counts_turns = True

    def __init__(self) -> None:
        super().__init__()
        self._session = ""
        self._texts: list[str] = []
        self._step_began = False
        self._reason: str | None = None
        self._error = ""
        self._tool_error = ""
        self._denials: list[str] = []
        self._in = self._out = 0
        self._cost = 0.0
        self._said_chars = 0
        self._calls = Calls()

    @override
    def _steps(self, line: Json, raw: Step) -> Iterator[Step]:
        if not self._session and text_of(line, "sessionID"):
            self._session = one_line(text_of(line, "sessionID"), ID_CHARS)
            yield "raw", "session started", {"session_id": self._session}
        part = map_of(line, "part")
        match text_of(line, "type"):
            case "step_start":
                self._step_began = True
                self._begin_turn()
            case "text":
                yield self._said(text_of(part, "text"))
            case "tool_use":
                yield from self._used(part)
            case "step_finish":
                yield self._finished(part)
            case "error":
                self._error = _message(line) or "the agent failed"
                yield "warning", self._error, {}
            case kind if kind in _SILENT:
                return
            case _:
                yield raw

    def _said(self, text: str) -> Step:
        # The texts of one step are one message; those of the newest step with any are the result.
        if self._step_began:
            self._texts.clear()
            self._said_chars = 0
        self._step_began = False
        # More than this is not shown, and a stream may bring a million of them.
        if self._said_chars < 2 * FINAL_CHARS:
            self._texts.append(text)
            self._said_chars += len(text) + 1
        return "text", shown(text), {}

    def _used(self, part: Json) -> Iterator[Step]:
        """Yield a call and what came of it: there is one line for both, at the call's end."""
        state, name = map_of(part, "state"), text_of(part, "tool")
        given, more = map_of(state, "input"), map_of(state, "metadata")
        call = self._calls.begin(
            text_of(part, "callID"),
            name,
            command=text_of(given, "command") if name == "bash" else "",
            path=text_of(given, "filePath"),
            change=_CHANGES.get(name),
        )
        kind, text, data = call.step(state.get("input"))
        yield kind, text, data
        error, exit_code = text_of(state, "error"), count_of(more, "exit")
        if error:
            self._tool_error = one_line(f"{call.tool}: {error}", ERROR_CHARS)
        is_error = text_of(state, "status") != "completed" or exit_code not in (None, 0)
        said = error or text_of(state, "output")
        self._calls.end(text_of(part, "callID"))
        yield tool_result(call, said, is_error=is_error, exit_code=exit_code)
        if not is_error:
            yield from file_change(call, change=_change(more.get("exists")))
            for file in maps_of(more.get("files"))[:CHANGES_MOST]:
                what = _PATCHED.get(text_of(file, "type"), "write")
                yield from file_change(call, text_of(file, "filePath"), what)
        if error.startswith(_REFUSED) and len(self._denials) < DENIALS_LIMIT:
            self._denials.append(one_line(f"{call.tool} {data['arguments']}", 300))
            yield "warning", f"tool denied: {call.tool}", {}

    def _finished(self, part: Json) -> Step:
        self._reason = one_line(text_of(part, "reason"), 80)
        tokens = map_of(part, "tokens")
        cache = map_of(tokens, "cache")
        read = (count_of(tokens, "input"), count_of(cache, "read"), count_of(cache, "write"))
        self._in = sum_of(self._in, *read) or 0
        # It counts what a model thought apart from what it wrote.
        wrote = (count_of(tokens, "output"), count_of(tokens, "reasoning"))
        self._out = sum_of(self._out, *wrote) or 0
        self.used.tell_tokens(Usage(tokens_in=self._in, tokens_out=self._out))
        self._goes_on = self._reason == _CALLS
        self._cost = min(self._cost + (money_of(part, "cost") or 0), COUNT_MOST)
        return cost_step(self._usage(), self.used.turns)

    def _usage(self) -> Usage:
        # 0 stands for a model whose price it does not know.
        return Usage(
            cost_usd=self._cost or None,
            tokens_in=self._in,
            tokens_out=self._out,
            turns=self.used.turns or None,
        )

    @override
    def _count(self, step: Step) -> None:
        """Count nothing by the steps: the lines say where each answer begins and ends."""

    @override
    def _outcome(self, exit_: Exit, events: tuple[RunnerEvent, ...], error: str) -> Outcome:
        state, reason, code = self._end(exit_, error)
        return Outcome(
            events=events,
            state=state,
            text=cut(scrub("\n".join(self._texts)), FINAL_CHARS),
            last="\n".join(self._texts)[-FINAL_CHARS:],
            error=reason,
            code=code,
            usage=self.used.usage() if self._reason is None else self._usage(),
            session=self._session,
            denials=tuple(self._denials),
        )

    @override
    def _verdict(self) -> str | None:
        """Say what the last step says, unless there was an error.

        A refused call ends the run after a step for its sake, with exit 0.
        """
        if self._error or self._reason is None:
            return self._error or None
        if self._reason == "stop":
            return ""
        why = f"the last step ended with `{self._reason}`"
        return f"{why}: {self._tool_error}" if self._tool_error else why


def _change(existed: object) -> Change | None:
    if not isinstance(existed, bool):
        return None
    return "update" if existed else "add"


def _message(line: Json) -> str:
    error = map_of(line, "error")
    message = text_of(map_of(error, "data"), "message") or text_of(error, "name")
    return one_line(message or dump(line.get("error", "")), ERROR_CHARS)
