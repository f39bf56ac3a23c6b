"""Asking peers for tasks: the peer named, repetitions found, outbound policy decided, sent.

Waits at most as long as a call may; what becomes of a task is `Caller`.
"""

import asyncio
import os
from dataclasses import replace
from typing import Literal

import uuid_utils

from cmesh.daemon import reply
from cmesh.daemon.admission import principal
from cmesh.daemon.advice import needed_there
from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import Context, DelegateArguments, ReplyArguments
from cmesh.daemon.asked import decision_record, same_as, start_within
from cmesh.daemon.carry import Carried, carried_by
from cmesh.daemon.chains import PARENT_ENDED, Parent, Turn, handed_on, told_to_a_task
from cmesh.daemon.choosing import Candidate, candidates, chosen_one
from cmesh.daemon.core import Daemon
from cmesh.daemon.followup import require_possible, standing
from cmesh.daemon.lookup import Lookup
from cmesh.errors import (
    CmeshError,
    KeyExpired,
    NotCmesh,
    PeerOutdated,
    PeerUnreachable,
    PeerUntrusted,
    PolicyDenied,
    TaskConflict,
    TaskRefused,
    UsageError,
    VersionMismatch,
)
from cmesh.model import Direction, Limits, NodeId, TaskId, TaskSpec, host_label
from cmesh.node.whois import Peer
from cmesh.policy.chain import narrowed
from cmesh.policy.decide import OutboundRequest, decide_outbound
from cmesh.protocol.answer import schema_text
from cmesh.protocol.facts import QUEUED
from cmesh.protocol.features import outdated
from cmesh.protocol.trace import header, of_group
from cmesh.protocol.where import parse
from cmesh.runner.artifacts import check_globs
from cmesh.store.records import Selection, TaskRecord

__all__ = ["CONTACT_LIMIT_S", "Asking"]

CONTACT_LIMIT_S = 8.0
"""How long `delegate` waits for the first attempt to reach a worker."""

DERIVED_KEY = "auto-"
"""Prefix of idempotency keys that an interface derives from a client's request."""


