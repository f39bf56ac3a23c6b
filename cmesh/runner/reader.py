"""A runner's output as events and an outcome. Pure: bytes in, values out.

INVARIANT: the events follow from the bytes alone, not from how they were cut into calls of
`feed`. After a restart a new reader is fed from offset 0, and events whose `end` is not above
the stored one are skipped.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

from typing_extensions import override

from cmesh.model import TaskState, Usage
from cmesh.runner.claims import Claims
from cmesh.runner.evidence import Exit
from cmesh.runner.meter import Meter, Spent, Used
from cmesh.text import cut, scrub

__all__ = [
    "ERROR_CHARS",
    "EVENT_LIMIT",
    "Outcome",
    "OutputReader",
    "Reader",
    "RunnerEvent",
    "ended",
    "joined",
    "plain",
]

EVENT_LIMIT = 2000
EVENT_CHARS = 8000
FINAL_CHARS = 4000
ERROR_CHARS = 1000
LINE_LIMIT_BYTES = 32 * 1024

# The first lines come one by one, so that a person sees progress; later ones in blocks.
SINGLE_LINES = 200
BLOCK_BYTES = 4000

LATE_LIMIT = 2000
# Told beyond the limit as well, up to one of their own: somebody counts by them.
_COUNTED = {"cost", "file_change", "retry", "rate_limit"}

_FULL = "further output is kept but not shown as events"
_STATES = {
    "cancelled": TaskState.CANCELLED,
    "timed_out": TaskState.TIMED_OUT,
    "disk_limit": TaskState.FAILED,
    "idle_limit": TaskState.FAILED,
    "budget_spent": TaskState.FAILED,
    "spawn_failed": TaskState.FAILED,
    "damaged": TaskState.FAILED,
}
_CODES = {
    "spawn_failed": "runner_failed",
    "damaged": "runner_failed",
    "disk_limit": "disk_limit",
    "idle_limit": "idle_limit",
    "budget_spent": "budget_spent",
}


_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerEvent:
    """One step of a run.

    Attributes:
        kind: see `cmesh.model.Event`.
        text: scrubbed, at most 8,000 characters.
        data: small, JSON only.
        end: offset in the output after what this event tells; unique, rising.
    """

    kind: str
    text: str = ""
    data: Mapping[str, object] = field(default_factory=dict[str, object])
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended, as far as its output and its shim tell.

    Attributes:
        events: the last ones, of output without a final line end.
        state: succeeded, failed, cancelled or timed_out.
        text: the runner's final text, scrubbed.
        error: what went wrong, scrubbed; empty on success.
        code: `runner_failed` where cmesh itself explains the failure; `disk_limit`, `budget_spent`
            and `idle_limit` where the task was ended for what it took of the disk, or of a limit,
            or for its silence; else empty.
        session: the runner's own id of the conversation; empty = none.
        denials: tool calls that the runner refused by itself.
        claims: what its events tell of its work; None = it tells none.
        last: the text in which an answer by a schema is looked for, not scrubbed.
        answer: JSON text of the answer that fits the task's schema, once that was checked.
    """

    events: tuple[RunnerEvent, ...] = ()
    state: TaskState
    text: str = ""
    error: str = ""
    code: str = ""
    usage: Usage = field(default_factory=Usage)
    session: str = ""
    denials: tuple[str, ...] = ()
    claims: Claims | None = None
    last: str = ""
    answer: str = ""


class Reader(ABC):
    """Cuts output into lines or blocks and counts events; subclasses give them meaning."""

    line_limit = LINE_LIMIT_BYTES
    tells_calls = False
    """Whether its events tell of tool calls."""

    full_stops = False
    """Once its output is full nothing more of the run can be read, so it is to be stopped."""

    def __init__(self) -> None:
        self.used = Used()
        self.meter: Meter | None = None
        """Set before the first byte, for a run that is held to limits."""
        self._goes_on = False
        self._due: list[Spent] = []
        self._claims = Claims()
        self._rest = b""
        self._offset = 0
        self._events = self._late = 0

    def feed(self, data: bytes) -> list[RunnerEvent]:
        """Take the next bytes of standard output and return the events they complete."""
        data = self._rest + data
        start = 0
        events: list[RunnerEvent] = []
        while size := self._piece(data, start):
            events += self._take(data[start : start + size])
            start += size
        self._rest = data[start:]
        return events

    def finish(self, exit_: Exit, stderr: bytes = b"") -> Outcome:
        """Return the outcome, with the events of an unfinished last line.

        `stderr` is the tail of standard error; it explains a failure that nothing else does.
        """
        events = tuple(self._take(self._rest)) if self._rest else ()
        self._rest = b""
        error = plain(stderr)[-ERROR_CHARS:].strip()
        claims = self._claims if self.tells_calls else None
        return replace(self._outcome(exit_, events, error), claims=claims)

    def next_turn(self, *, adds_up_cost: bool, adds_up_tokens: bool) -> Self:
        """Return a reader of the turn that goes on where this one was finished.

        What adds up is, as the runner says it, of the whole conversation.
        """
        reader = type(self)()
        reader.begin_at(self._offset, self._claims, (self._events, self._late))
        if self.meter is not None:
            reader.meter = self.meter
            self.meter.go_on(self.used, adds_up_cost=adds_up_cost, adds_up_tokens=adds_up_tokens)
        return reader

    def begin_at(self, offset: int, claims: Claims, told: tuple[int, int]) -> None:
        """Count on from an earlier turn's end: bytes, claims, and events told and beyond the limit."""
        self._offset, self._claims = offset, claims
        self._events, self._late = told

    @abstractmethod
    def _piece(self, data: bytes, start: int) -> int:
        """Return the size of the first complete piece from `start`; 0 = there is none yet."""

    @abstractmethod
    def _events_of(self, piece: bytes, end: int) -> list[RunnerEvent]:
        """Return the events of one piece that ends at offset `end`."""

    @abstractmethod
    def _outcome(self, exit_: Exit, events: tuple[RunnerEvent, ...], error: str) -> Outcome:
        """Return the outcome; `error` is the tail of standard error."""

    def _take(self, piece: bytes) -> list[RunnerEvent]:
        self._offset += len(piece)
        events: list[RunnerEvent] = []
        for event in self._events_of(piece, self._offset):
            self._claims.add(event.kind, event.data)
            self._events += 1
            if self._events < EVENT_LIMIT:
                events.append(event)
            elif self._events == EVENT_LIMIT:
                events.append(RunnerEvent(kind="warning", text=_FULL, end=event.end))
            elif event.kind in _COUNTED and self._late < LATE_LIMIT:
                self._late += 1
                events.append(event)
        return self._metered(events, len(piece))

    def _metered(self, events: list[RunnerEvent], size: int) -> list[RunnerEvent]:
        """Return a piece's events and what its limits say, each with an offset inside it."""
        if self.meter is None:
            return events
        goes_on, self._goes_on = self._goes_on, False
        kept = self._offset
        self._due += self.meter.look(self.used, kept, goes_on=goes_on, full=self.full_stops)
        if not self._due or len(events) + len(self._due) > size:
            return events
        added = [RunnerEvent(kind="warning", text=w.words, data=w.data(), end=0) for w in self._due]
        self._due = []
        first = self._offset - len(events) - len(added) + 1
        return [replace(event, end=first + index) for index, event in enumerate((*events, *added))]


