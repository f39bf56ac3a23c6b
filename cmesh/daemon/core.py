"""The daemon: joins store, node, links, policy and tasks, and keeps them going.

The only place where the parts meet. What it can do for local callers is
`cmesh.daemon.app`.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from cmesh import __version__
from cmesh.config import Config
from cmesh.daemon.actor import News
from cmesh.daemon.background import Background, guarded
from cmesh.daemon.caller import Caller
from cmesh.daemon.chains import end_orphans
from cmesh.daemon.changes import Changes
from cmesh.daemon.heads import Heads
from cmesh.daemon.links import Links
from cmesh.daemon.logins import Logins
from cmesh.daemon.machines import Machines
from cmesh.daemon.networks import Networks
from cmesh.daemon.node_id import read_node_id, write_node_id
from cmesh.daemon.pairings import Pairings
from cmesh.daemon.parts import Parts
from cmesh.daemon.presence import Presence
from cmesh.daemon.proofs import Proofs
from cmesh.daemon.release import Release
from cmesh.daemon.retention import Retention
from cmesh.daemon.rules import Rules
from cmesh.daemon.secrets import Secrets
from cmesh.daemon.selftests import SelfTests
from cmesh.daemon.settings import Settings
from cmesh.daemon.spans import Span, of_ended
from cmesh.daemon.summaries import of_task
from cmesh.daemon.survey import Survey
from cmesh.daemon.trust import Trust
from cmesh.daemon.twins import Twins
from cmesh.daemon.upkeep import Upkeep
from cmesh.daemon.wake import Wake
from cmesh.daemon.worker import Worker
from cmesh.errors import LinkError, StoreError
from cmesh.keys import SigningKey
from cmesh.link.link import Link
from cmesh.link.tailnet import RESTART, Wire
from cmesh.model import Identity, NodeId, TaskId
from cmesh.paths import ensure_private_dir
from cmesh.platform.users import is_superuser
from cmesh.policy.decide import may
from cmesh.protocol.codec import Chunk
from cmesh.protocol.link_messages import Failure, Grants, May
from cmesh.protocol.messages import Message
from cmesh.protocol.session_events import Introduced
from cmesh.runner.confine import Sandboxes
from cmesh.runner.registry import Runners
from cmesh.runner.sessions import Sessions
from cmesh.runner.supervise import Supervisor
from cmesh.runner.verdicts import Verdicts
from cmesh.store.records import AuditRecord, TaskSnapshot
from cmesh.store.signatures import NODE_UP
from cmesh.store.store import Store

__all__ = [
    "Daemon",
]

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
CALL_BACK_AFTER_S = 10.0  # a worker waits so long for the caller to come by itself


class Daemon:
    """Everything of one node; made with `open`, ended with `close`.

    Attributes:
        trace: takes each span of a trace, and does not raise; None = nobody collects any.
    """

    def __init__(self, settings: Settings, rules: Rules, store: Store) -> None:
        self._loop = asyncio.get_running_loop()
        self.settings = settings
        self.rules = rules
        self.store = store
        self.started_at: datetime = settings.clock.now()
        self.changes = Changes()
        self.news: News[TaskId] = News(self.changes.tell)
        self.twins = Twins(store, self.started_at)
        self.secrets = Secrets(rules.config, settings.environment, settings.state_dir)
        self.retention = Retention(store, lambda: rules.config().store, settings.clock)
        self.wake = Wake(lambda: rules.config().wake, settings.environment, self.twins.knows)
        self.key = SigningKey.load_or_make(settings.state_dir / "key")
        self.trust = Trust(store, self.changes.tell)
        self.verdicts = Verdicts(settings.state_dir / "selftests.json")
        self.runners = self._make_runners(rules.config())
        tasks_dir = settings.state_dir / "tasks"
        self.supervisor = Supervisor(tasks_dir, on_change=self._shim_news)
        self.sandboxes = Sandboxes((settings.state_dir, settings.config_file.parent))
        self.logins = Logins(settings.state_dir, settings.clock, self._audit)
        self.networks = Networks(store, tasks_dir, settings.clock, self.logins.bearer)
        self.self_tests = SelfTests(
            place=settings.state_dir / "selftest",
            verdicts=self.verdicts,
            runners=lambda: self.runners,
            config=rules.config,
            sandboxes=self.sandboxes,
            clock=settings.clock,
            audit=self._audit,
        )
        self.machines = Machines(settings.state_dir / "machines.json", settings.clock)
        self.survey = Survey(
            runners=lambda: self.runners,
            config=rules.config,
            clock=settings.clock,
            changed=self._tell_machine,
        )
        self.presence = Presence(
            rules.config().node,
            settings.state_dir,
            on_peers=self._peers_changed,
            on_up=self._node_up,
            on_phase=self.changes.tell,
        )
        self.heads = Heads(store, self.key, self.self_id)
        self.links = Links(
            self.presence,
            self,
            key=self.key,
            incarnation=lambda: store.incarnation,
            seen=self.heads.seen,
            clock=settings.clock,
        )
        self.pairings = Pairings(
            presence=self.presence,
            links=self.links,
            trust=self.trust,
            key=self.key,
            store=store,
            clock=settings.clock,
        )
        self.trace: Callable[[Span], None] | None = None
        self.parts = parts = self._parts(tasks_dir)
        store.on_end(self._ended)
        self.worker = Worker(parts)
        self.release = Release(parts)
        self.caller = Caller(parts, self.links.get)
        self.proofs = Proofs(parts, self.heads.now)
        self._node_id = read_node_id(settings.state_dir)
        self._background = Background()
        self._known_as: tuple[NodeId, str] | None = None
        self._upkeep = Upkeep(
            rules=rules,
            presence=self.presence,
            links=self.links,
            trust=self.trust,
            worker=self.worker,
            caller=self.caller,
            clock=settings.clock,
            identify=self.presence.identify,
            may=self.may,
            peers_changed=self._peers_changed,
            end_orphans=self._end_orphans,
        )

    @classmethod
    async def open(
        cls, settings: Settings, *, opened: Callable[[], None] = lambda: None
    ) -> "Daemon":
        """Open the state directory and take up what an earlier life left.

        A configured node comes up in the background. `opened` is called when the store is
        open and migrated, before anything is taken up.

        Raises:
            ConfigError: the configuration cannot be used.
            StoreError: the store is in use, damaged or too new, or the disk refuses.
            NodeError: the node cannot start.
        """
        try:
            return await cls._open(settings, opened)
        except OSError as error:  # a read-only or failing disk, at the first file that meets it
            where = f": `{error.filename}`" if error.filename else ""
            raise StoreError(
                f"the state directory cannot be used: {error.strerror or error}{where}",
                hint=f"`{settings.state_dir}` must be a directory this user can write to",
            ) from error

    @classmethod
    async def _open(cls, settings: Settings, opened: Callable[[], None]) -> "Daemon":
        ensure_private_dir(settings.state_dir)
        rules = Rules(settings.config_file)
        config = rules.config()
        store = await Store.open(
            settings.state_dir / "store",
            clock=settings.clock,
            node=config.node.hostname,
            store_prompts=config.store.store_prompts,
            floor_bytes=config.store.disk_floor_mib * MIB,
        )
        try:
            daemon = cls(settings, rules, store)
            rules.on_change = daemon._config_changed
            opened()
            await daemon._start(config)
        except BaseException:
            await store.close()
            raise
        return daemon

    async def close(self, *, restarting: bool = False) -> None:
        """Stop accepting, finish what is being committed, leave; tasks run on under shims."""
        # INVARIANT: nothing new is begun from here on. A node that goes away looks like peers
        # that left, and a task must not be ended because its worker's daemon was.
        await self._background.close()
        kind = "daemon_restarting" if restarting else "daemon_stopped"
        async with contextlib.AsyncExitStack() as stack:  # each part, whatever befalls another
            stack.push_async_callback(self.store.close)
            stack.push_async_callback(guarded, self._audit(_stopped(kind)))
            stack.push_async_callback(self.presence.close)
            stack.push_async_callback(self.pairings.close)
            stack.push_async_callback(self.supervisor.close)
            stack.push_async_callback(self.self_tests.close)
            stack.push_async_callback(self.machines.close)
            stack.push_async_callback(self.wake.close)
            stack.push_async_callback(self.logins.close)
            stack.push_async_callback(self.networks.close)
            stack.push_async_callback(self.worker.close)
            stack.push_async_callback(self.caller.close)
            await self.worker.drain()
            await self.proofs.close()
            await self.links.close(restarting=restarting)

    @property
    def background(self) -> Background:
        """What runs beside what is asked for, and ends with the daemon."""
        return self._background

    @property
    def configured(self) -> bool:
        """There is a configuration; without one no node starts."""
        return self.rules.config().configured

    def self_id(self) -> NodeId:
        """Return this node's stable id, also before it is up again; empty when never up."""
        return self.presence.node_id or self._node_id

    async def greet(self, identity: Identity, introduced: Introduced) -> tuple[May, Sequence[str]]:
        """Decide on a proven key, and say what the peer may ask here."""
        if introduced.seen is not None and await self.heads.check(identity, introduced.seen):
            # Every peer must hear of it before it says anything of a task.
            self._background.spawn(self._drop_links())
            await self.worker.restored()
            raise LinkError("this node's store was restored from a backup; connect again")
        # Who was asked by this machine's own owner is pinned at its first contact; who
        # comes by itself waits for the owner's look.
        asked = self.caller.owes(identity.node_id)
        await self.trust.check(identity, introduced.key, first_contact=asked)
        await self.sandboxes.find()  # what may be asked depends on it
        return self.may(identity), await self.worker.unacknowledged(identity.node_id)

    async def pair(self, wire: Wire, identity: Identity) -> None:
        """Run a connection of a node that pairs with this one, or would."""
        await self.pairings.accept(wire, identity)

    def may(self, identity: Identity) -> May:
        """Say what a peer may ask here."""
        config = self.rules.config()
        allowed = may(identity, config.policy)
        machine = self.survey.told(allowed.runners) if allowed.operations else None
        return May(
            operations=tuple(operation.value for operation in allowed.operations),
            profiles=tuple(
                profile
                for profile in allowed.profiles
                if self.sandboxes.runs(profile, config.sandbox)
            ),
            runners=allowed.runners,
            paths=allowed.paths,
            runtime_s=allowed.runtime_s,
            keep_text_days=config.store.keep_text_days,
            keep_output_days=config.store.keep_output_days,
            store_prompts=config.store.store_prompts,
            machine=machine,
        )

    def owes(self, peer_id: NodeId) -> bool:
        """Whether a link to a peer would bring something forward."""
        return self.caller.owes(peer_id) or self.worker.owes(peer_id)

    async def connected(self, link: Link) -> None:
        """A link is open.

        Raises:
            PeerUntrusted: the owner took the peer's trust back during the handshake.
        """
        self.trust.require_pinned(link.identity)
        self.machines.take(link.identity.node_id, link.opened.may)
        link.post(self.heads.mine())
        self.worker.connected(link)
        self.caller.connected(link)
        self.changes.tell()

    def disconnected(self, link: Link) -> None:
        """A link has ended."""
        self.worker.disconnected(link)
        self.caller.disconnected(link)
        self.proofs.disconnected(link)
        self._tell_peer_tasks(link.identity.node_id)

    def take(self, link: Link, message: Message) -> None:
        """Take a message that is about tasks."""
        if isinstance(message, Grants):
            self.machines.take(link.identity.node_id, message.may)
            self.caller.offered(link, message.unacknowledged)
            self.caller.released.told(link, message.released)
        elif not any(part.take(link, message) for part in (self.proofs, self.worker, self.caller)):
            about = message.type
            reason = f"a `{about}` is not served by this version"
            link.post(Failure(code="not_served", reason=reason, about=about))

    def tell_released(self, task: TaskSnapshot) -> bool:
        """Tell a linked caller that something of its task was released; False = it is away."""
        link = self.links.get(task.record.peer_id)
        if link is None:
            return False
        link.post_grants(self.may(link.identity), released=(task.record.task_id,))
        return True

    def take_chunk(self, link: Link, chunk: Chunk) -> None:
        """Take a piece of an output, or of what a caller sends."""
        if not self.worker.take_chunk(link, chunk):
            self.caller.take_chunk(link, chunk)

    def _parts(self, tasks_dir: Path) -> Parts:
        return Parts(
            store=self.store,
            supervisor=self.supervisor,
            sandboxes=self.sandboxes,
            networks=self.networks,
            sessions=Sessions(self.settings.state_dir / "sessions"),
            runners=lambda: self.runners,
            rules=self.rules,
            clock=self.settings.clock,
            key=self.key,
            tasks_dir=tasks_dir,
            is_root=is_superuser(),
            post=self.links.post,
            want=self.links.want,
            identify=self.presence.identify,
            self_id=self.self_id,
            news=self.news,
            wake=self.wake.note,
            redactor=self.secrets.redactor,
            ended=lambda _task_id: self._background.spawn(guarded(self._end_orphans())),
        )

    def _make_runners(self, config: Config) -> Runners:
        runners = Runners(
            config.runners,
            config.commands,
            environment=self.settings.environment,
            verdicts=self.verdicts,
            manifests=self.rules.manifests,
        )
        runners.state, runners.now = self.settings.state_dir, self.settings.clock.now
        return runners

    async def _start(self, config: Config) -> None:
        await self.trust.load()
        await self.supervisor.start()
        self._background.spawn(self._find_sandbox())
        data = {"version": __version__, "pid": os.getpid(), "policy_sha256": config.policy.sha256}
        await self.store.commit([AuditRecord(kind="daemon_started", data=data)])
        await self.caller.recover()
        if self.self_id():
            await self.worker.recover()
        self._background.spawn(guarded(self._end_orphans()))
        self._background.spawn(self._refresh_runners())
        self._background.spawn(self.survey.watch())
        self._background.spawn(self.machines.keep())
        if config.configured:
            await self._join(config)
        self._background.spawn(self._upkeep.run())
        self._background.spawn(self.retention.watch())

    async def _drop_links(self) -> None:
        for link in self.links.all():
            await link.close(RESTART, "restored")

    async def _find_sandbox(self) -> None:
        """Try what can hold tasks now, so that none waits for it; write down what there is."""
        found = await self.sandboxes.find()
        data = {"enforcement": found.label, "why": found.why}
        await self.store.commit([AuditRecord(kind="sandbox_found", data=data)])

    async def _refresh_runners(self) -> None:
        """Ask the machine for programs now, so that tasks do not wait for it; then test them."""
        await self.runners.refresh()
        await self.self_tests.watch()

    async def _serve(self) -> None:
        """Accept and dial once the node is up."""
        await self.presence.wait_up()
        known = bool(self._node_id)
        self._node_id = self.presence.node_id
        write_node_id(self.settings.state_dir, self._node_id)
        if not known:
            await self.worker.recover()
        await self.links.start()
        for peer_id in self.caller.peers():
            self.links.want(peer_id)
        await asyncio.sleep(CALL_BACK_AFTER_S)
        for peer_id in self.worker.peers():
            self.links.want(peer_id)

    def _ended(self, task: TaskSnapshot) -> None:
        logger.info("task_ended", extra={"data": of_task(task)})
        if self.trace is not None:
            for span in of_ended(task):
                self.trace(span)

    def _shim_news(self, task_id: TaskId) -> None:
        self.worker.changed(task_id)

    async def _end_orphans(self) -> None:
        await end_orphans(self.store, self.caller)

    def _peers_changed(self, peer_ids: Sequence[NodeId]) -> None:
        self.changes.tell()
        self._background.spawn(self._upkeep.recheck(tuple(peer_ids)))

    def _config_changed(self, config: Config) -> None:
        self.runners = self._make_runners(config)
        # Whoever looks first after a change may be in a thread, where nothing can be spawned.
        self._loop.call_soon_threadsafe(self._background.spawn, self._reconfigured(config))

    async def _reconfigured(self, config: Config) -> None:
        error, manifests = self.rules.error, self.rules.manifests
        data = {
            "policy_sha256": config.policy.sha256,
            "config_sha256": config.sha256,
            "in_force": error is None,
            "error": error.message if error else "",
            "manifests": dict(manifests.digests),
            "manifest_errors": {name: why.message for name, why in manifests.broken.items()},
        }
        await guarded(self._audit(AuditRecord(kind="config_changed", data=data)))
        self.changes.tell()
        await self.runners.refresh()
        self.survey.again()
        self.worker.fill()
        await self._upkeep.recheck(self._upkeep.concerned())
        if config.configured and not self.presence.begun and not self._background.closing:
            await self._join(config)

    async def _join(self, config: Config) -> None:
        await self.presence.start(config.node)
        self._background.spawn(self._serve())

    def _node_up(self) -> None:
        """The node is on the tailnet, again perhaps: nobody waits out a pause."""
        if self.links.started:
            self._background.spawn(guarded(self.links.start()))
        for peer_id in self.caller.peers() | self.worker.peers():
            self.links.want(peer_id)
        known_as = (self.self_id(), self.key.public)
        if known_as != self._known_as:
            # Without it nobody could check this node's own signatures from the store alone.
            self._known_as = known_as
            data = {"node_id": known_as[0], "key": known_as[1]}
            self._background.spawn(guarded(self._audit(AuditRecord(kind=NODE_UP, data=data))))

    def _tell_machine(self) -> None:
        """Tell linked peers what has changed of this machine."""
        for link in self.links.all():
            link.post_grants(self.may(link.identity))

    async def _audit(self, record: AuditRecord) -> None:
        await self.store.commit([record])

    def _tell_peer_tasks(self, peer_id: NodeId) -> None:
        self.changes.tell()
        for task_id in self.caller.of(peer_id):
            self.news.tell(task_id)


def _stopped(kind: str) -> AuditRecord:
    return AuditRecord(kind=kind, data={"pid": os.getpid()})
