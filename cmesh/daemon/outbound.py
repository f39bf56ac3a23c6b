"""One task this node has asked of a peer: the caller's table, carried out.

What the worker says is taken in order and committed before it is shown or
answered. A worker's word about the end counts only with its signature.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from cmesh.daemon.actor import Actor
from cmesh.daemon.draft import Draft
from cmesh.daemon.heads import signed_head
from cmesh.daemon.parts import Parts
from cmesh.errors import AnswerInvalid, CmeshError, LinkError, PeerOutdated, RemoteProtocolError
from cmesh.keys import verify
from cmesh.link.link import Link
from cmesh.model import Direction, Event, TaskId, host_label
from cmesh.protocol import state as table
from cmesh.protocol.convert import result_from, submit
from cmesh.protocol.facts import OPEN, QUEUED, SENT
from cmesh.protocol.features import outdated
from cmesh.protocol.happenings import (
    CallerEvent,
    Connected,
    GotAccepted,
    GotGap,
    GotResult,
    LinkUp,
    UserCancels,
)
from cmesh.protocol.messages import (
    Cancel,
    Message,
    ResultAck,
    ResultMessage,
    Subscribe,
    Wanted,
)
from cmesh.protocol.receipts import result_bytes
from cmesh.protocol.state import Send, Step
from cmesh.protocol.witness import WITNESS
from cmesh.store.fold import WAITS
from cmesh.store.records import DecisionRecord, TaskRecord, TaskSnapshot

__all__ = ["EVENTS_CUT", "Outbound", "Word"]

logger = logging.getLogger(__name__)

OUTBOX_S = 60.0
"""A task that lay here for longer is asked about by the worker before it starts."""

EVENTS_PER_TASK = 10_000
EVENT_BYTES_PER_TASK = 16 * 1024 * 1024
"""What is kept of one task's events; what comes beyond is counted and dropped."""

GAPS_PER_TASK = 100
"""Gaps a worker may tell of in one task: each is a row, and one a subscription is honest."""

