"""The operations every interface calls, over one `Daemon`.

Finds what is asked for, decides what may be asked of others, waits at most as
long as a call may; shows, never decides, what a task is.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from datetime import timedelta

import uuid_utils
from typing_extensions import override

from cmesh.daemon import overview
from cmesh.daemon.admission import principal
from cmesh.daemon.core import Daemon
from cmesh.daemon.operations import (
    ApproveArguments,
    CancelArguments,
    Context,
    DecisionView,
    DelegateArguments,
    ExplainArguments,
    NoArguments,
    Operations,
    PeersView,
    PeerView,
    ResultArguments,
    ResultView,
    SqlArguments,
    SqlView,
    StatusView,
    TaskArguments,
    TasksArguments,
    TasksView,
    TaskView,
    TrustArguments,
)
from cmesh.daemon.results_text import read_result
from cmesh.daemon.views import event_view, state_of, task_view
from cmesh.errors import (
    ConfigError,
    KeyExpired,
    LocalProtocolError,
    NotCmesh,
    PolicyDenied,
    TaskConflict,
    TaskNotFound,
    TaskRefused,
    VersionMismatch,
)
from cmesh.model import (
    TERMINAL,
    Direction,
    Limits,
    Operation,
    TaskId,
    TaskSpec,
    TaskState,
)
from cmesh.node.whois import Peer
from cmesh.policy.decide import Decision, OutboundRequest, decide_outbound
from cmesh.store.records import DecisionRecord, TaskRecord, TaskSnapshot

__all__ = ["App"]

OUTBOX_LIMIT = timedelta(hours=1)
"""A task that could not be started by then never is."""

CONTACT_LIMIT_S = 4.0
"""How long `delegate` waits for the first attempt to reach a worker."""

AMBIGUOUS_SHOWN = 5
"""How many of the tasks are named that a part of an id stands for."""

DERIVED_KEY = "auto-"
"""Prefix of idempotency keys that an interface derives from a client's request."""

OPEN_STATES = tuple(state for state in TaskState if state not in TERMINAL)
"""What `open` means in a list of tasks."""


