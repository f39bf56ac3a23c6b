"""One task of a peer on this worker: its events decided by the table, committed, acted on.

The table says what follows from what; this gathers the facts and carries the
steps out. What the shim's files say is read anew at every look.
"""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from cmesh.daemon import results
from cmesh.daemon.actor import Actor
from cmesh.daemon.admission import Admission, Grant
from cmesh.daemon.draft import Draft
from cmesh.daemon.parts import Parts
from cmesh.daemon.results import RanWith
from cmesh.daemon.spool import Spool
from cmesh.errors import (
    CmeshError,
    DiskFull,
    KeyExpired,
    LinkError,
    NodeError,
    PolicyDenied,
    RunnerError,
)
from cmesh.model import Direction, NodeId, Result, TaskId, TaskState
from cmesh.protocol import state as table
from cmesh.protocol.facts import (
    ACCEPTED,
    RUNNING,
    STARTED,
    WAITING,
    Expired,
    GotCancel,
    Looked,
    Slot,
    WorkerEvent,
    WorkerFacts,
)
from cmesh.protocol.messages import Accepted, Denied, StillWanted
from cmesh.protocol.state import Act, Send, Step
from cmesh.store.records import ReceiptRecord, TaskRecord, TaskSnapshot

__all__ = ["Happening", "Inbound", "Place"]

logger = logging.getLogger(__name__)

STEPS_PER_LOOK = 16
LOOK_AGAIN_AFTER_S = 0.2
PAUSE_FIRST_S = 0.2
PAUSE_MOST_S = 30.0
"""Between attempts that failed, of a shim that ended unclaimed or of a commit; doubled each."""

ASK_AGAIN_AFTER_S = 1.0

FIRST_EVENTS = 64
"""The event that a task runs is among the first ones."""

