"""One task of a peer on this worker: its events decided by the table, committed, acted on.

The table says what follows from what; this gathers the facts and carries the
steps out. What the shim's files say is read anew at every look.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace

from cmesh.daemon import results
from cmesh.daemon.actor import Actor
from cmesh.daemon.admission import Admission, Grant
from cmesh.daemon.draft import Draft
from cmesh.daemon.findings import Findings
from cmesh.daemon.happening import Happening, Place
from cmesh.daemon.inbound_answers import answer
from cmesh.daemon.parts import Parts
from cmesh.daemon.starting import PAUSE_FIRST_S, PAUSE_MOST_S, TOO_LATE, Starting
from cmesh.errors import CmeshError, KeyExpired, LinkError, PolicyDenied
from cmesh.model import Direction, TaskId, TaskState
from cmesh.protocol import state as table
from cmesh.protocol.facts import ACCEPTED, RUNNING, STARTED, WAITING, WorkerFacts
from cmesh.protocol.happenings import Connected, Expired, GotCancel, Looked, Restarted, Slot
from cmesh.protocol.messages import Cancelled
from cmesh.protocol.state import Act, Send, Step
from cmesh.protocol.witness import WITNESS
from cmesh.runner.evidence import Look
from cmesh.store.fold import GRANTED
from cmesh.store.records import TaskSnapshot

__all__ = ["Inbound"]

logger = logging.getLogger(__name__)

STEPS_PER_LOOK = 16
LOOK_AGAIN_AFTER_S = 0.2
PROGRESS_EVERY_S = 1.0
"""Between counts of the processes of a task that is being ended."""


class Inbound:
    """One inbound task.

    Attributes:
        asked: the caller was asked, on this connection, whether it still wants it.
    """

    def __init__(self, task_id: TaskId, parts: Parts, place: Place) -> None:
        self.task_id = task_id
        self.asked = False
        self._closed = False
        self._parts = parts
        self._place = place
        self._wanted = False
        self._staged: set[Act] = set()
        self._again: dict[type, Happening] = {}
        self._ending = False
        self._stopped = False
        self._why = ("", "")
        self._findings = Findings(task_id, parts)
        self._tell_at = 0.0
        self._failure_pause_s = PAUSE_FIRST_S
        self._timer: asyncio.TimerHandle | None = None
        self._warning: asyncio.TimerHandle | None = None
        self._actor: Actor[Happening] = Actor(task_id, self._handle)
        self._starting = Starting(
            task_id, parts, place, tell=self.tell, look_later=self._look_later
        )

    @property
    def grant(self) -> Grant | None:
        """What it runs with; None until this life of the daemon has decided."""
        return self._starting.grant

    def decided(self, admission: Admission) -> None:
        """Take note of what this life of the daemon has decided, unless it had before."""
        if self.grant is None:
            self._starting.admitted(admission)

    @property
    def idle(self) -> bool:
        """Nothing is being handled."""
        return self._actor.idle

    def tell(self, happening: Happening) -> "asyncio.Future[None]":
        """Queue what happened; done when committed."""
        return self._actor.tell(happening)

    def look(self) -> None:
        """Ask for a look at the shim's files."""
        self._actor.tell(Happening(event=Looked()))

    def followed(self) -> None:
        """Its caller follows it from an event that this store has: it may start, if it must."""
        if self._starting.held:
            self._starting.held = False
            self.look()

    async def close(self) -> None:
        """Finish what was told, then stop; the shim runs on."""
        await self._actor.settle()
        self.stop()

    def stop(self) -> None:
        """Plan no further look."""
        self._closed = True
        for timer in (self._timer, self._warning):
            if timer is not None:
                timer.cancel()

    async def _handle(self, batch: list[Happening]) -> Mapping[int, CmeshError]:
        try:
            refused = await self._carry_out(batch)
        except Exception:
            # Nobody tells these a second time, and each must come before the next slot.
            self._again |= {type(one.event): one for one in batch if isinstance(one.event, _OWN)}
            # What was read of the spool is not stored, so it is read again, a while later.
            self._findings.forget()
            self._look_later(self._failure_pause_s)
            self._failure_pause_s = min(2 * self._failure_pause_s, PAUSE_MOST_S)
            raise
        self._again.clear()
        self._failure_pause_s = PAUSE_FIRST_S
        return refused

    async def _carry_out(self, batch: list[Happening]) -> Mapping[int, CmeshError]:
        base = await self._parts.store.task(self.task_id)
        draft = Draft(self.task_id, Direction.IN, base)
        self._why = base.wish if base else ("", "")
        self._staged = set()
        replies: list[tuple[Send, Happening]] = []
        refused: dict[int, CmeshError] = {}
        acts: list[Act] = []
        for place, one in enumerate((*self._again.values(), *batch), -len(self._again)):
            if isinstance(one.event, Looked):
                continue
            try:
                step = self._step(one, draft)
            except LinkError as error:
                refused[place] = error
                continue
            self._write(step, draft, one)
            replies += [(send, one) for send in step.sends]
            acts += step.acts
        if draft.state == ACCEPTED:
            await self._take_place(draft, base)
        if draft.state in STARTED or draft.terminal:
            acts += await self._look(draft)
        # Before its end is told: who hears of that finds every connection of it.
        asked = draft.terminal and await self._parts.networks.end(self.task_id)
        await self._commit(draft, base.state if base else None)
        # INVARIANT: not before the commit, nor after another wait: what a failed commit kept from
        # being asked is asked again, and each connection has a question of its own.
        self.asked = self.asked or Act.ASKED in self._staged
        self._wanted = self._wanted or Act.WANTED in self._staged
        if asked:
            self._parts.ended(self.task_id)
        for send, one in replies:
            answer(self._parts, self.task_id, send, one, draft)
        for act in acts:
            await self._act(act, draft)
        return refused

    async def _commit(self, draft: Draft, before: str | None) -> None:
        if draft.records:
            await self._parts.store.commit(draft.records)
            self._parts.news.tell(self.task_id)
            if draft.record and draft.state == WAITING != before:
                self._parts.wake(draft.record, TaskState.WAITING_APPROVAL)
        if draft.state is None or draft.terminal:
            self._place.leave(self.task_id)

    def _step(self, one: Happening, draft: Draft) -> Step:
        facts = self._facts(draft)
        step = table.worker(one.event, replace(facts, same_hash=one.same_hash))
        self._staged |= _IN_MEMORY.intersection(step.acts)
        return step

    def _facts(self, draft: Draft) -> WorkerFacts:
        return WorkerFacts(
            state=draft.state,
            cancel_wish="cancel_wish" in draft.facts,
            late="late" in draft.facts,
            acknowledged="acknowledged" in draft.facts,
            restored="restored" in draft.facts,
            last_seq=draft.last_event,
            wanted=self._wanted or Act.WANTED in self._staged,
            ending=self._ending,
            asked=self.asked or Act.ASKED in self._staged,
        )

    def _write(self, step: Step, draft: Draft, one: Happening) -> None:
        if isinstance(one.event, GotCancel) and step.writes:
            self._why = (one.code, one.reason)
        if one.admission is not None and draft.state is None:
            self._starting.admitted(one.admission)
            draft.records.append(one.admission.record)
        now = self._parts.clock.now()
        for write in step.writes:
            if write.kind == "task" and one.record is not None:
                draft.add_task(one.record)
                self._note_limits(one.admission, draft)
            elif write.kind == "state":
                draft.add_state(step.next, WITNESS["worker", step.next], one.code, one.reason)
                draft.mark_retry(_retry_of(one), now)
            elif write.kind == "fact":
                data = {"code": one.code} if one.code else None
                draft.add_fact(write.name, data, code=one.code, reason=one.reason)
            elif write.kind == "receipt" and one.receipt is not None:
                draft.records.append(one.receipt)
            elif write.kind == "event":
                draft.next_event(now, table.public("worker", step.next, self._facts(draft)))
            elif write.kind == "result":
                refusal = results.refusal(step.next, one.code, one.reason, now)
                results.add_signed(self._parts, draft, refusal, self._starting.policy_sha256)

    def _note_limits(self, admission: Admission | None, draft: Draft) -> None:
        """Note what a task is held to, where that is not what it was asked with."""
        if admission is None or admission.grant is None or draft.record is None:
            return
        if admission.grant.limits != draft.record.spec.limits:
            draft.add_fact(GRANTED, asdict(admission.grant.limits))

    async def _take_place(self, draft: Draft, base: TaskSnapshot | None) -> None:
        """Commit to start it when there is room; decided anew when that was not just now."""
        assert draft.record is not None
        if draft.record.spec.not_after <= self._parts.clock.now():
            # INVARIANT: asked before the slot, or a task that waited is started too late.
            late = Happening(event=Expired(), code="expired", reason=TOO_LATE)
            self._write(self._step(late, draft), draft, late)
            return
        if draft.record.spec.changes is not None:
            # INVARIANT: asked for only once its row is committed, and started only once it is here.
            if base is None:
                self.look()
                return
            if not await self._place.ready(draft.record):
                self._place.leave(self.task_id)
                return
        step = table.worker(Slot(), self._facts(draft))
        if step.next == ACCEPTED:
            # It waits for its caller's word, so it must not stand first in the queue.
            self._place.leave(self.task_id)
            return
        if not self._place.take(self.task_id):
            return
        if self.grant is None and base is not None:
            admission = await self._starting.readmitted(base)
            if admission is None:
                self._place.leave(self.task_id)
                return
            draft.records.append(admission.record)
            self._note_limits(admission, draft)
            self._starting.admitted(admission)
            if admission.effect == "deny":
                why = Happening(
                    event=GotCancel("user"), code=admission.code, reason=admission.reason
                )
                self._write(self._step(why, draft), draft, why)
                return
        draft.add_state(step.next, WITNESS["worker", step.next])

    async def _look(self, draft: Draft) -> tuple[Act, ...]:
        """Look, and look again while something follows from what is seen."""
        for _ in range(STEPS_PER_LOOK):
            looked = await self._looked(draft)
            step = table.worker(looked, self._facts(draft))
            kinds = {write.kind for write in step.writes}
            if not kinds:
                return step.acts
            if kinds == {"event"}:  # W19: the spool's next events are in the draft already
                continue
            await self._findings.write(
                step, draft, self._why, self.grant, self._starting.policy_sha256
            )
        self.look()
        return ()

    async def _looked(self, draft: Draft) -> Looked:
        supervisor = self._parts.supervisor
        directory = supervisor.directory(self.task_id).exists()
        if draft.state not in STARTED:
            return Looked(directory=directory)
        look = supervisor.look(self.task_id)
        stored, processes = True, 0
        if look.claim == "shim":
            stored = await self._findings.take(draft, look)
            await self._hold(draft, look)
        # A run whose claim file was lost is counted as well: losing a file ends no process.
        claimed = look.claim == "shim" or (look.claim == "none" and draft.state == RUNNING)
        if claimed and not look.owner_alive and look.exit is None:
            processes = supervisor.end_survivors(self.task_id)
        elif self._ending and look.exit is None:
            self._tell_left(draft)
        if processes:
            self._look_later()
        return Looked(
            claim=look.claim,
            agent=look.agent_pid is not None,
            owner_alive=look.owner_alive,
            child=look.child_alive,
            result=self._findings.reported,
            stored=stored,
            processes=processes,
            directory=directory,
        )

    async def _hold(self, draft: Draft, look: Look) -> None:
        """Hold a run to its limits: a word when its time is short, its end when one is spent.

        The shim ends it as it does at its deadline.
        """
        if look.exit is not None:
            return
        spent = self._findings.spent
        if spent is not None and not self._stopped:
            self._stopped = True
            self._parts.supervisor.stop(self.task_id, f"{spent.limit}: {spent.words}")
        due_s = await self._findings.warn_of_time(draft)
        if due_s is not None and self._warning is None and not self._closed:
            self._warning = asyncio.get_running_loop().call_later(due_s, self._warn)

    def _warn(self) -> None:
        self._warning = None
        self.look()

    def _tell_left(self, draft: Draft) -> None:
        """Tell the caller now and then how far a cancel is; a tree says nothing by itself."""
        now = self._parts.clock.monotonic()
        if draft.record is None or now < self._tell_at:
            return
        self._tell_at = now + PROGRESS_EVERY_S
        left = self._parts.supervisor.count_processes(self.task_id)
        self._parts.post(draft.record.peer_id, Cancelled(task_id=self.task_id, processes_left=left))
        self._look_later(PROGRESS_EVERY_S)

    def _look_later(self, pause_s: float = LOOK_AGAIN_AFTER_S) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(pause_s, self.look)

    async def _act(self, act: Act, draft: Draft) -> None:
        supervisor = self._parts.supervisor
        if act is Act.SPAWN:
            await self._starting.spawn(draft)
        elif act is Act.BURN:
            supervisor.burn(self.task_id)
            self.look()
        elif act is Act.END:
            supervisor.end(self.task_id, "revoked" if self._why[0] in _REVOKED else "cancelled")
            if not self._ending:  # most trees have ended before the first count
                self._tell_at = self._parts.clock.monotonic() + PROGRESS_EVERY_S
                self._look_later(PROGRESS_EVERY_S)
            self._ending = True
        elif act is Act.DISCARD:
            with contextlib.suppress(OSError):
                supervisor.discard(self.task_id)


def _retry_of(one: Happening) -> int | None:
    return one.admission.retry_after_s if one.admission is not None else None


_REVOKED = {PolicyDenied.code, KeyExpired.code}

_IN_MEMORY = frozenset({Act.ASKED, Act.WANTED})

_OWN = (Connected, Restarted)
"""What this daemon tells itself, once."""
