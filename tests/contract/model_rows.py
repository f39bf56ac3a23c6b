"""What the checked model did (`models/rows.txt`), as facts, events and effects of the code's tables.

A line is one row that some run of the model passed, or a situation that it met.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from cmesh.protocol import facts as f
from cmesh.protocol import happenings as h
from cmesh.protocol.facts import CallerFacts, WorkerFacts
from cmesh.protocol.guards import CALLER_GUARDS, WORKER_GUARDS
from cmesh.protocol.row import REPORTED, SAME, Act, Row, Send, Write

MODELS = Path(__file__).parents[2] / "models"

_LINE = re.compile(
    r"(?P<id>\w+) (?P<event>\w+)(?:\((?P<args>[^)]*)\))?(?P<before>[^>]*?)(?: -> (?P<after>.*))?$"
)
_ACTS = {"follow", "wanted", "spawn", "burn", "end", "discard"}


@dataclass(frozen=True)
class Effects:
    next: str
    writes: frozenset[Write]
    sends: frozenset[Send]
    acts: frozenset[Act]

    def none(self, state: str | None) -> bool:
        return self.next == (state or "none") and not (self.writes or self.sends or self.acts)


@dataclass(frozen=True)
class Line:
    """One line; `after` is empty for a situation that was only met."""

    text: str
    id: str
    event_name: str
    args: tuple[str, ...]
    before: Mapping[str, str]
    after: tuple[str, ...]

    @property
    def situation(self) -> str:
        return self.text.partition(" -> ")[0].partition(" ")[2]

    @property
    def state(self) -> str | None:
        return None if self.before["state"] == "none" else self.before["state"]

    @property
    def caller(self) -> bool:
        return self.id.startswith("C")

    @cached_property
    def facts(self) -> CallerFacts | WorkerFacts:
        number = {name: int(self.before.get(name, 0)) for name in ("last", "kept", "ack", "told")}
        if self.caller:
            wish = self.before["wish"]
            return CallerFacts(
                state=self.state,
                wish=cast("Literal['', 'user', 'expired']", "" if wish == "none" else wish),
                last_seq=number["last"],
                evidence=self.before.get("evidence") == "1",
                connected=self.before.get("link", "1") == "1",
            )
        return WorkerFacts(
            state=self.state,
            cancel_wish=self.before.get("wish") == "1",
            late=self.before.get("late") == "1",
            acknowledged=bool(number["ack"]),
            last_seq=number["last"],
            pruned_through=number["kept"],
            wanted=self.before.get("yes") == "1",
            ending=self.event_name == "look" and bool(number["told"]),
            asked=self.before.get("asked") == "1",
            cursor=int(self.before["cursor"]) if "cursor" in self.before else None,
            told=self.event_name == "flow" and bool(number["told"]),
        )

    @cached_property
    def event(self) -> object:
        return (_CALLER_EVENTS if self.caller else _WORKER_EVENTS)[self.event_name](self)

    def effects(self) -> Effects:
        """Return what the model did, in the words of the code's table."""
        marks = {re.sub(r"\(.*", "", mark) for mark in self.after[1:]}
        return Effects(
            next=self.after[0],
            writes=frozenset(self._writes(marks)),
            sends=frozenset(send for mark in marks if mark[0] == "!" for send in self._sends(mark)),
            acts=frozenset(
                {Act(mark[1:]) for mark in marks if mark[0] == "*" and mark[1:] in _ACTS}
                | ({Act.ASKED} if "!still_wanted" in marks else set())
            ),
        )

    def _writes(self, marks: set[str]) -> list[Write]:
        changed = self.after[0] != self.before["state"]
        ended = changed and self.after[0] in f.TERMINALS
        writes = [Write("state", self.after[0])] if changed else []
        writes += [Write("task")] if self.state is None and changed else []
        writes += [Write("result")] if (ended and not self.caller) or "+evidence" in marks else []
        if "+last" in marks:
            writes.append(Write("fact", "gap") if self.event_name == "gap" else Write("event"))
        if "+wish" in marks:
            expired = self.event_name == "expired"
            writes.append(Write("fact", "expiry_wish" if expired else "cancel_wish"))
        writes += [Write("fact", "late")] if "+late" in marks else []
        if "+ack" in marks:
            writes += [Write("fact", "acknowledged"), Write("receipt")]
        return writes

    def _sends(self, mark: str) -> tuple[Send, ...]:
        match mark[1:]:
            case "cancel":
                by_user = "user" in (self.before["wish"], self.event_name.partition("_")[0])
                return (Send.CANCEL_USER if by_user else Send.CANCEL_EXPIRED,)
            case "welcome":
                return (Send.UNACKNOWLEDGED,)
            case "result":
                return (Send.END, Send.RESULT)
            case name:
                return (Send(name),)