EVENTS_CUT = "events_cut"
"""Fact: the worker sent more events than are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """Something that happens to a task, and what came with it.

    Attributes:
        record, decision: of a new task.
        event: with a `GotEvent`.
        result: with a `GotResult`.
        retry_after_s: with a `GotDenied`: when a like task may be taken.
        accepted_waiting: with a `GotAccepted`: the worker's owner must approve it first.
        refused: with a `GotResult`: why its output was not taken; empty = it was.
        patch_refused, artifacts_refused: the same of its patch, and of a file.
        answer_refused: the same of its answer by a schema.
        link: over which it came; None = this side's own.
    """

    happened: CallerEvent
    record: TaskRecord | None = None
    decision: DecisionRecord | None = None
    event: Event | None = None
    result: ResultMessage | None = None
    code: str = ""
    reason: str = ""
    retry_after_s: int | None = None
    accepted_waiting: bool = False
    refused: str = ""
    patch_refused: str = ""
    artifacts_refused: str = ""
    answer_refused: str = ""
    link: Link | None = None


class Outbound:
    """One outbound task.

    Attributes:
        elsewhere: the worker's store is not the one the task was sent to, so nobody
            knows what became of it.
        stalled: what the worker said could not be stored; nothing more is heard until
            a `Connected` asks for it anew.
    """

    def __init__(
        self,
        task_id: TaskId,
        parts: Parts,
        link: Callable[[TaskRecord], Link | None],
        on_stall: Callable[[TaskId], None],
    ) -> None:
        """Make it; `link` gives the open link to a task's worker, if there is one.

        `on_stall` is told each time it has become `stalled`.
        """
        self.task_id = task_id
        self.elsewhere = False
        self.stalled = False
        self._parts = parts
        self._link = link
        self._on_stall = on_stall
        self._budget = _Budget()
        self._actor: Actor[Word] = Actor(task_id, self._handle)

    def tell(self, word: Word) -> None:
        """Queue what happened; what a peer said counts as its link's work."""
        future = self._actor.tell(word)
        if word.link is not None:
            word.link.hold(future)

    async def done(self, *words: Word) -> None:
        """Queue what happened and wait until it is committed.

        Raises:
            CmeshError: it could not be; nothing was changed.
        """
        futures = [self._actor.tell(word) for word in words]
        for future in futures:
            await future

    def stall(self) -> None:
        """Note that what the worker says cannot be stored now."""
        self.stalled = True
        self._on_stall(self.task_id)

    async def close(self) -> None:
        """Finish what was told."""
        await self._actor.settle()

    async def _handle(self, batch: list[Word]) -> Mapping[int, CmeshError]:
        base = await self._parts.store.task(self.task_id)
        draft = Draft(self.task_id, Direction.OUT, base)
        draft.last_event = max(draft.last_event, self._budget.dropped_through)
        budget = replace(self._budget)
        sends: list[tuple[Send, Word]] = []
        refused: dict[int, CmeshError] = {}
        words = (
            (place, one) for place, told in enumerate(batch) for one in self._possible(told, draft)
        )
        for place, word in words:
            if isinstance(word.happened, Connected):
                self.stalled = False
            if self.stalled and word.link is not None:
                continue
            try:
                step = self._step(word, draft)
            except LinkError as error:
                refused[place] = error
                if word.link is not None:
                    await self._broken(word.link, error)
                continue
            sends += [(send, word) for send in step.sends]
        if draft.records:
            try:
                await self._parts.store.commit(draft.records)
            except CmeshError:
                self._budget = budget  # they come again
                self._not_stored(batch)
                raise
            self._parts.news.tell(self.task_id)
            if draft.record and draft.terminal and draft.state and not (base and base.terminal):
                self._parts.wake(draft.record, draft.state)
        waited = base is not None and base.state == QUEUED and self._waited(base)
        for send, word in sends:
            self._send(send, word, draft, waited=waited)
        return refused

    def _possible(self, word: Word, draft: Draft) -> tuple[Word, ...]:
        """Return what happens; a link to a worker that does not know what it asks for ends it.

        INVARIANT: it is never sent there. Such a worker refuses the link and not the task, so
        each new link would send it again.
        """
        record, wishes = draft.record, {"cancel_wish", "expiry_wish"}
        asked = isinstance(word.happened, LinkUp | Connected) and not wishes & draft.facts
        link = self._link(record) if record and asked and draft.state in {QUEUED, SENT} else None
        if record is None or link is None:
            return (word,)
        same_store = draft.sent_to() in {"", link.opened.incarnation}
        why = outdated(record.spec, host_label(record.peer), link.opened)
        if not why or not same_store:
            return (word,)
        return Word(happened=UserCancels(), code=PeerOutdated.code, reason=why), word

    def _not_stored(self, batch: list[Word]) -> None:
        if any(word.link for word in batch):
            self.stall()

    def _waited(self, task: TaskSnapshot) -> bool:
        """Whether a task that was never sent has lain here for long."""
        lain = self._parts.clock.now() - task.created_at
        return lain.total_seconds() >= OUTBOX_S

    async def _broken(self, link: Link, error: LinkError) -> None:
        data = {"peer": link.identity.name, "task": self.task_id, "why": error.message}
        logger.warning("peer_broke_protocol", extra={"data": data})
        await link.refuse(error)

    def _step(self, word: Word, draft: Draft) -> Step:
        link = self._link(draft.record) if draft.record else None
        sent_to = draft.sent_to()
        other = link is not None and sent_to not in {"", link.opened.incarnation}
        facts = draft.caller_facts(connected=link is not None, other_store=other)
        happened = word.happened
        if isinstance(happened, LinkUp | Connected):
            # Told by who saw the link; only here it is certain what was sent before.
            queued = draft.state == QUEUED and link is not None
            happened = LinkUp() if queued else Connected()
        step = table.caller(happened, facts)
        if isinstance(word.happened, GotResult):
            self._verify(word, draft)
        if isinstance(word.happened, GotGap) and step.writes:
            self._budget.gap()
        if word.event is not None and step.writes and not self._budget.keeps(word.event, draft):
            return replace(step, writes=())
        self._write(step, word, draft)
        if Send.SUBMIT in step.sends and link is not None:
            # INVARIANT: only what is really submitted is marked, and the first store it went
            # to stands: another one would run the task a second time.
            draft.mark_sent_to(link.opened.incarnation)
        elif isinstance(happened, GotAccepted) and word.accepted_waiting:
            draft.note(WAITS)  # said again at each submit
        if link is not None or step.next not in OPEN:  # without a link nothing new is known
            self.elsewhere = other and step.next in OPEN
        return step

    def _verify(self, word: Word, draft: Draft) -> None:
        assert word.result is not None
        assert word.link is not None
        key = word.link.opened.key
        if not verify(key, self._signed(word.result, draft), word.result.signature):
            raise RemoteProtocolError("the result is not signed by the worker")

    def _signed(self, message: ResultMessage, draft: Draft) -> bytes:
        assert draft.record is not None
        return result_bytes(
            self.task_id,
            draft.record.payload_hash,
            draft.record.peer_id,
            self._parts.self_id(),
            message.outcome,
            message.last_seq,
        )

    def _write(self, step: Step, word: Word, draft: Draft) -> None:
        for write in step.writes:
            if write.kind == "task" and word.record is not None:
                if word.decision is not None:
                    draft.records.append(word.decision)
                draft.add_task(word.record)
            elif write.kind == "state":
                self._write_state(step, word, draft)
            elif write.kind == "fact" and isinstance(word.happened, GotGap):
                draft.skip_events(word.happened.through)
            elif write.kind == "fact":
                draft.add_fact(write.name)
            elif write.kind == "event" and word.event is not None:
                draft.add_event(word.event)
            elif write.kind == "result" and word.result is not None:
                self._write_result(word.result, word, draft)

    def _write_result(self, message: ResultMessage, word: Word, draft: Draft) -> None:
        if self._budget.dropped_through == draft.last_event > 0:
            draft.skip_events(draft.last_event)
        signature = self._parts.key.sign(self._signed(message, draft))
        draft.add_result(result_from(message.outcome), message.signature, signature)
        if word.refused:
            draft.add_fact("output_refused", {"reason": word.refused})
        if word.patch_refused:
            draft.add_fact("patch_refused", {"reason": word.patch_refused})
        if word.artifacts_refused:
            draft.add_fact("artifacts_refused", {"reason": word.artifacts_refused})
        if word.answer_refused:
            draft.add_fact("answer_refused", {"reason": word.answer_refused})

    def _write_state(self, step: Step, word: Word, draft: Draft) -> None:
        result = result_from(word.result.outcome) if word.result else None
        code, reason = word.code, word.reason
        if result is not None:
            code, reason = result.code, result.error
        parts = (word.refused, word.patch_refused, word.artifacts_refused)
        if not_taken := "; ".join(filter(None, parts)):
            code, reason = code or RemoteProtocolError.code, not_taken
        elif word.answer_refused:
            code, reason = code or AnswerInvalid.code, word.answer_refused
        witness = f"worker: {result.witness}" if result else WITNESS["caller", step.next]
        draft.add_state(step.next, witness, code, reason)
        draft.mark_retry(word.retry_after_s, self._parts.clock.now())

    def _send(self, send: Send, word: Word, draft: Draft, *, waited: bool) -> None:
        record = draft.record
        link = self._link(record) if record else None
        if record is None or link is None:
            return
        message: Message
        match send:
            case Send.SUBMIT:
                message = submit(record.spec, waited=waited)
            case Send.SUBSCRIBE:
                message = Subscribe(task_id=self.task_id, after_seq=draft.last_event)
            case Send.CANCEL_USER:
                message = _cancel(record, "user")
            case Send.CANCEL_EXPIRED:
                message = _cancel(record, "expired")
            case Send.WANTED:
                message = Wanted(task_id=self.task_id)
            case Send.RESULT_ACK:
                message = ResultAck(task_id=self.task_id, signature=draft.caller_signature)
            case _:
                return
        link.post(message)
        if send is Send.RESULT_ACK:
            # After it, so that the head vouches for the end that was just committed.
            link.post(signed_head(self._parts.store, self._parts.key, self._parts.self_id()))


