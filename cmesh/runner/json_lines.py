"""Agents that tell their run as one JSON object a line: what their readers share. Pure.

A line of a form that nobody expected becomes a `raw` event; nothing in a stream can break a run.
"""

import json
import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import NoReturn, cast

from typing_extensions import override

from cmesh.model import TaskState, Usage
from cmesh.runner.evidence import Exit
from cmesh.runner.reader import Reader, RunnerEvent, ended, plain
from cmesh.runner.steps import Json, Step
from cmesh.text import cut, one_line

__all__ = [
    "COUNT_MOST",
    "DENIALS_LIMIT",
    "FINAL_CHARS",
    "JsonLineReader",
    "as_map",
    "capped",
    "count_of",
    "dump",
    "list_of",
    "map_of",
    "maps_of",
    "money_of",
    "only",
    "reason_of",
    "sum_of",
    "text_of",
    "usage_of",
]

STREAM_LINE_LIMIT_BYTES = 4 * 1024 * 1024
RAW_CHARS = 1000
FINAL_CHARS = 64 * 1024
DENIALS_LIMIT = 20
COUNT_MOST = 2**53
"""The largest number that a message of the link may hold."""


class JsonLineReader(Reader):
    """Cuts output into lines and reads each; subclasses say what a line means."""

    line_limit = STREAM_LINE_LIMIT_BYTES
    tells_calls = True

    full_stops = True

    counts_turns = False
    """It names the model's answers; otherwise one begins with what comes after a tool's result."""

    last_line = "result"
    """What the line is called in which the agent says how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self._open: set[object] = set()
        self._heard = True

    @abstractmethod
    def _steps(self, line: Json, raw: Step) -> Iterator[Step]:
        """Yield what a line tells; `raw` is the step of one of an unknown type."""

    @abstractmethod
    def _verdict(self) -> str | None:
        """Say why the run failed by the agent's own word; empty = it went well, None = no word."""

    @override
    def _piece(self, data: bytes, start: int) -> int:
        found = data.find(b"\n", start, start + self.line_limit)
        if found >= 0:
            return found + 1 - start
        return self.line_limit if len(data) - start >= self.line_limit else 0

    @override
    def _events_of(self, piece: bytes, end: int) -> list[RunnerEvent]:
        line = parsed(piece)
        raw: Step = ("raw", cut(plain(piece).strip(), RAW_CHARS), {})
        steps: list[Step] = []
        for step in ([raw] if piece.strip() else []) if line is None else self._steps(line, raw):
            self._count(step)  # at once: what the line tells next may name the count
            steps.append(step)
        # Each gets an offset of its own inside the line, so that a reader that stored only the
        # first ones tells the others again.
        return [
            RunnerEvent(kind=kind, text=text, data=data, end=end - len(steps) + 1 + index)
            for index, (kind, text, data) in enumerate(steps)
        ]

    def _count(self, step: Step) -> None:
        """See where an answer of the model has begun; calls side by side are of one."""
        kind, _text, data = step
        if kind in {"text", "tool_call"} and self._heard:
            self._heard = False
            if not self.counts_turns:
                self._begin_turn()
        if kind == "tool_call":
            self._open.add(data.get("id"))
        elif kind == "tool_result":
            self._open.discard(data.get("id"))
            if not self._open:
                self._heard = self._goes_on = True

    def _begin_turn(self) -> None:
        self._goes_on = self._goes_on or self.used.turns > 0
        self.used.turns += 1

    def _end(self, exit_: Exit, error: str) -> tuple[TaskState, str, str]:
        """Return state, error and code; success needs both: exit 0 and the agent's own word.

        `error` is the tail of standard error. What the agent says never makes it `cancelled`.
        """
        state, reason, code = ended(exit_)
        if exit_.verdict != "exited":
            return state, reason, code
        said = self._verdict()
        if said is None:
            why = ": ".join(part for part in (reason, error) if part)
            return TaskState.FAILED, why or f"no {self.last_line} line", code
        return (TaskState.FAILED, said, code) if said else (state, reason, code)


def parsed(piece: bytes) -> Json | None:
    """Return a line as an object; None = it is none, or holds what is no JSON (RFC 8259)."""
    # Given bytes, the parser would guess an encoding, and refuse a line for one bad byte in it.
    text = piece.decode("utf-8", "replace")
    try:
        value: object = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return as_map(value)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"`{text}` is no JSON number")


def as_map(value: object) -> Json | None:
    """Return an object with its keys as text; None = it is none."""
    if not isinstance(value, dict):
        return None
    return {str(key): item for key, item in cast("dict[object, object]", value).items()}


def list_of(value: object) -> list[object]:
    """Return a list as it is; all else is an empty one."""
    return cast("list[object]", value) if isinstance(value, list) else []


def map_of(of: Json, key: str) -> Json:
    """Return the object at a key; empty when there is none."""
    return as_map(of.get(key)) or {}


def maps_of(value: object) -> list[Json]:
    """Return the objects of a list."""
    return [item for item in map(as_map, list_of(value)) if item is not None]


def text_of(of: Json, key: str) -> str:
    """Return the text at a key, not scrubbed; empty when there is none."""
    value = of.get(key)
    return value if isinstance(value, str) else ""


def count_of(of: Json, key: str) -> int | None:
    """Return the whole number at a key; None when there is none, or none that can be stored."""
    value = of.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= COUNT_MOST else None


def sum_of(*counts: int | None) -> int | None:
    """Return the sum of the counts that are known, as far as it can be stored; None = none is."""
    known = [count for count in counts if count is not None]
    return min(sum(known), COUNT_MOST) if known else None


def money_of(of: Json, key: str) -> float | None:
    """Return an amount that is 0 or more; None when there is none."""
    value = of.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= COUNT_MOST else None


def reason_of(text: str) -> str:
    """Return an agent's word for a failure, with the message alone of a model's JSON in it."""
    start = text.find("{")
    try:
        value, end = json.JSONDecoder().raw_decode(text, start) if start >= 0 else (None, 0)
    except (ValueError, RecursionError):
        return text
    found = as_map(value) or {}
    message = text_of(map_of(found, "error"), "message") or text_of(found, "message")
    return f"{text[:start]}{message}{text[end:]}" if message else text


def usage_of(of: Json) -> Usage:
    """Return the tokens of an object that counts them as the models' APIs do; no cost."""
    return Usage(tokens_in=count_of(of, "input_tokens"), tokens_out=count_of(of, "output_tokens"))


def dump(value: object) -> str:
    """Return text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def only(of: Json, keys: tuple[str, ...]) -> Json:
    """Return some keys as `capped` does."""
    return capped({key: of[key] for key in keys if key in of})


def capped(of: Json) -> Json:
    """Return flat, small and harmless data: scalars stay, all else becomes short text."""
    return {
        one_line(key, 60): value if _is_small(value) else one_line(dump(value), 300)
        for key, value in list(of.items())[:20]
    }


def _is_small(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and abs(value) <= COUNT_MOST)