class Asking:
    """What local callers ask of other machines."""

    def __init__(self, daemon: Daemon, lookup: Lookup) -> None:
        self._daemon = daemon
        self._lookup = lookup
        self._replying = asyncio.Lock()

    async def delegate(
        self, context: Context, arguments: DelegateArguments, turn: Turn | None = None
    ) -> TaskView:
        """Ask a peer for a task, once; what this call repeats is shown instead.

        `turn` is of the task that asks; None = a person or an agent of this machine does.
        """
        prompt, hits = self._redacted(arguments)
        clean = arguments.model_copy(update={"prompt": prompt})
        view = await self._delegate(context, clean, turn)
        return view.model_copy(update={"prompt_redacted": hits}) if hits else view

    async def reply(self, context: Context, arguments: ReplyArguments) -> TaskView:
        """Ask for the next turn of a task, once."""
        prompt, hits = self._redacted(arguments)
        view = await self._reply(context, arguments.model_copy(update={"prompt": prompt}))
        return view.model_copy(update={"prompt_redacted": hits}) if hits else view

    def _redacted(self, arguments: DelegateArguments | ReplyArguments) -> tuple[str, int]:
        """Return a call's prompt without secrets, and how many it had.

        Raises:
            UsageError: the schema of the answer holds one: without it, it would be another schema.
        """
        redactor = self._daemon.secrets.redactor()
        if redactor.data(arguments.answer_schema)[1]:
            raise UsageError("the answer's schema holds what looks like a secret")
        return redactor.text(arguments.prompt)

    async def _delegate(
        self, context: Context, arguments: DelegateArguments, turn: Turn | None
    ) -> TaskView:
        until = self._now() + arguments.wait_s
        await self._daemon.presence.rising()
        named = await self._named(arguments)
        retried = await self._retried(arguments, named)
        if retried is not None:
            return await self._waited(context, retried, until)
        redactor = self._daemon.secrets.redactor()
        carried = await carried_by(
            self._daemon.store, redactor, context, arguments, own=turn is not None
        )
        twin = await self.twin(context, arguments, named, carried)
        if twin is not None:
            view = await self._waited(context, twin, until)
            return view.model_copy(update={"duplicate_of": twin})
        selection, peer = None, named
        if peer is None:
            found, asked = await self.judged(context, arguments)
            choice = chosen_one(found, asked, queue=arguments.if_offline == "queue")
            peer = choice.taken[0].peer
            selection = Selection(where=tuple(arguments.where), chosen=choice.words)
        try:
            if turn is None:
                spec = self._spec(arguments, trace=context.traceparent)
                spec = replace(spec, changes=carried.changes if carried else None)
                record = self._record(context, spec, peer, arguments)
                record = replace(record, selection=selection)
                # All of the repository's changes go out, so policy is asked about its top.
                asks = context.model_copy(update={"project": carried.root}) if carried else context
                await self._commit(asks, record, peer)
            else:
                # INVARIANT: a call that is cut off leaves no orphan, and ends no turn early.
                handing_on = self._hand_on(context, arguments, peer, turn)
                record = await asyncio.shield(asyncio.create_task(handing_on))
        except TaskConflict:
            # Another call with this key came in between: this one is its repetition.
            retried = await self._retried(arguments, named)
            if retried is None:
                raise
            return await self._waited(context, retried, until)
        return await self._sent(context, record, until, queue=arguments.if_offline == "queue")

    async def _reply(self, context: Context, arguments: ReplyArguments) -> TaskView:
        until = self._now() + arguments.wait_s
        await self._daemon.presence.rising()
        async with self._replying:  # of two replies to one task, one is the next turn
            record, how = await self._replied(context, arguments)
        if how == "new":
            return await self._sent(context, record, until, queue=arguments.if_offline == "queue")
        view = await self._waited(context, record.task_id, until)
        return view.model_copy(update={"duplicate_of": record.task_id}) if how == "twin" else view

    async def _named(self, arguments: DelegateArguments) -> Peer | None:
        """Return the peer that a call names; None = it is to be chosen."""
        if bool(arguments.peer) == bool(arguments.where):
            raise UsageError(
                "name a peer, or say what it must be like; not both",
                hint="`peer`, or `where` such as `os=linux`, `docker`, `memory>=16G`",
            )
        return await self._worker_named(arguments.peer) if arguments.peer else None

    async def judged(
        self, context: Context, arguments: DelegateArguments
    ) -> tuple[tuple[Candidate, ...], str]:
        """Judge the known peers by what a call asks of their machines; return that in words too.

        Raises:
            UsageError: a condition has no such form.
        """
        terms = [parse(text) for text in arguments.where]
        spec = self._spec(arguments)

        def allowed(peer: Peer) -> str:
            request = self._outbound_request(context, spec, peer)
            decision = decide_outbound(request, self._daemon.rules.policy())
            if decision.effect != "allow":
                return "this machine's policy does not allow it"
            return self._outdated(peer.identity.node_id, peer.identity.name, spec)

        found = await candidates(self._daemon, terms, spec, allowed)
        return found, ", ".join(f"`{term.text}`" for term in terms)

    async def twin(
        self,
        context: Context,
        arguments: DelegateArguments,
        peer: Peer | None,
        carried: Carried | None = None,
    ) -> TaskId | None:
        """Return a task of the session that this call repeats: unfinished, or its end untold."""
        # A key that a client made is its word that this is a task of its own; one derived
        # from a request only tells that request's retries apart.
        own_key = arguments.idempotency_key and not arguments.idempotency_key.startswith(
            DERIVED_KEY
        )
        if arguments.new or own_key:
            return None
        now = self._daemon.settings.clock.now()
        changes = carried.changes if carried else None
        return await self._daemon.twins.find(
            context.session,
            arguments.prompt,
            lambda record: same_as(record, arguments, peer) and record.spec.changes == changes,
            now,
        )

    async def refusal(
        self, context: Context, arguments: DelegateArguments, peer: Peer
    ) -> CmeshError | None:
        """Say why this node does not ask a peer, and write it down; None = it does."""
        record = self._record(context, self._spec(arguments), peer, arguments)
        request = self._outbound_request(context, record.spec, peer)
        try:
            self._require_usable(peer)
            if decide_outbound(request, self._daemon.rules.policy()).effect != "allow":
                await self._commit(context, record, peer)
        except CmeshError as error:
            return error
        return None

    async def begin(
        self, context: Context, arguments: DelegateArguments, peer: Peer, selection: Selection
    ) -> TaskRecord:
        """Commit a task of a group; what its key was used for before is returned instead.

        Raises:
            PolicyDenied, ConfigError, TaskConflict, DiskFull: as `delegate`.
        """
        known = await self._retried(arguments, peer)
        if known is not None:
            return (await self._lookup.task(known)).record
        spec = self._spec(arguments, trace=context.traceparent or of_group(selection.group))
        record = replace(self._record(context, spec, peer, arguments), selection=selection)
        await self._commit(context, record, peer)
        return record

    async def send(self, record: TaskRecord, *, queue: bool) -> None:
        """Reach the worker of a committed task, as far as that goes at once.

        Raises:
            CmeshError: it is away and the task is not kept for it: it has ended, and never ran.
        """
        daemon = self._daemon
        daemon.twins.asked(record)
        if daemon.links.get(record.peer_id) is None:
            await daemon.links.attempt(record.peer_id, CONTACT_LIMIT_S)
            if why := self._outdated(record.peer_id, record.peer, record.spec):
                task = await daemon.store.task(record.task_id)
                if task is not None and not task.terminal:
                    await daemon.caller.cancel(task, why, PeerOutdated.code)
                raise PeerOutdated(why)
            await self._give_up_if_away(record, queue=queue)

    async def _worker_named(self, name: str) -> Peer:
        peer = await self._daemon.presence.peer(name)
        self._require_usable(peer)
        return peer

    def _require_usable(self, peer: Peer) -> None:
        self._daemon.trust.require_same(peer.identity)
        if peer.identity.expired:
            label = peer.identity.label
            raise KeyExpired(
                f"the node key of `{label}` has expired",
                hint="run `cmesh login` on that machine",
            )

    async def _retried(self, arguments: DelegateArguments, peer: Peer | None) -> TaskId | None:
        """Return the task that a call with the same idempotency key asked for.

        Raises:
            TaskConflict: the key belongs to a task of another content.
        """
        known = await self._daemon.twins.retried(
            arguments.idempotency_key, lambda record: same_as(record, arguments, peer)
        )
        return known.task_id if known else None

    async def _replied(
        self, context: Context, arguments: ReplyArguments
    ) -> tuple[TaskRecord, Literal["new", "retried", "twin"]]:
        """Return the turn a reply asks for, committed; or the one it has asked for before."""
        store, now = self._daemon.store, self._daemon.settings.clock.now()
        before = await self._lookup.task(arguments.task_id)
        known = await self._daemon.twins.retried(
            arguments.idempotency_key, lambda record: reply.same(record, arguments, before)
        )
        if known is not None:
            return known, "retried"
        follow_up = await standing(store, before, now)
        known = await reply.twin(store, context, arguments, follow_up)
        if known is not None and not self._daemon.twins.knows(known.task_id):
            return known, "twin"
        require_possible(before, follow_up)
        peer = await self._worker_named(before.record.peer_id)
        spec = reply.next_spec(before.record.spec, arguments, now + start_within(arguments))
        spec = replace(spec, traceparent=header(spec.task_id, within=context.traceparent))
        record = self._record(context, spec, peer, arguments)
        record = replace(record, thread=before.record.first, turn=before.record.turn + 1)
        await self._commit(context, record, peer)
        return record, "new"

    async def _commit(
        self, context: Context, record: TaskRecord, peer: Peer, parent: Parent | None = None
    ) -> None:
        """Decide outbound and commit, the task or the refusal.

        Raises:
            PolicyDenied: no rule allows it.
            PeerOutdated: the worker is known not to take what it asks for.
            ConfigError: no rule is in force, because the file cannot be used.
            TaskConflict: its idempotency key was used meanwhile.
        """
        daemon, policy = self._daemon, self._daemon.rules.policy()
        if why := self._outdated(record.peer_id, record.peer, record.spec):
            raise PeerOutdated(why)
        request = self._outbound_request(context, record.spec, peer)
        if parent is not None:
            request = replace(request, held=parent.held)
        decision = daemon.rules.honest(decide_outbound(request, policy))
        record = replace(record, rule=decision.rule)
        audit = decision_record(record, decision, policy.sha256)
        if parent is not None:
            await daemon.store.commit([handed_on(parent, record, decision)])
        if decision.effect != "allow":
            await daemon.store.commit([audit])
            daemon.rules.require_in_force()
            if parent is not None:  # it learns no rule of this machine, and nothing to change one
                raise PolicyDenied(
                    told_to_a_task(decision), hint="report it; do not work around it"
                )
            change = decision.change
            name, may = host_label(record.peer), daemon.links.contact(record.peer_id).may
            there = needed_there(name, may, record.spec)
            # A comment, so that the lines before it and it can be pasted as they are.
            raise PolicyDenied(decision.reason, hint=f"{change}\n# {there}" if there else change)
        await daemon.caller.delegate(record, audit)

    def _outdated(self, peer_id: NodeId, name: str, spec: TaskSpec) -> str:
        """Say what of a task the worker does not take, as the open link tells; empty = nothing."""
        link = self._daemon.links.get(peer_id)
        return "" if link is None else outdated(spec, host_label(name), link.opened)

    async def _hand_on(
        self, context: Context, arguments: DelegateArguments, peer: Peer, turn: Turn
    ) -> TaskRecord:
        """Commit what a task asks for; end it at once if that task has ended meanwhile."""
        async with turn() as parent:
            context = context.model_copy(update={"project": parent.directory})
            record = self._record(context, self._spec(arguments, parent), peer, arguments)
            await self._commit(context, record, peer, parent)
        task = await self._daemon.store.task(record.task_id)
        if task is not None and not parent.open():
            await self._daemon.caller.cancel(task, PARENT_ENDED)
            raise TaskRefused(PARENT_ENDED, hint="")
        return record

    async def _sent(
        self, context: Context, record: TaskRecord, until: float, *, queue: bool
    ) -> TaskView:
        """Reach the worker of a committed task, as far as that goes at once; then wait."""
        await self.send(record, queue=queue)
        return await self._waited(context, record.task_id, until)

    def _now(self) -> float:
        return self._daemon.settings.clock.monotonic()

    async def _waited(self, context: Context, task_id: TaskId, until: float) -> TaskView:
        """Show a task at its end, or as it is at `until` on the monotonic clock."""
        return await self._lookup.waited(context, task_id, max(0, until - self._now()))

    def _outbound_request(self, context: Context, spec: TaskSpec, peer: Peer) -> OutboundRequest:
        return OutboundRequest(
            identity=peer.identity,
            profile=spec.profile,
            runner=spec.runner,
            project=os.path.realpath(context.project) if context.project else "",
            prompt_bytes=len(spec.prompt.encode()) + len(spec.answer_schema.encode()),
            sends_changes=spec.changes is not None,
            chain=spec.origin,
            self_id=self._daemon.self_id(),
        )

    def _spec(
        self, arguments: DelegateArguments, parent: Parent | None = None, *, trace: str = ""
    ) -> TaskSpec:
        """Return what a call asks for; `trace` is a header or an id, its parent's goes before it.

        Raises:
            UsageError: a glob does not lead down, or the answer's schema is not taken.
        """
        check_globs(arguments.artifacts)
        wished = Limits(
            runtime_s=arguments.timeout_s,
            cost_usd=arguments.cost_usd or None,
            turns=arguments.turns or None,
            tokens=arguments.tokens or None,
        )
        limits = narrowed(wished, parent.held if parent is not None else None)
        task_id = TaskId(str(uuid_utils.uuid7()))
        return TaskSpec(
            task_id=task_id,
            runner=arguments.runner,
            profile=arguments.profile,
            directory=arguments.directory,
            prompt=arguments.prompt,
            limits=limits,
            base="" if arguments.base == "head" else arguments.base,
            accept=tuple(arguments.accept),
            artifacts=tuple(arguments.artifacts),
            answer_schema=schema_text(arguments.answer_schema),
            origin=parent.chain if parent is not None else (),
            not_after=self._daemon.settings.clock.now() + start_within(arguments),
            traceparent=header(task_id, within=parent.trace if parent is not None else trace),
        )

    def _record(
        self,
        context: Context,
        spec: TaskSpec,
        peer: Peer,
        arguments: DelegateArguments | ReplyArguments,
    ) -> TaskRecord:
        return TaskRecord(
            task_id=spec.task_id,
            direction=Direction.OUT,
            peer_id=peer.identity.node_id,
            peer=peer.identity.name,
            principal=principal(peer.identity),
            session=context.session,
            project=context.project,
            idempotency_key=arguments.idempotency_key,
            spec=spec,
            payload_hash=spec.payload_hash(),
            worker_incarnation="",
            rule=None,
        )

    async def _give_up_if_away(self, record: TaskRecord, *, queue: bool) -> None:
        """End a task that was never sent when its worker is away; say why.

        With `queue` it is kept, unless waiting cannot help. A worker that is there, and whose
        owner must trust this node first, is not away; one that has been a worker before, and
        runs no daemon now, is.

        Raises:
            CmeshError: why there is no link. Nothing ran, and nothing will.
        """
        daemon, peer_id = self._daemon, record.peer_id
        error = daemon.links.contact(peer_id).error
        never = isinstance(error, NotCmesh) and not daemon.trust.fingerprint(peer_id)
        hopeless = never or isinstance(error, VersionMismatch)
        waits = isinstance(error, PeerUntrusted) or (queue and not hopeless)
        if waits or daemon.links.get(peer_id) is not None:
            return
        if error is None:
            name = host_label(record.peer)
            error = PeerUnreachable(f"`{name}` did not answer within {CONTACT_LIMIT_S:g} s")
        task = await daemon.store.task(record.task_id)
        if task is None or task.state != QUEUED:
            return
        await daemon.caller.cancel(task, error.message, error.code)
        task = await daemon.store.task(record.task_id)
        # A link that came in between has sent it: then the worker has the word on it.
        if task is not None and task.terminal:
            raise error
