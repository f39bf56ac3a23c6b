"""The steps of a run in one form, whichever agent tells them. Pure.

`docs/agents.md` lists the kinds and the keys of their data; the readers make them here alone, so
that who counts commands, files or tokens need not know which agent it was.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from cmesh.model import Usage
from cmesh.text import cut, one_line, scrub

__all__ = [
    "ARGUMENTS_CHARS",
    "ID_CHARS",
    "PATH_CHARS",
    "Call",
    "Calls",
    "Change",
    "Json",
    "Step",
    "cost_step",
    "file_change",
    "shown",
    "tool_result",
]

TEXT_CHARS = 8000
ARGUMENTS_CHARS = 2000
PATH_CHARS = 1000
ID_CHARS = 80

OPEN_CALLS_MOST = 1000
"""Calls whose result is awaited; beyond it the oldest is forgotten, and its result names no tool."""

Json = Mapping[str, object]
Step = tuple[str, str, Json]
"""Kind, text and data of an event to be."""

Change = Literal["add", "update", "delete", "write"]
"""What happened to a file; `write` where the agent does not say whether it was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call, to tie its result to.

    Attributes:
        id: the agent's own, in one line.
        tool: its name; empty = nobody knows the call.
        command: what a shell was to run; empty = it is no such tool.
        path: the one file that it names.
        change: what a call that goes well does to that file; None = nothing is known.
    """

    id: str
    tool: str = ""
    command: str = ""
    path: str = ""
    change: Change | None = None

    def step(self, arguments: object) -> Step:
        """Return the step that tells of the call."""
        text = arguments if isinstance(arguments, str) else dump(arguments)
        data: dict[str, object] = {"id": self.id, "tool": self.tool}
        data["arguments"] = harmless(text, ARGUMENTS_CHARS)
        if self.command:
            data["command"] = self.command
        if self.path:
            data["path"] = self.path
        return "tool_call", self.tool, data


class Calls:
    """The calls whose result is awaited."""

    def __init__(self) -> None:
        self._open: dict[str, Call] = {}

    def begin(
        self,
        identifier: str,
        tool: str,
        *,
        command: str = "",
        path: str = "",
        change: Change | None = None,
    ) -> Call:
        """Return a call that began, made harmless; `end` gives it back once."""
        call = Call(
            id=one_line(identifier, ID_CHARS),
            tool=one_line(tool),
            command=harmless(command, ARGUMENTS_CHARS),
            path=one_line(path, PATH_CHARS),
            change=change,
        )
        if len(self._open) >= OPEN_CALLS_MOST:
            del self._open[next(iter(self._open))]
        self._open[call.id] = call
        return call

    def is_open(self, identifier: str) -> bool:
        """Say whether a call's result is awaited."""
        return one_line(identifier, ID_CHARS) in self._open

    def end(self, identifier: str) -> Call:
        """Return the call that has a result; one without a tool when nobody knows it."""
        key = one_line(identifier, ID_CHARS)
        return self._open.pop(key, Call(id=key))


def tool_result(call: Call, text: str, *, is_error: bool, exit_code: int | None = None) -> Step:
    """Return what came of a call; of a command also its exit code, None = the agent says none."""
    data: dict[str, object] = {"id": call.id, "tool": call.tool, "is_error": is_error}
    if call.command:
        data |= {"command": call.command, "exit_code": exit_code}
    return "tool_result", shown(text), data


def file_change(call: Call, path: str = "", change: Change | None = None) -> Iterator[Step]:
    """Yield what a call that went well did to a file; nothing when it names none."""
    where, what = one_line(path, PATH_CHARS) or call.path, change or call.change
    if where and what is not None:
        data: Json = {"id": call.id, "tool": call.tool, "path": where, "change": what}
        yield "file_change", f"{what} {where}", data


def cost_step(usage: Usage, turns: int | None = None) -> Step:
    """Return the step that tells what a run has used so far; it takes the place of earlier ones."""
    data: Json = {
        "cost_usd": usage.cost_usd,
        "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out,
        "turns": turns,
    }
    parts = [
        "" if usage.cost_usd is None else f"{usage.cost_usd:.4f} USD",
        "" if usage.tokens_in is None else f"{usage.tokens_in} tokens in",
        "" if usage.tokens_out is None else f"{usage.tokens_out} out",
        "" if turns is None else f"{turns} turn{'' if turns == 1 else 's'}",
    ]
    return "cost", ", ".join(part for part in parts if part), data


def shown(value: str) -> str:
    """Return text as an event shows it: scrubbed and cut."""
    return harmless(value, TEXT_CHARS)


def harmless(text: str, limit: int) -> str:
    """Return text scrubbed and cut; long text is cut first, since scrubbing takes its time."""
    return cut(scrub(cut(text, 4 * limit)), limit)


def dump(value: object) -> str:
    """Return a value as JSON."""
    return json.dumps(value, ensure_ascii=False)