@dataclass(slots=True)
class _Budget:
    """What a worker may still tell of one task.

    Attributes:
        bytes: kept so far in this life of the daemon.
        dropped_through: number of the last event that was dropped; 0 = none.
        gaps: told in so far.
    """

    bytes: int = 0
    dropped_through: int = 0
    gaps: int = 0

    def keeps(self, event: Event, draft: Draft) -> bool:
        """Say whether an event is kept; one that is not moves the draft's number on.

        Nothing is written for each dropped one: a lying worker must not fill the disk.
        """
        size = len(event.text) + len(str(event.data))
        cut = EVENTS_CUT in draft.facts
        fits = event.seq <= EVENTS_PER_TASK and self.bytes + size <= EVENT_BYTES_PER_TASK
        if fits and not cut:
            self.bytes += size
            return True
        if not cut:
            draft.add_fact(EVENTS_CUT, {"after_seq": draft.last_event})
        draft.last_event = self.dropped_through = event.seq
        return False

    def gap(self) -> None:
        """Count a gap.

        Raises:
            RemoteProtocolError: the worker tells of too many.
        """
        self.gaps += 1
        if self.gaps > GAPS_PER_TASK:
            raise RemoteProtocolError(f"the worker tells of more than {GAPS_PER_TASK} gaps")


def _cancel(record: TaskRecord, reason: Literal["user", "expired"]) -> Cancel:
    return Cancel(task_id=record.task_id, reason=reason, payload_hash=record.payload_hash)
