"""One node's caller and worker with a real store, and links in memory: a daemon's inside.

Fakes stand only at the edges: the network, the shims, whois and the clock.
"""

# pyright: reportPrivateUsage=false
# Waiting for quiet means looking at what is queued, which is nobody else's business.

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import uuid_utils
from typing_extensions import override

from cmesh.clock import Clock
from cmesh.daemon.actor import News
from cmesh.daemon.caller import Caller
from cmesh.daemon.heads import Heads
from cmesh.daemon.networks import Networks
from cmesh.daemon.parts import Parts
from cmesh.daemon.proofs import Proofs
from cmesh.daemon.rules import Rules
from cmesh.daemon.worker import Worker
from cmesh.errors import CmeshError
from cmesh.keys import SigningKey, verify
from cmesh.link.link import Link
from cmesh.link.tailnet import Wire
from cmesh.model import Direction, Identity, Limits, NodeId, Profile, TaskId, TaskSpec
from cmesh.policy.rules import FULL_CONSENT
from cmesh.protocol.codec import Chunk
from cmesh.protocol.features import TAKES
from cmesh.protocol.handshake import Local, Side
from cmesh.protocol.link_messages import Grants, May
from cmesh.protocol.messages import Message
from cmesh.protocol.session import Session
from cmesh.protocol.session_events import Introduced
from cmesh.redact import Redactor
from cmesh.runner.confine import Sandboxes
from cmesh.runner.programs import Programs
from cmesh.runner.registry import Runners
from cmesh.runner.sessions import Sessions
from cmesh.runner.supervise import Supervisor
from cmesh.runner.verdicts import Verdicts
from cmesh.sandbox.tier import Enforcement
from cmesh.store.records import DecisionRecord, TaskRecord, TaskSnapshot
from cmesh.store.store import Store
from tests.fakes.shims import FakeShims
from tests.fakes.wire import MemoryWire, wire_pair

__all__ = ["SETTLE_LIMIT_S", "Half", "StillClock", "allowed", "connect"]

FLOOR_BYTES = 1024 * 1024
SETTLE_LIMIT_S = 20.0
START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


class StillClock(Clock):
    """Goes only when a test says so."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    @override
    def now(self) -> datetime:
        return START + timedelta(seconds=self.passed_s)

    @override
    def monotonic(self) -> float:
        return self.passed_s


class Half:
    """A node. `start` begins a life of its daemon, `stop` or `crash` ends it.

    Attributes:
        known: whois: who a node id is now; a missing one is unknown.
        whois_error: what whois answers instead.
        enforcement: what its sandbox has; found out once in a life.
        mute: answers of the worker are lost.
        takes: what of a task that came later it says it takes; an older version says less.
    """

    def __init__(self, name: str, base: Path, clock: StillClock, *, rules: str = "") -> None:
        self.name = name
        self.node_id = NodeId(f"n{name.upper()}")
        self.key = SigningKey((name[0] * 32).encode())
        self.identity = Identity(node_id=self.node_id, name=f"{name}.test", user="me@example.com")
        self.base = base / name
        self.place = self.base / "app"
        self.place.mkdir(parents=True)
        (self.base / "tasks").mkdir()
        self.shims = FakeShims(self.base / "tasks")
        self.known: dict[NodeId, Identity] = {}
        self.whois_error: CmeshError | None = None
        self.link: Link | None = None
        self.wire: MemoryWire | None = None
        self.enforcement = Enforcement()
        self.mute = False
        self.takes = TAKES
        self.wanted: list[NodeId] = []
        self.wakes: list[tuple[TaskId, str]] = []
        self.ended: list[TaskId] = []
        self.carrying: set[asyncio.Task[None]] = set()
        self.clock = clock
        self.config = self.base / "config.toml"
        self.configure(rules or self.rule())

    def rule(self, more: str = "", *, concurrent: int = 2) -> str:
        return f"""