class App(Operations):
    """One daemon's operations."""

    def __init__(self, daemon: Daemon, stop: Callable[[], None]) -> None:
        """Serve `daemon`; `stop` asks the process to end."""
        self._daemon = daemon
        self._stop = stop

    @override
    async def status(self, context: Context, arguments: NoArguments) -> StatusView:
        return await overview.status(self._daemon)

    @override
    async def list_peers(self, context: Context, arguments: NoArguments) -> PeersView:
        return await overview.peers(self._daemon)

    @override
    async def trust_peer(self, context: Context, arguments: TrustArguments) -> PeerView:
        peer = await self._daemon.presence.peer(arguments.peer)
        node_id = peer.identity.node_id
        await self._daemon.trust.pin(node_id, by="owner", expected=arguments.fingerprint)
        self._daemon.links.want(node_id, unasked=True)
        return overview.peer_view(self._daemon, peer)

    @override
    async def delegate(self, context: Context, arguments: DelegateArguments) -> TaskView:
        daemon = self._daemon
        peer = await self._worker_named(arguments.peer)
        retried = await self._retried(arguments, peer)
        if retried is not None:
            return await self._waited(retried, arguments.wait_s)
        twin = await self._twin(context, arguments, peer)
        if twin is not None:
            view = await self._waited(twin, arguments.wait_s)
            return view.model_copy(update={"duplicate_of": twin})
        decision = self._decide_outbound(context, arguments, peer)
        record = self._record(context, arguments, peer, decision)
        audit = _decision_record(record, decision, daemon.rules.policy().sha256)
        if decision.effect != "allow":
            await daemon.store.commit([audit])
            raise PolicyDenied(decision.reason, hint=decision.change)
        try:
            await daemon.caller.delegate(record, audit)
        except TaskConflict:
            # Another call with this key came in between: this one is its repetition.
            retried = await self._retried(arguments, peer)
            if retried is None:
                raise
            return await self._waited(retried, arguments.wait_s)
        if daemon.links.get(record.peer_id) is None:
            await daemon.links.attempt(record.peer_id, CONTACT_LIMIT_S)
            await self._give_up_if_hopeless(record)
        return await self._waited(record.task_id, arguments.wait_s)

    @override
    async def get_task(self, context: Context, arguments: TaskArguments) -> TaskView:
        task = await self._task(arguments.task_id)
        task_id = task.record.task_id
        follows = arguments.known_state is not None or arguments.after_event > 0
        known = arguments.known_state or self._state(task)

        def has_news(now: TaskSnapshot) -> bool:
            if self._state(now) != known or now.terminal:
                return True
            return follows and now.last_event > arguments.after_event

        task = await self._until(task_id, has_news, arguments.wait_s)
        if follows:
            events = await self._daemon.store.events(
                task_id, after=arguments.after_event, limit=arguments.events
            )
        else:
            events = await self._daemon.store.last_events(task_id, arguments.events)
        return self._view(task).model_copy(
            update={"events": [event_view(event) for event in events]}
        )

    @override
    async def list_tasks(self, context: Context, arguments: TasksArguments) -> TasksView:
        states: tuple[TaskState, ...] | None = None
        if arguments.state == "open":
            states = OPEN_STATES
        elif arguments.state != "any":
            states = (arguments.state,)
        found = await self._daemon.store.tasks(
            direction=None if arguments.direction == "any" else arguments.direction,
            states=states,
            session=context.session if arguments.mine else None,
            limit=arguments.limit + 1,
        )
        views = [self._view(task) for task in found[: arguments.limit]]
        return TasksView(tasks=views, more=len(found) > arguments.limit)

    @override
    async def get_result(self, context: Context, arguments: ResultArguments) -> ResultView:
        return await read_result(self._daemon.store, await self._task(arguments.task_id), arguments)

    @override
    async def cancel_task(self, context: Context, arguments: CancelArguments) -> TaskView:
        task = await self._task(arguments.task_id)
        if task.terminal:
            return self._view(task)
        reason = arguments.reason or "cancelled by this machine's owner"
        if task.record.direction is Direction.OUT:
            await self._daemon.caller.cancel(task, reason)
        else:
            await self._daemon.worker.cancel(task, reason)
        return self._view(await self._task(task.record.task_id))

    @override
    async def approve_task(self, context: Context, arguments: ApproveArguments) -> TaskView:
        task = await self._task(arguments.task_id)
        if state_of(task) is not TaskState.WAITING_APPROVAL or (
            task.record.direction is not Direction.IN
        ):
            raise TaskRefused("the task does not wait for approval here", hint="run `cmesh tasks`")
        approved = arguments.approve
        try:
            await self._daemon.worker.approve(task, yes=approved, reason=arguments.reason)
        except LocalProtocolError as error:
            raise TaskRefused("the task does not wait for approval any more") from error
        # Its caller is asked whether it still wants it, so it is called if it is away.
        self._daemon.links.want(task.record.peer_id)
        return self._view(await self._task(task.record.task_id))

    @override
    async def sql(self, context: Context, arguments: SqlArguments) -> SqlView:
        rows = await self._daemon.store.sql(
            arguments.sql, tuple(arguments.parameters), arguments.limit
        )
        return SqlView(
            columns=list(rows.columns),
            types=list(rows.types),
            rows=rows.rows,
            truncated=rows.truncated,
            elapsed_ms=rows.elapsed_ms,
            head_seq=rows.head_seq,
        )

    @override
    async def explain(self, context: Context, arguments: ExplainArguments) -> DecisionView:
        return await overview.explain(self._daemon, arguments, context.project)

    @override
    async def login(self, context: Context, arguments: NoArguments) -> StatusView:
        if not self._daemon.configured:
            file = self._daemon.settings.config_file
            raise ConfigError(f"there is no configuration at `{file}`", hint="run `cmesh up`")
        await self._daemon.presence.login()
        return await overview.status(self._daemon)

    @override
    async def down(self, context: Context, arguments: NoArguments) -> StatusView:
        view = await overview.status(self._daemon)
        self._stop()
        return view

    async def _worker_named(self, name: str) -> Peer:
        peer = await self._daemon.presence.peer(name)
        self._daemon.trust.require_same(peer.identity)
        if peer.identity.expired:
            label = peer.identity.name.partition(".")[0]
            raise KeyExpired(
                f"the node key of `{label}` has expired",
                hint="run `cmesh login` on that machine",
            )
        return peer

    async def _retried(self, arguments: DelegateArguments, peer: Peer) -> TaskId | None:
        """Return the task that a call with the same idempotency key asked for.

        Raises:
            TaskConflict: the key belongs to a task of another content.
        """
        store, key = self._daemon.store, arguments.idempotency_key
        task_id = await store.idempotent(key) if key else None
        known = await store.task(task_id) if task_id else None
        if known is None:
            return None
        if not _same(known.record, arguments, peer):
            raise TaskConflict(f"idempotency key `{key}` belongs to another task")
        return known.record.task_id

    async def _twin(
        self, context: Context, arguments: DelegateArguments, peer: Peer
    ) -> TaskId | None:
        """Return an unfinished task of the same session that asks for the same."""
        # A key that a client made is its word that this is a task of its own; one derived
        # from a request only tells that request's retries apart.
        own_key = arguments.idempotency_key and not arguments.idempotency_key.startswith(
            DERIVED_KEY
        )
        if arguments.new or own_key:
            return None
        for task in await self._daemon.store.unfinished():
            record = task.record
            mine = record.direction is Direction.OUT and record.session == context.session
            if mine and not task.terminal and _same(record, arguments, peer):
                return record.task_id
        return None

    def _decide_outbound(
        self, context: Context, arguments: DelegateArguments, peer: Peer
    ) -> Decision:
        request = OutboundRequest(
            identity=peer.identity,
            profile=arguments.profile,
            runner=arguments.runner,
            project=os.path.realpath(context.project) if context.project else "",
            prompt_bytes=len(arguments.prompt.encode()),
            sends_changes=False,
            chain=(),
            self_id=self._daemon.self_id(),
        )
        return decide_outbound(request, self._daemon.rules.policy())

    def _record(
        self, context: Context, arguments: DelegateArguments, peer: Peer, decision: Decision
    ) -> TaskRecord:
        task_id = TaskId(str(uuid_utils.uuid7()))
        spec = TaskSpec(
            task_id=task_id,
            runner=arguments.runner,
            profile=arguments.profile,
            directory=arguments.directory,
            prompt=arguments.prompt,
            limits=Limits(runtime_s=arguments.timeout_s),
            accept=tuple(arguments.accept),
            not_after=self._daemon.settings.clock.now() + OUTBOX_LIMIT,
        )
        return TaskRecord(
            task_id=task_id,
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
            rule=decision.rule,
        )

    async def _give_up_if_hopeless(self, record: TaskRecord) -> None:
        """End a task that was never sent when waiting cannot help; say why."""
        error = self._daemon.links.contact(record.peer_id).error
        if not isinstance(error, (NotCmesh, VersionMismatch)):
            return
        task = await self._daemon.store.task(record.task_id)
        if task is not None and not task.terminal:
            await self._daemon.caller.cancel(task, error.message)
        raise error

    async def _waited(self, task_id: TaskId, wait_s: float) -> TaskView:
        task = await self._until(task_id, lambda now: now.terminal, wait_s)
        return self._view(task)

    async def _until(
        self, task_id: TaskId, done: Callable[[TaskSnapshot], bool], wait_s: float
    ) -> TaskSnapshot:
        """Return the task once `done` says so, or as it is after `wait_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:
                    changed = self._daemon.news.next(task_id)
                    try:
                        task = await self._task(task_id)
                        if done(task):
                            return task
                        await changed
                    finally:
                        changed.cancel()
        return await self._task(task_id)

    async def _task(self, reference: str) -> TaskSnapshot:
        """Find a task by its id, or an unambiguous start or end of it.

        Raises:
            TaskNotFound: none, or more than one.
        """
        found = await self._daemon.store.find_by_prefix(reference)
        if len(found) > 1:
            ids = ", ".join(found[:AMBIGUOUS_SHOWN])
            raise TaskNotFound(
                f"`{reference}` stands for {len(found)} tasks: {ids}",
                hint="give more of the id; its end differs most",
            )
        task = await self._daemon.store.task(found[0]) if found else None
        if task is None:
            raise TaskNotFound(f"no task `{reference}` is known here")
        return task

    def _state(self, task: TaskSnapshot) -> TaskState:
        elsewhere = self._daemon.caller.elsewhere(task.record.task_id)
        return state_of(task, elsewhere=elsewhere)

    def _view(self, task: TaskSnapshot) -> TaskView:
        now = self._daemon.settings.clock.now()
        return task_view(task, now=now, knowledge=overview.knowledge(self._daemon, task))


def _same(record: TaskRecord, arguments: DelegateArguments, peer: Peer) -> bool:
    spec = record.spec
    return (
        record.peer_id == peer.identity.node_id
        and spec.prompt == arguments.prompt
        and spec.directory == arguments.directory
        and spec.runner == arguments.runner
        and spec.profile == arguments.profile
        and spec.accept == tuple(arguments.accept)
    )


def _decision_record(record: TaskRecord, decision: Decision, policy_sha256: str) -> DecisionRecord:
    return DecisionRecord(
        task_id=record.task_id if decision.effect == "allow" else None,
        direction=Direction.OUT,
        peer_id=record.peer_id,
        peer=record.peer,
        principal=record.principal,
        operation=Operation.TASK.value,
        effect=decision.effect,
        rule=decision.rule,
        reason=decision.reason,
        failed=tuple(overview.failed_fields(decision)),
        policy_sha256=policy_sha256,
    )