class OutputReader(Reader):
    """Plain output of a command: events `output`, the final text is the tail."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces = 0
        self._tail = b""

    @override
    def _piece(self, data: bytes, start: int) -> int:
        least = 0 if self._pieces < SINGLE_LINES else BLOCK_BYTES - 1
        found = data.find(b"\n", start + least, start + self.line_limit)
        if found >= 0:
            return found + 1 - start
        # One byte more than the limit must be there, or the cut would depend on the feeding.
        long = len(data) - start > self.line_limit
        return _whole_characters(data, start, self.line_limit) if long else 0

    @override
    def _events_of(self, piece: bytes, end: int) -> list[RunnerEvent]:
        self._pieces += 1
        # Four bytes a character at most, and room for what the scrubbing takes out.
        self._tail = (self._tail + piece)[-8 * FINAL_CHARS :]
        # Beyond the limit nobody sees the text, and scrubbing it costs time.
        text = plain(piece).removesuffix("\n") if self._events < EVENT_LIMIT else ""
        return [RunnerEvent(kind="output", text=cut(text, EVENT_CHARS), end=end)]

    @override
    def _outcome(self, exit_: Exit, events: tuple[RunnerEvent, ...], error: str) -> Outcome:
        state, reason, code = ended(exit_)
        if state is TaskState.FAILED and error and exit_.verdict == "exited":
            reason = f"{reason}: {error}"
        last = plain(self._tail)
        text = last[-FINAL_CHARS:].strip()
        return Outcome(events=events, state=state, text=text, error=reason, code=code, last=last)


def joined(first: Outcome, second: Outcome, *, cost: bool, tokens: bool) -> Outcome:
    """Return the outcome of two turns of one run; `first` ended well.

    `cost` and `tokens`: what the runner says of them is of the whole conversation.
    """
    before, after = first.usage, second.usage
    usage = Usage(
        cost_usd=_sum(before.cost_usd, after.cost_usd, adds_up=cost),
        tokens_in=_sum(before.tokens_in, after.tokens_in, adds_up=tokens),
        tokens_out=_sum(before.tokens_out, after.tokens_out, adds_up=tokens),
        turns=_sum(before.turns, after.turns, adds_up=False),
    )
    return replace(
        second,
        usage=usage,
        text=second.text or first.text,
        session=second.session or first.session,
        denials=(*first.denials, *second.denials),
    )


def _sum(before: _Number | None, after: _Number | None, *, adds_up: bool) -> _Number | None:
    if before is None or after is None:
        return before if after is None else after
    return max(before, after) if adds_up else before + after


def ended(exit_: Exit) -> tuple[TaskState, str, str]:
    """Return state, error and code of an end, going by the shim's word alone."""
    if exit_.verdict == "exited":
        if exit_.exit_code == 0:
            return TaskState.SUCCEEDED, "", ""
        return TaskState.FAILED, exit_.witness.removeprefix("shim recorded "), ""
    return _STATES[exit_.verdict], exit_.witness, _CODES.get(exit_.verdict, "")


def plain(data: bytes) -> str:
    """Return bytes as harmless text; what is not UTF-8 becomes a replacement character."""
    return scrub(data.decode("utf-8", "replace"))


def _whole_characters(data: bytes, start: int, limit: int) -> int:
    """Return how many of the next `limit` bytes end on a whole UTF-8 character (RFC 3629)."""
    size = limit
    while size > limit - 4 and data[start + size] & 0xC0 == 0x80:
        size -= 1
    return size