def read_lines(text: str) -> list[Line]:
    lines: list[Line] = []
    for one in text.splitlines():
        if one.startswith("#"):
            continue
        found = _LINE.match(one)
        assert found is not None, one
        lines.append(
            Line(
                text=one,
                id=found["id"],
                event_name=found["event"],
                args=tuple((found["args"] or "").split(",")),
                before=dict(pair.split("=") for pair in found["before"].split()),
                after=tuple((found["after"] or "").split()),
            )
        )
    return lines


def fits(row: Row, line: Line) -> bool:
    """Say whether the row's guards hold in the line's situation."""
    known, event = line.facts, line.event
    if known.state not in row.states or row.event is not type(event):
        return False
    if isinstance(known, CallerFacts):
        return all(CALLER_GUARDS[name](event, known) for name in row.guard)
    return all(WORKER_GUARDS[name](event, known) for name in row.guard)


def effects_of(row: Row, line: Line) -> Effects:
    """Return what the code's row does in the line's situation."""
    following = line.state or "none" if row.next == SAME else row.next
    if row.next == REPORTED:
        following = line.args[0] if line.caller else line.before["result"]
    return Effects(
        next=following,
        writes=frozenset(Write("state", following) if w.kind == "state" else w for w in row.write),
        sends=frozenset(row.out),
        acts=frozenset(row.act),
    )


def _submit(line: Line) -> h.GotSubmit:
    answers = {"waiting": "ask", "denied": "deny"} if line.state is None else {}
    answer = answers.get(line.after[0], "allow")
    return h.GotSubmit(
        cast("Literal['allow', 'ask', 'deny']", answer),
        waited="+late" in line.after,
        # The model's caller follows a turn only once it has ended so.
        before="ready" if line.before.get("follows") in {"succeeded", "failed"} else "none",
    )


def _look(line: Line) -> h.Looked:
    seen = line.before
    result = None if seen.get("result", "none") == "none" else seen["result"]
    return h.Looked(
        claim=cast("Literal['none', 'shim', 'burnt']", seen.get("claim", "none")),
        agent=seen.get("record") == "1",
        owner_alive=seen.get("owner") == "1",
        child=seen.get("child") == "1",
        result=cast("Literal['succeeded', 'failed', 'cancelled'] | None", result),
        stored=seen.get("stored", "1") == "1",
        processes=int(seen.get("processes", 0)),
        directory=seen["directory"] == "1",
    )


_CALLER_EVENTS: Mapping[str, Callable[[Line], object]] = {
    "delegate": lambda _: h.Delegated(),
    "link_up": lambda _: h.LinkUp(),
    "user_cancels": lambda _: h.UserCancels(),
    "expired": lambda _: h.Expired(),
    "connected": lambda _: h.Connected(),
    "accepted": lambda _: h.GotAccepted(),
    "denied": lambda _: h.GotDenied(),
    "event": lambda line: h.GotEvent(int(line.args[0])),
    "gap": lambda line: h.GotGap(int(line.args[0])),
    "still_wanted": lambda _: h.GotStillWanted(),
    "result": lambda line: h.GotResult(line.args[0], int(line.args[1])),
    "welcome": lambda _: h.GotWelcome(),
}

_WORKER_EVENTS: Mapping[str, Callable[[Line], object]] = {
    "submit": _submit,
    "cancel": lambda line: h.GotCancel("user" if line.args[0] == "user" else "expired"),
    "approved": lambda _: h.Approved(),
    "refused": lambda _: h.Refused(),
    "expired": lambda _: h.Expired(),
    "connected": lambda _: h.Connected(),
    "restarted": lambda _: h.Restarted(),
    "yes": lambda _: h.GotWanted(),
    "slot": lambda _: h.Slot(),
    "look": _look,
    "subscribe": lambda line: h.GotSubscribe(int(line.args[0])),
    "flow": lambda _: h.Flow(),
    "result_ack": lambda _: h.GotResultAck(),
}