_TOO_LATE = "its time to start was over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something that happens to a task, and what came with it.

    Attributes:
        event: a `Looked` only asks for a look; what is seen is gathered then.
        record: the task's own row, for an id that may be unknown here.
        same_hash: a submit's payload is the known one.
        code, reason: why, for what the worker decides itself.
        receipt: the caller's signature, for a `result_ack`.
        reply_to: the node to answer.
    """

    event: WorkerEvent
    record: TaskRecord | None = None
    admission: Admission | None = None
    same_hash: bool = True
    code: str = ""
    reason: str = ""
    receipt: ReceiptRecord | None = None
    reply_to: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """How a task gets and gives back one of the worker's places to run.

    Attributes:
        take: True when the task has a place now.
        leave: gives the place, or the turn in the queue, back.
        readmit: decides anew whether a task may run.
    """

    take: Callable[[TaskId], bool]
    leave: Callable[[TaskId], None]
    readmit: Callable[[TaskSnapshot], Awaitable[Admission]]


class Inbound:
    """One inbound task.

    Attributes:
        grant: what it runs with; None until this life of the daemon has decided.
        asked: the caller was asked, on this connection, whether it still wants it.
    """

    def __init__(self, task_id: TaskId, parts: Parts, place: Place) -> None:
        self.task_id = task_id
        self.grant: Grant | None = None
        self.asked = False
        self._closed = False
        self._parts = parts
        self._place = place
        self._wanted = False
        self._ending = False
        self._why = ("", "")
        self._spool: Spool | None = None
        self._spawn_pause_s = PAUSE_FIRST_S
        self._spawn_at = 0.0
        self._failure_pause_s = PAUSE_FIRST_S
        self._timer: asyncio.TimerHandle | None = None
        self._actor: Actor[Happening] = Actor(task_id, self._handle)

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

    async def close(self) -> None:
        """Finish what was told, then stop; the shim runs on."""
        await self._actor.settle()
        self.stop()

    def stop(self) -> None:
        """Plan no further look."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    async def _handle(self, batch: list[Happening]) -> Mapping[int, CmeshError]:
        try:
            refused = await self._carry_out(batch)
        except Exception:
            # What was read of the spool is not stored, so it is read again, a while later.
            self._spool = None
            self._look_later(self._failure_pause_s)
            self._failure_pause_s = min(2 * self._failure_pause_s, PAUSE_MOST_S)
            raise
        self._failure_pause_s = PAUSE_FIRST_S
        return refused

    async def _carry_out(self, batch: list[Happening]) -> Mapping[int, CmeshError]:
        base = await self._parts.store.task(self.task_id)
        draft = Draft(self.task_id, Direction.IN, base)
        replies: list[tuple[Send, Happening]] = []
        refused: dict[int, CmeshError] = {}
        acts: list[Act] = []
        for place, one in enumerate(batch):
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
        await self._commit(draft)
        for send, one in replies:
            self._answer(send, one, draft)
        for act in acts:
            await self._act(act, draft)
        return refused

    async def _commit(self, draft: Draft) -> None:
        if draft.records:
            await self._parts.store.commit(draft.records)
            self._parts.news.tell(self.task_id)
        if draft.state is None or draft.terminal:
            self._place.leave(self.task_id)

    def _step(self, one: Happening, draft: Draft) -> Step:
        facts = self._facts(draft)
        step = table.worker(one.event, replace(facts, same_hash=one.same_hash))
        self.asked = self.asked or Act.ASKED in step.acts
        self._wanted = self._wanted or Act.WANTED in step.acts
        return step

    def _facts(self, draft: Draft) -> WorkerFacts:
        return WorkerFacts(
            state=draft.state,
            cancel_wish="cancel_wish" in draft.facts,
            late="late" in draft.facts,
            acknowledged="acknowledged" in draft.facts,
            last_seq=draft.last_event,
            wanted=self._wanted,
            ending=self._ending,
            asked=self.asked,
        )

    def _write(self, step: Step, draft: Draft, one: Happening) -> None:
        if isinstance(one.event, GotCancel) and step.writes:
            self._why = (one.code, one.reason)
        if one.admission is not None and draft.state is None:
            self.grant = one.admission.grant
            draft.records.append(one.admission.record)
        now = self._parts.clock.now()
        for write in step.writes:
            if write.kind == "task" and one.record is not None:
                draft.add_task(one.record)
            elif write.kind == "state":
                draft.add_state(step.next, _WITNESS[step.next], one.code, one.reason)
            elif write.kind == "fact":
                draft.add_fact(write.name, {"code": one.code} if one.code else None)
            elif write.kind == "receipt" and one.receipt is not None:
                draft.records.append(one.receipt)
            elif write.kind == "event":
                draft.next_event(now, table.public("worker", step.next, self._facts(draft)))
            elif write.kind == "result":
                self._add_result(draft, results.refusal(step.next, one.code, one.reason, now))

    def _add_result(self, draft: Draft, result: Result) -> None:
        assert draft.record is not None
        worker = self._parts.self_id()
        signature = results.signed(self._parts.key, draft.record, worker, result, draft.last_event)
        draft.add_result(result, signature)

    async def _take_place(self, draft: Draft, base: TaskSnapshot | None) -> None:
        """Commit to start it when there is room; decided anew when that was not just now."""
        assert draft.record is not None
        if draft.record.spec.not_after <= self._parts.clock.now():
            # INVARIANT: asked before the slot, or a task that waited is started too late.
            late = Happening(event=Expired(), code="expired", reason=_TOO_LATE)
            self._write(self._step(late, draft), draft, late)
            return
        step = table.worker(Slot(), self._facts(draft))
        if step.next == ACCEPTED or not self._place.take(self.task_id):
            return
        if self.grant is None and base is not None:
            admission = await self._readmitted(base)
            if admission is None:
                self._place.leave(self.task_id)
                return
            draft.records.append(admission.record)
            self.grant = admission.grant
            if admission.effect == "deny":
                why = Happening(
                    event=GotCancel("user"), code=admission.code, reason=admission.reason
                )
                self._write(self._step(why, draft), draft, why)
                return
        draft.add_state(step.next, _WITNESS[step.next])

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
            await self._write_seen(step, draft)
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
            spool = await self._open_spool(draft)
            stored = spool.take(draft, look, self._parts.clock.now())
        # A run whose claim file was lost is counted as well: losing a file ends no process.
        claimed = look.claim == "shim" or (look.claim == "none" and draft.state == RUNNING)
        if claimed and not look.owner_alive and look.exit is None:
            processes = supervisor.end_survivors(self.task_id)
        if processes:
            self._look_later()
        outcome = self._spool.outcome if self._spool else None
        return Looked(
            claim=look.claim,
            agent=look.agent_pid is not None,
            owner_alive=look.owner_alive,
            child=look.child_alive,
            result=_REPORTED[outcome.state] if outcome else None,
            stored=stored,
            processes=processes,
            directory=directory,
        )

    async def _write_seen(self, step: Step, draft: Draft) -> None:
        """Write what a look has shown: that it runs, or how it ended."""
        now = self._parts.clock.now()
        if not any(write.kind == "result" for write in step.writes):
            draft.add_state(step.next, _WITNESS[step.next])
            draft.next_event(now, step.next, data=asdict(await self._ran_with()))
            return
        look = self._parts.supervisor.look(self.task_id)
        code, reason = self._why
        if look.claim == "burnt":
            result = results.refusal(step.next, code, reason, now)
        else:
            outcome = self._spool.outcome if self._spool else None
            result = results.run(step.next, look, outcome, await self._ran_with(), now)
            if result.state is TaskState.CANCELLED:
                # Why it was ended is known here alone; the shim only did as it was told.
                result = replace(result, code=code, error=reason or result.error)
        if result.output_sha256:
            await self._parts.store.blob(self._parts.supervisor.spool_path(self.task_id))
        draft.add_state(step.next, result.witness, result.code, result.error)
        self._add_result(draft, result)

    async def _ran_with(self) -> RanWith:
        """Return what runs the task: as admitted, else as noted when it began to run."""
        if self.grant is not None:
            runner = self.grant.runner
            return RanWith(runner_version=runner.version, credential=runner.credential)
        for event in await self._parts.store.events(self.task_id, after=0, limit=FIRST_EVENTS):
            if event.kind == RUNNING and "credential" in event.data:
                return RanWith(
                    runner_version=str(event.data.get("runner_version", "")),
                    credential=str(event.data["credential"]),
                )
        return RanWith()

    async def _open_spool(self, draft: Draft) -> Spool:
        if self._spool is None:
            assert draft.record is not None
            stored = await self._parts.store.task(self.task_id)
            self._spool = Spool(
                self.task_id,
                self._parts.supervisor,
                self._parts.runners().reader(draft.record.spec.runner),
                seen_end=stored.spool_end if stored else 0,
            )
        return self._spool

    def _look_later(self, pause_s: float = LOOK_AGAIN_AFTER_S) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(pause_s, self.look)

    def _answer(self, send: Send, one: Happening, draft: Draft) -> None:
        record, task_id = draft.record, self.task_id
        if send is Send.ACCEPTED and record is not None:
            rule = one.admission.rule if one.admission else record.rule
            answer = Accepted(
                task_id=task_id,
                payload_hash=record.payload_hash,
                waiting=draft.state == WAITING,
                rule=rule or "",
            )
        elif send is Send.DENIED:
            change = one.admission.change if one.admission else ""
            answer = Denied(
                task_id=task_id,
                code=one.code or "policy_denied",
                reason=one.reason[:2_000],
                change=change[:2_000],
            )
        elif send is Send.CONFLICT:
            reason = "this task id is known with another content"
            answer = Denied(task_id=task_id, code="task_conflict", reason=reason)
        elif send is Send.STILL_WANTED:
            answer = StillWanted(task_id=task_id)
        else:  # what welcome lists is read from the store when a link opens
            return
        if one.reply_to is not None:
            self._parts.post(one.reply_to, answer)

    async def _act(self, act: Act, draft: Draft) -> None:
        supervisor = self._parts.supervisor
        if act is Act.SPAWN:
            await self._spawn(draft)
        elif act is Act.BURN:
            supervisor.burn(self.task_id)
            self.look()
        elif act is Act.END:
            supervisor.end(self.task_id, "revoked" if self._why[0] in _REVOKED else "cancelled")
            self._ending = True
        elif act is Act.DISCARD:
            with contextlib.suppress(OSError):
                supervisor.discard(self.task_id)

    async def _spawn(self, draft: Draft) -> None:
        assert draft.record is not None
        wait_s = self._spawn_at - self._parts.clock.monotonic()
        if wait_s > 0:  # the last shim ended without a claim, for want of room on the disk
            self._look_later(wait_s)
            return
        grant, supervisor = await self._granted(draft.record), self._parts.supervisor
        if grant is None:
            return
        self._spawn_at = self._parts.clock.monotonic() + self._spawn_pause_s
        self._spawn_pause_s = min(2 * self._spawn_pause_s, PAUSE_MOST_S)
        spec = replace(draft.record.spec, directory=grant.directory, limits=grant.limits)
        try:
            directory = supervisor.directory(self.task_id)
            launch = grant.runner.launch(spec, directory, directory / "home")
            supervisor.prepare(self.task_id, launch)
            await supervisor.spawn(self.task_id)
        except (CmeshError, OSError) as error:
            code = error.code if isinstance(error, CmeshError) else _code_of(error)
            data = {"task": self.task_id, "why": str(error)}
            logger.warning("spawn_failed", extra={"data": data})
            self.tell(Happening(event=GotCancel("user"), code=code, reason=str(error)))

    async def _granted(self, record: TaskRecord) -> Grant | None:
        """Return what the task may run with; None when it may not, and then it is ended."""
        if self.grant is not None:
            return self.grant
        # An earlier life committed to start it, and no shim has.
        if record.spec.not_after <= self._parts.clock.now():
            self.tell(Happening(event=GotCancel("user"), code="expired", reason=_TOO_LATE))
            return None
        stored = await self._parts.store.task(self.task_id)
        admission = await self._readmitted(stored) if stored else None
        if admission is None:
            return None
        self.grant = admission.grant
        if self.grant is None:
            why = Happening(event=GotCancel("user"), code=admission.code, reason=admission.reason)
            self.tell(why)
        return self.grant

    async def _readmitted(self, task: TaskSnapshot) -> Admission | None:
        """Decide anew; None when nobody can say yet who asked, as right after a start."""
        try:
            return await self._place.readmit(task)
        except NodeError:
            self._look_later(ASK_AGAIN_AFTER_S)
            return None


def _code_of(error: OSError) -> str:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return DiskFull.code if full else RunnerError.code


_REVOKED = {PolicyDenied.code, KeyExpired.code}

_WITNESS = {
    "accepted": "the worker committed the row",
    "waiting": "the worker committed the row; its owner must approve it",
    "intent": "the worker committed to start it",
    "running": "the shim recorded the agent's process",
    "denied": "the worker committed the refusal",
    "cancelled": "the worker committed it before anything was started",
    "expired": "the worker committed it; its time was over before a start",
}


Reported = Literal["succeeded", "failed", "cancelled", "timed_out"]

_REPORTED: dict[str, Reported] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "timed_out": "timed_out",
}