[worker]
concurrent = {concurrent}
[commands.x]
argv = ["/bin/true"]
[[inbound.allow]]
name = "friends"
peers = ["user:me@example.com"]
operations = ["task", "follow_up"]
profiles = ["full"]
runners = ["command:x"]
paths = ["{self.place}"]
consent = "{FULL_CONSENT}"
{more}
"""

    def configure(self, text: str) -> None:
        fresh = self.config.with_suffix(".new")
        fresh.write_text(text, "utf-8")
        fresh.chmod(0o600)
        fresh.replace(self.config)

    async def start(self) -> None:
        self.rules = Rules(self.config)
        self.store = await Store.open(
            self.base / "store", clock=self.clock, node=self.name, floor_bytes=FLOOR_BYTES
        )
        self.verdicts = Verdicts(self.base / "selftests.json")
        self.programs = Programs()
        self.news: News[TaskId] = News()
        parts = Parts(
            store=self.store,
            supervisor=cast("Supervisor", self.shims),
            sandboxes=Sandboxes((self.base / "store",), lambda: self.enforcement),
            networks=Networks(self.store, self.base / "tasks", self.clock),
            sessions=Sessions(self.base / "sessions"),
            runners=self.runners,
            rules=self.rules,
            clock=self.clock,
            key=self.key,
            tasks_dir=self.base / "tasks",
            is_root=False,
            post=self.post,
            want=self.wanted.append,
            identify=self.identify,
            self_id=lambda: self.node_id,
            news=self.news,
            redactor=Redactor,
            ended=self.ended.append,
            wake=lambda record, state: self.wakes.append((record.task_id, state)),
        )
        self.parts = parts
        self.worker = Worker(parts)
        self.caller = Caller(parts, self.link_to)
        self.heads = Heads(self.store, self.key, lambda: self.node_id)
        self.proofs = Proofs(parts, self.heads.now)
        self.shims.on_change = self.worker.changed
        await self.caller.recover()
        await self.worker.recover()

    async def stop(self) -> None:
        """End this life; the shims go on."""
        self.shims.on_change = lambda _: None
        if self.wire is not None:
            self.wire.abort()
        if self.carrying:
            await asyncio.wait(self.carrying)
        await self.proofs.close()
        await self.caller.close()
        await self.worker.close()
        await self.parts.networks.close()
        await self.store.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def runners(self) -> Runners:
        config = self.rules.config()
        return Runners(
            config.runners, config.commands, programs=self.programs, verdicts=self.verdicts
        )

    async def identify(self, peer_id: NodeId) -> Identity:
        if self.whois_error is not None:
            raise self.whois_error
        return self.known[peer_id]

    def link_to(self, peer_id: NodeId) -> Link | None:
        link = self.link
        return link if link is not None and link.identity.node_id == peer_id else None

    def post(self, peer_id: NodeId, message: Message) -> None:
        link = self.link_to(peer_id)
        if link is not None and not self.mute:
            link.post(message)

    async def greet(self, identity: Identity, introduced: Introduced) -> tuple[May, list[TaskId]]:
        assert introduced.key
        return May(), await self.worker.unacknowledged(identity.node_id)

    def on_message(self, link: Link, message: Message) -> None:
        if isinstance(message, Grants):
            self.caller.offered(link, message.unacknowledged)
            self.caller.released.told(link, message.released)
        elif not (self.proofs.take(link, message) or self.worker.take(link, message)):
            assert self.caller.take(link, message), message

    def on_chunk(self, link: Link, chunk: Chunk) -> None:
        self.caller.take_chunk(link, chunk)

    def session(self, side: Side, peer: "Half") -> Session:
        local = Local(
            node_id=self.node_id,
            incarnation=self.store.incarnation,
            software="cmesh/test",
            key=self.key.public,
            takes=self.takes,
        )
        nonce = f"{self.name[0]}" * 24
        return Session(side, local, peer.node_id, nonce=nonce, sign=self.key.sign, verify=verify)

    async def carry(self, link: Link) -> None:
        self.link = link
        self.worker.connected(link)
        self.caller.connected(link)
        try:
            with contextlib.suppress(CmeshError):
                await link.run(self)
        finally:
            if self.link is link:
                self.link = None
            self.worker.disconnected(link)
            self.caller.disconnected(link)
            self.proofs.disconnected(link)

    def record(self, worker: "Half", **change: Any) -> TaskRecord:
        """Return a new task for `worker`; a change of a field of the spec."""
        fields: dict[str, Any] = {
            "runner": "command:x",
            "profile": Profile.FULL,
            "directory": str(worker.place),
            "prompt": "do it",
            "limits": Limits(),
            "not_after": self.clock.now() + timedelta(hours=1),
        }
        spec = TaskSpec(task_id=TaskId(str(uuid_utils.uuid7())), **(fields | change))
        return TaskRecord(
            task_id=spec.task_id,
            direction=Direction.OUT,
            peer_id=worker.node_id,
            peer=worker.identity.name,
            principal="",
            session="s",
            project="",
            idempotency_key="",
            spec=spec,
            payload_hash=spec.payload_hash(),
            worker_incarnation="",
            rule=None,
        )

    async def delegate(self, worker: "Half", **change: Any) -> TaskId:
        record = self.record(worker, **change)
        await self.caller.delegate(record, allowed(record))
        return record.task_id

    async def until(self, task_id: TaskId, *states: str) -> TaskSnapshot:
        """Wait until a task is in one of `states`."""
        async with asyncio.timeout(SETTLE_LIMIT_S):
            while True:
                changed = self.news.next(task_id)
                task = await self.store.task(task_id)
                if task is not None and task.state in states:
                    changed.cancel()
                    return task
                await changed

    async def seen(self, task_id: TaskId) -> TaskSnapshot:
        task = await self.store.task(task_id)
        assert task is not None
        return task

    async def settled(self, task_id: TaskId) -> None:
        """Wait until all that happened to a task so far has been handled."""
        for tasks in (self.worker._inbounds.tasks, self.caller._tasks):
            if task_id in tasks:
                await tasks[task_id]._actor.settle()

    async def quiet(self) -> None:
        """Wait until every message that came so far has been taken care of."""
        await self.worker._requests._turns.close()
        await self.caller._turns.close()
        await self.caller.released._turns.close()

    async def acknowledged(self, task_id: TaskId) -> TaskSnapshot:
        async with asyncio.timeout(SETTLE_LIMIT_S):
            while True:
                changed = self.news.next(task_id)
                task = await self.store.task(task_id)
                if task is not None and "acknowledged" in task.facts:
                    changed.cancel()
                    return task
                await changed


async def connect(a: Half, b: Half) -> None:
    """Open a link that `a` dialled; an open one is replaced."""
    if a.wire is not None:
        a.wire.abort()
    a.wire, b.wire = wire_pair()
    a.known[b.node_id], b.known[a.node_id] = b.identity, a.identity
    ours = Link(cast("Wire", a.wire), a.session("dialler", b), b.identity)
    theirs = Link(cast("Wire", b.wire), b.session("acceptor", a), a.identity)
    await asyncio.gather(ours.open(a.greet), theirs.open(b.greet))
    for half, link in ((a, ours), (b, theirs)):
        task = asyncio.create_task(half.carry(link))
        half.carrying.add(task)
        task.add_done_callback(half.carrying.discard)
    while a.link is not ours or b.link is not theirs:
        await asyncio.sleep(0)


def allowed(record: TaskRecord) -> DecisionRecord:
    return DecisionRecord(
        task_id=record.task_id,
        direction=Direction.OUT,
        peer_id=record.peer_id,
        peer=record.peer,
        principal="",
        operation="task",
        effect="allow",
        rule=None,
        reason="",
        failed=(),
        policy_sha256="",
    )
