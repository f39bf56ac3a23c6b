"""The daemon: joins store, node, links, policy and tasks, and keeps them going.

The only place where the parts meet. What it can do for local callers is
`cmesh.daemon.app`.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cmesh import __version__
from cmesh.clock import Clock
from cmesh.config import Config
from cmesh.daemon.actor import News
from cmesh.daemon.admission import RUNNABLE
from cmesh.daemon.caller import Caller
from cmesh.daemon.links import Links
from cmesh.daemon.parts import Parts
from cmesh.daemon.presence import Presence
from cmesh.daemon.rules import Rules
from cmesh.daemon.trust import Trust
from cmesh.daemon.worker import Worker
from cmesh.errors import CmeshError, KeyExpired, UnknownPeer
from cmesh.keys import SigningKey
from cmesh.link.link import Link
from cmesh.model import Identity, NodeId, TaskId
from cmesh.paths import ensure_private_dir
from cmesh.policy.decide import may
from cmesh.protocol.codec import Chunk
from cmesh.protocol.messages import Failure, Grants, May, Message
from cmesh.protocol.session import Introduced
from cmesh.runner.registry import Runners
from cmesh.runner.supervise import Supervisor
from cmesh.store.records import AuditRecord
from cmesh.store.store import Store

__all__ = ["Daemon", "Settings"]

logger = logging.getLogger(__name__)

TICK_S = 1.0
WHOIS_AGAIN_S = 60.0
CALL_BACK_AFTER_S = 10.0  # a worker waits so long for the caller to come by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where a daemon lives.

    Attributes:
        environment: the daemon's, for commands that ask for variables by name.
    """

    state_dir: Path
    config_file: Path
    environment: Mapping[str, str]
    clock: Clock


