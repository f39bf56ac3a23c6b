"""One task between two tables over a lossy link, with shims, kills and restarts.

The world of `delegation.pml` around the real tables: what is durable, volatile and on
disk is kept apart, and the promises are asserted at the instant they could break.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from cmesh.errors import RemoteProtocolError
from cmesh.protocol import facts as f
from cmesh.protocol import happenings as h
from cmesh.protocol.facts import CallerFacts, WorkerFacts
from cmesh.protocol.happenings import Looked
from cmesh.protocol.state import Act, Send, Write, caller, worker

Frame = tuple[str, ...] | tuple[str, int] | tuple[str, str, int]
FRAMES_IN_FLIGHT = 3
SETTLE_ROUNDS = 200


@dataclass(frozen=True)
class Shim:
    phase: Literal["free", "new", "claimed", "started", "runs", "done", "wrote"] = "free"
    agent: bool = False
    verdict: str = ""

    @property
    def owner(self) -> bool:
        return self.phase not in {"free", "new"}


@dataclass
class World:
    # bounds of one run
    kills: int = 3
    losses: int = 2
    events: int = 2
    cancels: int = 1
    expiries: int = 1
    strays: int = 0  # frames that come twice, or late from a connection that is gone
    restores: int = 0
    verdicts: tuple[str, ...] = ("succeeded", "failed", "timed_out")
    # the two stores and what each daemon keeps in memory
    c: CallerFacts = field(default_factory=lambda: CallerFacts(state=None))
    w: WorkerFacts = field(default_factory=lambda: WorkerFacts(state=None))
    stored: int = 0
    child: int = -1
    glance: tuple[str, bool, bool] | None = None  # claim, agent, owner: read before the rest
    # disk and processes
    directory: bool = False
    claim: Literal["none", "shim", "burnt"] = "none"
    record: bool = False
    spool: int = 0
    result: str = ""
    told_to_end: bool = False
    shims: tuple[Shim, ...] = (Shim(), Shim())
    # the link
    up: bool = False
    c2w: tuple[Frame, ...] = ()
    old: tuple[Frame, ...] = ()
    w2c: tuple[Frame, ...] = ()
    # what the promises talk about
    starts: int = 0
    backup: tuple[WorkerFacts, int] | None = None
    restored: bool = False

    def key(self) -> tuple[object, ...]:
        return tuple(getattr(self, item.name) for item in fields(self))

    def copy(self) -> World:
        return copy.copy(self)

    @property
    def processes(self) -> int:
        return sum(shim.agent for shim in self.shims)

    @property
    def owner_alive(self) -> bool:
        return any(shim.owner for shim in self.shims)

    # -- what can happen next --------------------------------------------------------------

    def routine(self, *, calm: bool = False) -> list[str]:
        return [*self._daemon_actions(calm), *self._shim_actions()]

    def apply(self, name: str) -> None:
        action, _, argument = name.partition(":")
        getattr(self, f"do_{action}")(*([argument] if argument else []))

    def settle(self) -> None:
        """Let everything calm down; nothing is lost, killed, cancelled or expired any more."""
        still = 0
        for _ in range(SETTLE_ROUNDS):
            before = replace(self, glance=None).key()
            for name in self.routine(calm=True):
                if name in self.routine(calm=True):
                    self.apply(name)
            still = still + 1 if replace(self, glance=None).key() == before else 0
            if still == 3:  # a look takes two rounds, and one may be half done
                return
        raise AssertionError("the task never comes to rest")

    def check_settled(self) -> None:
        assert self.c.state is None or self.c.state in f.TERMINALS, "C waits for ever"
        assert not self.processes
        assert not any(shim.phase != "free" for shim in self.shims)
        if self.w.state is not None:
            assert self.w.state == self.c.state
            assert self.w.acknowledged, "W waits for a receipt for ever"
            assert not self.directory, "W keeps the directory for ever"

    def _daemon_actions(self, calm: bool) -> list[str]:
        names: list[str] = []
        if self.c.state is None:
            names.append("delegate")
        if not self.up:
            names.append("link_up")
        if self.up and self.c.state == f.QUEUED:
            names.append("first_send")
        if self.w2c:
            names.append("deliver_c")
        if self.c2w:
            new = self.c2w[0] == ("submit",) and self.w.state is None
            decisions = ["allow"] if calm else ["allow", "waited", "ask", "deny", "unfit", "ready"]
            names += [f"deliver_w:{d}" for d in decisions] if new else ["deliver_w:allow"]
        if self.w.state == f.WAITING:
            names += ["approve"] if calm else ["approve", "refuse"]
        if self.w.state == f.ACCEPTED:
            names.append("slot")
        if self.w.state in (*f.STARTED, *f.TERMINALS):
            names.append("look" if self.glance else "glance")
        if self.up and self.w.cursor is not None and len(self.w2c) < FRAMES_IN_FLIGHT:
            names.append("flow")
        return names

    def trouble(self) -> list[str]:
        names: list[str] = []
        if self.cancels and self.c.state is not None and self.c.state not in f.TERMINALS:
            names.append("user_cancels")
        if self.expiries and self.c.state in (f.QUEUED, *f.OPEN):
            names.append("c_expires")
        if self.expiries and self.w.state is not None:
            names.append("w_expires")
        if self.losses and self.up:
            names.append("lose")
        if self.kills:
            names += ["kill_c", "kill_w"]
            names += [f"kill_shim:{i}" for i, s in enumerate(self.shims) if s.phase != "free"]
        if self.w.pruned_through < self.w.last_seq:
            names.append("prune")
        if self.strays and self.up:
            names += ["repeat"] if self.c2w else []
            names += ["late_frame"] if self.old else []
        # A backup with a started task is no case here: a restore must not take it as such.
        if self.restores and not self.backup and self.w.state not in f.STARTED:
            names.append("back_up")
        if self.restores and self.backup:
            names.append("restore")
        return names

    def _shim_actions(self) -> list[str]:
        names: list[str] = []
        for i, shim in enumerate(self.shims):
            if shim.phase == "runs":
                names += [f"end:{i}{verdict}" for verdict in self.verdicts]
                names += [f"emit:{i}"] if self.spool < self.events else []
                names += [f"obey:{i}"] if self.told_to_end else []
            elif shim.phase != "free" or shim.agent:
                names.append(f"shim:{i}")
        return names

    # -- caller ----------------------------------------------------------------------------

    def do_delegate(self) -> None:
        self._caller(h.Delegated())

    def do_first_send(self) -> None:
        self._caller(h.LinkUp())

    def do_user_cancels(self) -> None:
        self.cancels -= 1
        self._caller(h.UserCancels())

    def do_c_expires(self) -> None:
        self.expiries -= 1
        self._caller(h.Expired())

    def do_deliver_c(self) -> None:
        frame, self.w2c = self.w2c[0], self.w2c[1:]
        match frame:
            case ("accepted",):
                self._caller(h.GotAccepted())
            case ("denied",):
                self._caller(h.GotDenied())
            case ("event", int(n)):
                self._caller(h.GotEvent(n))
            case ("gap", int(n)):
                self._caller(h.GotGap(n), through=n)
            case ("still_wanted",):
                self._caller(h.GotStillWanted())
            case (Send.UNKNOWN | Send.FORGOTTEN,):
                assert self.restored, "KEPT: a worker that was not put back forgets nothing"
                self._caller(h.GotForgotten())
            case ("welcome lists the task",):
                self._caller(h.GotWelcome())
            case ("result", str(state), int(n)):
                self._caller(h.GotResult(state, n))
            case _:
                assert frame == ("end",)

    def _caller(self, event: h.CallerEvent, through: int = 0) -> None:
        try:
            step = caller(event, self.c)
        except RemoteProtocolError:
            assert self.restored, "the peers of one history never break the protocol"
            self._drop()
            return
        for write in step.writes:
            self._caller_write(write, through)
        for send in step.sends:
            self._to_worker(send)

    def _caller_write(self, write: Write, through: int) -> None:
        match write.kind, write.name:
            case "state", state:
                self._check_caller_state(state)
                self.c = replace(self.c, state=state)
            case "fact", "cancel_wish":
                self.c = replace(self.c, wish="user")
            case "fact", "expiry_wish":
                self.c = replace(self.c, wish="expired")
            case "fact", "gap":
                self.c = replace(self.c, last_seq=through)
            case "event", _:
                self.c = replace(self.c, last_seq=self.c.last_seq + 1)
            case "result", _:
                assert self.c.last_seq == self.w.last_seq or self.restored, "ORDER: an early end"
                self.c = replace(self.c, evidence=True)
            case kind, name:
                assert (kind, name) == ("task", "")

    def _check_caller_state(self, state: str) -> None:
        assert self.c.state not in f.TERMINALS, "FINAL: C changes a terminal state"
        if state in f.TERMINALS:
            assert state != "cancelled" or not self.processes, "ZERO at C"
            expected = None if self.c.state == f.QUEUED else state
            assert self.w.state == expected or self.restored, "SHOWN: not what W's store has"
        if state == f.ACCEPTED and not self.restored:
            assert self.w.state is not None, "KEPT: accepted without a row"

    def _to_worker(self, send: str) -> None:
        assert self.up, "nothing is sent without a link"
        match send:
            case "subscribe":
                frame: Frame = ("subscribe", self.c.last_seq)
            case "cancel(user)" | "cancel(expired)":
                frame = ("cancel", send.removeprefix("cancel(").removesuffix(")"))
            case _:
                frame = (str(send),)
        self.c2w = (*self.c2w, frame)

    # -- worker ----------------------------------------------------------------------------

    def do_deliver_w(self, decision: str) -> None:
        frame, self.c2w = self.c2w[0], self.c2w[1:]
        match frame:
            case ("submit",):
                effect = decision if decision in ("ask", "deny") else "allow"
                before = decision if decision in ("unfit", "ready") else "none"
                self._worker(h.GotSubmit(effect, waited=decision == "waited", before=before))
                assert before != "unfit" or self.w.state == "denied", "TURNS: taken too early"
                self._ask_when_late()
            case ("cancel", "user"):
                self._worker(h.GotCancel("user"))
            case ("cancel", _):
                self._worker(h.GotCancel("expired"))
            case ("wanted",):
                self._worker(h.GotWanted())
            case ("subscribe", int(n)):
                kept = self.c.state != f.ACCEPTED or self.w.state is not None
                assert kept or self.restored, "KEPT"
                self._worker(h.GotSubscribe(n), after=n)
            case _:
                assert frame == ("result_ack",)
                if self.restored and self.c.state != self.w.state:
                    return  # signed for another end, so refused before it comes here
                self._worker(h.GotResultAck())

    def do_approve(self) -> None:
        self._worker(h.Approved())
        self._ask_when_late()

    def do_refuse(self) -> None:
        self._worker(h.Refused())

    def do_w_expires(self) -> None:
        self.expiries -= 1
        self._worker(h.Expired())

    def do_slot(self) -> None:
        self._worker(h.Slot())

    def do_flow(self) -> None:
        self._worker(h.Flow())

    def do_prune(self) -> None:
        self.w = replace(self.w, pruned_through=self.w.last_seq)

    def do_glance(self) -> None:
        self.glance = (self.claim, self.record, self.owner_alive)

    def do_look(self) -> None:
        assert self.glance is not None
        (claim, agent, owner), self.glance = self.glance, None
        assert claim in ("none", "shim", "burnt")
        result = self.result or None
        assert result in (None, "succeeded", "failed", "cancelled", "timed_out")
        self._worker(
            Looked(
                claim=claim,
                agent=agent,
                owner_alive=owner,
                child=self.child >= 0,
                result=result,
                stored=self.stored == self.spool,
                processes=self.processes,
                directory=self.directory,
            )
        )

    def _ask_when_late(self) -> None:
        if self.up:
            self._worker(h.Connected())

    def _worker(self, event: h.WorkerEvent, after: int = 0) -> None:
        try:
            step = worker(event, self.w)
        except RemoteProtocolError:
            assert self.restored, "the peers of one history never break the protocol"
            self._drop()
            return
        for write in step.writes:
            self._worker_write(write)
        if step.row == "W19":
            self.stored += 1
        for send in step.sends:
            self._to_caller(send)
        for act in step.acts:
            self._act(act, after)
        if isinstance(event, h.Connected) and step.sends:
            assert self.up

    def _worker_write(self, write: Write) -> None:
        match write.kind, write.name:
            case "state", state:
                self._check_worker_state(state)
                self.w = replace(self.w, state=state)
            case "fact", "cancel_wish":
                self.w = replace(self.w, cancel_wish=True)
            case "fact", "late":
                self.w = replace(self.w, late=True)
            case "fact", "acknowledged":
                assert self.c.state == self.w.state, "RECEIPT: C holds no such end"
                assert self.c.evidence, "RECEIPT: C has not committed the result"
                self.w = replace(self.w, acknowledged=True)
            case "event", _:
                assert self.w.state not in f.TERMINALS, "ORDER: an event after the end"
                self.w = replace(self.w, last_seq=self.w.last_seq + 1)
            case kind, name:
                assert (kind, name) in {("task", ""), ("result", ""), ("receipt", "")}

    def _check_worker_state(self, state: str) -> None:
        assert self.w.state not in f.TERMINALS, "FINAL: W changes a terminal state"
        assert state != "cancelled" or not self.processes, "ZERO at W"
        assert state != f.RUNNING or self.starts, "WITNESS: running without a start"
        if state == "interrupted":
            assert not self.result, "TRUTH: a result exists"
            assert not self.processes, "TRUTH: processes are left"

    def _to_caller(self, send: str) -> None:
        assert self.up, "nothing is sent without a link"
        match send:
            case "event":
                assert self.w.cursor is not None
                self.w = replace(self.w, cursor=self.w.cursor + 1)
                frame: Frame = ("event", self.w.cursor or 0)
            case "gap":
                self.w = replace(self.w, cursor=self.w.pruned_through)
                frame = ("gap", self.w.pruned_through)
            case "result":
                self.w = replace(self.w, told=True)
                frame = ("result", str(self.w.state), self.w.last_seq)
            case _:
                frame = (str(send),)
        self.w2c = (*self.w2c, frame)

    def _act(self, act: str, after: int) -> None:
        match act:
            case Act.FOLLOW:
                self.w = replace(self.w, cursor=after, told=False)
            case Act.ASKED:
                self.w = replace(self.w, asked=True)
            case Act.WANTED:
                self.w = replace(self.w, wanted=True)
            case Act.SPAWN:
                self._spawn()
            case Act.BURN:
                self.directory = True
                if self.claim == "none":
                    self.claim = "burnt"
            case Act.END:
                self.w = replace(self.w, ending=True)
                self.told_to_end = self.owner_alive
            case _:
                assert act == Act.DISCARD
                self.directory, self.claim, self.record, self.result = False, "none", False, ""

    def _spawn(self) -> None:
        idle = [i for i, s in enumerate(self.shims) if s == Shim()]
        if idle:
            self.directory = True
            self._shim(idle[0], phase="new")
            self.child = idle[0]

    # -- shim ------------------------------------------------------------------------------

    def do_shim(self, index: str) -> None:
        i = int(index)
        shim = self.shims[i]
        match shim.phase:
            case "new" if self.directory and self.claim == "none":
                self.claim = "shim"
                self._shim(i, phase="claimed")
            case "claimed" if self.told_to_end:
                self._shim(i, phase="done", verdict="cancelled")
            case "claimed":
                self._start(i)
            case "started":
                self.record = True
                self._shim(i, phase="runs")
            case "done":
                self.result = shim.verdict
                self._shim(i, phase="wrote")
            case "free":
                self._shim(i, agent=False)  # killed: its namespace dies a while later
            case _:
                self._bury(i)

    def _start(self, i: int) -> None:
        self.starts += 1
        assert self.starts == 1, "ONCE: started twice"
        assert not {self.c.state, self.w.state} & set(f.TERMINALS), "LATE: start after an end"
        self._shim(i, phase="started", agent=True)

    def do_emit(self, index: str) -> None:
        assert self.shims[int(index)].agent
        self.spool += 1

    def do_end(self, which: str) -> None:
        self._shim(int(which[0]), phase="done", agent=False, verdict=which[1:])

    def do_obey(self, index: str) -> None:
        self._shim(int(index), phase="done", agent=False, verdict="cancelled")

    def _shim(self, i: int, **change: object) -> None:
        shims = list(self.shims)
        shims[i] = replace(shims[i], **change)
        self.shims = tuple(shims)

    def _bury(self, i: int) -> None:
        if self.shims[i].owner:
            self.told_to_end = False
        if self.child == i:
            self.child = -1
        self._shim(i, phase="free", verdict="")

    # -- environment -----------------------------------------------------------------------

    def do_link_up(self) -> None:
        self.up = True
        self.c = replace(self.c, connected=True)
        if self.w.state is not None:
            self._worker(h.Connected())
        if self.c.state in (*f.OPEN, f.UNKNOWN, *f.TERMINALS):
            self._caller(h.Connected())

    def do_lose(self) -> None:
        self.losses -= 1
        self._drop()

    def do_kill_c(self) -> None:
        self.kills -= 1
        self._drop()

    def do_kill_w(self) -> None:
        self.kills -= 1
        self._drop()
        self.w = replace(self.w, wanted=False, ending=False)
        self.child, self.glance = -1, None
        if self.w.state is not None:
            self._worker(h.Restarted())

    def do_repeat(self) -> None:
        self.strays -= 1
        self.c2w = (self.c2w[0], *self.c2w)

    def do_late_frame(self) -> None:
        self.strays -= 1
        self.c2w, self.old = (*self.c2w, *self.old), ()

    def do_back_up(self) -> None:
        durable = replace(self.w, wanted=False, ending=False, asked=False, cursor=None, told=False)
        self.backup = (durable, self.stored)

    def do_restore_unnoticed(self) -> None:
        """Do so with a copy that no head at C is newer than."""
        known = self.c
        self.do_restore()
        self.c = replace(known, connected=False)

    def do_restore(self) -> None:
        """Start W's daemon on an older copy of its store; directories and processes stay."""
        assert self.backup is not None
        self.restores -= 1
        self._drop()
        (self.w, self.stored), self.old, self.restored = self.backup, (), True
        self.child, self.glance = -1, None
        if self.c.state not in (None, f.QUEUED):
            self.c = replace(self.c, other_store=True)
        if self.w.state is not None:
            self._worker(h.Restarted())

    def do_kill_shim(self, index: str) -> None:
        self.kills -= 1
        self._bury(int(index))

    def _drop(self) -> None:
        self.old = self.c2w[:1] if self.strays else ()
        self.up, self.c2w, self.w2c = False, (), ()
        self.c = replace(self.c, connected=False)
        self.w = replace(self.w, asked=False, cursor=None, told=False)