class Daemon:
    """Everything of one node; made with `open`, ended with `close`."""

    def __init__(self, settings: Settings, rules: Rules, store: Store) -> None:
        self.settings = settings
        self.rules = rules
        self.store = store
        self.started_at: datetime = settings.clock.now()
        self.news: News[TaskId] = News()
        self.key = SigningKey.load_or_make(settings.state_dir / "key")
        self.trust = Trust(store)
        self.runners = self._make_runners(rules.config())
        tasks_dir = settings.state_dir / "tasks"
        self.supervisor = Supervisor(tasks_dir, on_change=self._shim_news)
        self.presence = Presence(
            rules.config().node,
            settings.state_dir,
            on_peers=self._peers_changed,
            on_up=self._node_up,
        )
        self.links = Links(
            self.presence,
            self,
            key=self.key,
            incarnation=store.incarnation,
            clock=settings.clock,
        )
        parts = self._parts(tasks_dir)
        self.worker = Worker(parts)
        self.caller = Caller(parts, self.links.get)
        self._node_id = _read_node_id(settings.state_dir)
        self._background: set[asyncio.Task[None]] = set()
        self._closing = False
        self._whois_at = settings.clock.monotonic()

    @classmethod
    async def open(cls, settings: Settings) -> "Daemon":
        """Open the state directory and take up what an earlier life left.

        A configured node comes up in the background.

        Raises:
            ConfigError: the configuration cannot be used.
            StoreError: the store is in use, damaged or too new.
            NodeError: the node cannot start.
        """
        ensure_private_dir(settings.state_dir)
        rules = Rules(settings.config_file)
        config = rules.config()
        store = await Store.open(
            settings.state_dir / "store",
            clock=settings.clock,
            node=config.node.hostname,
            store_prompts=config.store.store_prompts,
        )
        try:
            daemon = cls(settings, rules, store)
            rules.on_change = daemon._config_changed
            await daemon._start(config)
        except BaseException:
            await store.close()
            raise
        return daemon

    async def close(self, *, restarting: bool = False) -> None:
        """Stop accepting, finish what is being committed, leave; tasks run on under shims."""
        # INVARIANT: nothing new is begun from here on. A node that goes away looks like peers
        # that left, and a task must not be ended because its worker's daemon was.
        self._closing = True
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        kind = "daemon_restarting" if restarting else "daemon_stopped"
        async with contextlib.AsyncExitStack() as stack:  # each part, whatever befalls another
            stack.push_async_callback(self.store.close)
            stack.push_async_callback(self._guarded, self._audit(_stopped(kind)))
            stack.push_async_callback(self.presence.close)
            stack.push_async_callback(self.supervisor.close)
            stack.push_async_callback(self.worker.close)
            stack.push_async_callback(self.caller.close)
            await self.links.close(restarting=restarting)

    @property
    def configured(self) -> bool:
        """There is a configuration; without one no node starts."""
        return self.rules.config().configured

    def self_id(self) -> NodeId:
        """Return this node's stable id, also before it is up again; empty when never up."""
        return self.presence.node_id or self._node_id

    async def identify(self, peer_id: NodeId) -> Identity:
        """Ask whois who a node id is now.

        Raises:
            UnknownPeer, IdentityUnknown: nobody known.
            NodeError: this node is not up, so it cannot tell.
        """
        self.presence.require_up()
        for peer in await self.presence.node.peers():
            if peer.identity.node_id == peer_id and peer.identity.addresses:
                return await self.presence.node.whois(peer.identity.addresses[0])
        raise UnknownPeer(f"node `{peer_id}` is not on the tailnet any more")

    async def greet(self, identity: Identity, introduced: Introduced) -> tuple[May, Sequence[str]]:
        """Decide on a proven key, and say what the peer may ask here."""
        # Who was asked by this machine's own owner is pinned at its first contact; who
        # comes by itself waits for the owner's look.
        asked = self.caller.owes(identity.node_id)
        await self.trust.check(identity, introduced.key, first_contact=asked)
        return self.may(identity), await self.worker.unacknowledged(identity.node_id)

    def may(self, identity: Identity) -> May:
        """Say what a peer may ask here."""
        config = self.rules.config()
        allowed = may(identity, config.policy)
        return May(
            operations=tuple(operation.value for operation in allowed.operations),
            profiles=tuple(profile for profile in allowed.profiles if profile in RUNNABLE),
            runners=allowed.runners,
            paths=allowed.paths,
            runtime_s=allowed.runtime_s,
            keep_text_days=config.store.keep_text_days,
            store_prompts=config.store.store_prompts,
        )

    def owes(self, peer_id: NodeId) -> bool:
        """Whether a link to a peer would bring something forward."""
        return self.caller.owes(peer_id) or self.worker.owes(peer_id)

    async def connected(self, link: Link) -> None:
        """A link is open."""
        self.worker.connected(link)
        self.caller.connected(link)

    def disconnected(self, link: Link) -> None:
        """A link has ended."""
        self.worker.disconnected(link)
        self.caller.disconnected(link)
        self._tell_peer_tasks(link.identity.node_id)

    def take(self, link: Link, message: Message) -> None:
        """Take a message that is about tasks."""
        if isinstance(message, Grants):
            self.caller.offered(link, message.unacknowledged)
        elif not self.worker.take(link, message) and not self.caller.take(link, message):
            about = message.type
            reason = f"a `{about}` is not served by this version"
            link.post(Failure(code="not_served", reason=reason, about=about))

    def take_chunk(self, link: Link, chunk: Chunk) -> None:
        """Take a piece of an output."""
        self.caller.take_chunk(link, chunk)

    def _parts(self, tasks_dir: Path) -> Parts:
        return Parts(
            store=self.store,
            supervisor=self.supervisor,
            runners=lambda: self.runners,
            rules=self.rules,
            clock=self.settings.clock,
            key=self.key,
            tasks_dir=tasks_dir,
            is_root=os.getuid() == 0,
            post=self.links.post,
            want=self.links.want,
            identify=self.identify,
            self_id=self.self_id,
            news=self.news,
        )

    def _make_runners(self, config: Config) -> Runners:
        return Runners(config.runners, config.commands, environment=self.settings.environment)

    async def _start(self, config: Config) -> None:
        await self.trust.load()
        await self.supervisor.start()
        data = {"version": __version__, "pid": os.getpid(), "policy_sha256": config.policy.sha256}
        await self.store.commit([AuditRecord(kind="daemon_started", data=data)])
        await self.caller.recover()
        if self.self_id():
            await self.worker.recover()
        self._spawn(self._refresh_runners())
        if config.configured:
            await self._join(config)
        self._spawn(self._tick())

    async def _refresh_runners(self) -> None:
        """Ask the machine for programs now, so that tasks do not wait for it."""
        await self.runners.refresh()

    async def _serve(self) -> None:
        """Accept and dial once the node is up."""
        await self.presence.wait_up()
        known = bool(self._node_id)
        self._node_id = self.presence.node_id
        _write_node_id(self.settings.state_dir, self._node_id)
        if not known:
            await self.worker.recover()
        await self.links.start()
        for peer_id in self.caller.peers():
            self.links.want(peer_id)
        await asyncio.sleep(CALL_BACK_AFTER_S)
        for peer_id in self.worker.peers():
            self.links.want(peer_id)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.rules.config()  # a changed file takes effect without anybody asking
            for peer_id in self.caller.peers():
                self.links.ensure(peer_id)
            await self._guarded(self.worker.expire())
            await self._guarded(self.caller.expire())
            await self._guarded(self.caller.retry())
            now = self.settings.clock.monotonic()
            if now - self._whois_at >= WHOIS_AGAIN_S:
                self._whois_at = now
                await self._guarded(self.presence.refresh())
                self._peers_changed(self._concerned())
                for peer_id in self.worker.peers():
                    self.links.want(peer_id)

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except CmeshError as error:
            data = {"code": error.code, "why": error.message}
            logger.warning("tick_failed", extra={"data": data})

    def _shim_news(self, task_id: TaskId) -> None:
        self.worker.changed(task_id)

    def _peers_changed(self, peer_ids: Sequence[NodeId]) -> None:
        self._spawn(self._recheck(tuple(peer_ids)))

    async def _recheck(self, peer_ids: Sequence[NodeId]) -> None:
        """Ask whois again about peers, and act on the answer at once."""
        for peer_id in peer_ids:
            # Its tasks run on without a link, so they are looked at without one as well.
            await self._guarded(self.worker.recheck(peer_id))
            link = self.links.get(peer_id)
            if link is None:
                if self.caller.owes(peer_id):
                    self.links.want(peer_id)
                continue
            try:
                identity = await self.identify(peer_id)
                if identity.expired:
                    raise KeyExpired(f"the node key of `{identity.name}` has expired")
            except CmeshError as error:
                await self.links.drop(peer_id, error)
                continue
            link.identity = identity
            link.post_grants(self.may(identity))

    def _config_changed(self, config: Config) -> None:
        self.runners = self._make_runners(config)
        self._spawn(self._reconfigured(config))

    async def _reconfigured(self, config: Config) -> None:
        error = self.rules.error
        data = {
            "policy_sha256": config.policy.sha256,
            "in_force": error is None,
            "error": error.message if error else "",
        }
        await self._guarded(self._audit(AuditRecord(kind="config_changed", data=data)))
        await self.runners.refresh()
        self.worker.fill()
        await self._recheck(self._concerned())
        if config.configured and not self.presence.begun and not self._closing:
            await self._join(config)

    def _concerned(self) -> list[NodeId]:
        """Return the peers whose rights matter now: linked ones, and those with tasks here."""
        linked = {link.identity.node_id for link in self.links.all()}
        return sorted(linked | self.worker.peers())

    async def _join(self, config: Config) -> None:
        await self.presence.start(config.node)
        self._spawn(self._serve())

    def _node_up(self) -> None:
        """The node is on the tailnet, again perhaps: nobody waits out a pause."""
        for peer_id in self.caller.peers() | self.worker.peers():
            self.links.want(peer_id)

    async def _audit(self, record: AuditRecord) -> None:
        await self.store.commit([record])

    def _tell_peer_tasks(self, peer_id: NodeId) -> None:
        for task_id in self.caller.of(peer_id):
            self.news.tell(task_id)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        if self._closing:
            work.close()
            return
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("background_failed", exc_info=task.exception())


def _stopped(kind: str) -> AuditRecord:
    return AuditRecord(kind=kind, data={"pid": os.getpid()})


def _write_node_id(state_dir: Path, node_id: NodeId) -> None:
    incoming = state_dir / "node_id.new"
    incoming.write_text(node_id, "utf-8")
    incoming.replace(state_dir / "node_id")


def _read_node_id(state_dir: Path) -> NodeId:
    try:
        return NodeId((state_dir / "node_id").read_text("utf-8").strip())
    except FileNotFoundError:
        return NodeId("")
