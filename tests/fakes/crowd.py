"""Many peers of one worker, each with its own node, key, link and tasks, in one process.

A peer does what a caller's daemon does over its link: it submits, follows, checks a result's
signature and acknowledges it; it keeps no store. The worker is a daemon in a process of its
own, whose tasks wait at a gate until they are let go one by one.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import uuid_utils

from cmesh.clock import SystemClock
from cmesh.daemon.operations import StatusView
from cmesh.errors import CmeshError, LinkError
from cmesh.interfaces.client import ControlClient
from cmesh.keys import verify
from cmesh.model import Limits, NodeId, Profile, TaskId, TaskSpec
from cmesh.node.node import Node
from cmesh.paths import control_socket
from cmesh.policy.rules import FULL_CONSENT
from cmesh.protocol.codec import decode, encode
from cmesh.protocol.convert import submit
from cmesh.protocol.messages import (
    Accepted,
    Cancel,
    Denied,
    Failure,
    Message,
    ResultAck,
    ResultMessage,
    Submit,
    Subscribe,
)
from cmesh.protocol.receipts import result_bytes
from cmesh.store.records import TrustRecord
from cmesh.store.store import Store
from tests.fakes.link_peer import Channel, LinkPeer

__all__ = ["Asker", "Crowd", "CrowdedWorker"]

ROOT = Path(__file__).parents[2]
ANSWER_LIMIT_S = 300.0
UP_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
POLL_S = 0.02
REDIALS = 16
RUNNER = "command:gate"


class CrowdedWorker:
    """A daemon that takes whatever its peers ask, in a process of its own.

    Attributes:
        node_id: who it is on the tailnet.
        place: where its tasks run; holds the gate, a FIFO of which each task reads a byte.
    """

    def __init__(self, label: str, base: Path, *, user: str, concurrent: int) -> None:
        self.label = label
        self.state = base / label / "state"
        self.config = base / label / "config"
        self.place = base / label / "app"
        self.log = base / label / "log"
        self.place.mkdir(parents=True)
        self.config.mkdir()
        os.mkfifo(self.place / "gate")
        self._gate = os.open(self.place / "gate", os.O_RDWR | os.O_NONBLOCK)
        self._user = user
        self._concurrent = concurrent
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._process is not None
        return self._process.pid

    def configure(self, control_url: str = "", auth_key: str = "") -> None:
        """Write the configuration; without `control_url` for a fake node."""
        url = control_url or "http://127.0.0.1:9"
        root = "allow_root = true\n" if os.getuid() == 0 else ""
        self._write("authkey", auth_key)
        self._write(
            "config.toml",
            f"""
[node]
hostname = "{self.label}"
control_url = "{url}"
auth_key_file = "authkey"
[worker]
{root}concurrent = {self._concurrent}
queue = 100000
queue_per_peer = 1000
submits_per_minute = 100000
[commands.gate]
argv = ["/bin/dd", "if=gate", "of=/dev/null", "bs=1", "count=1", "status=none"]
[[inbound.allow]]
name = "the crowd"
peers = ["user:{self._user}"]
operations = ["task"]
profiles = ["full"]
runners = ["{RUNNER}"]
paths = ["{self.place}"]
consent = "{FULL_CONSENT}"
""",
        )

    async def trust(self, askers: Sequence["Asker"]) -> None:
        """Write down, before the daemon runs, that its owner trusts these peers' keys."""
        self.state.mkdir(mode=0o700, exist_ok=True)
        directory = self.state / "store"
        store = await Store.open(directory, clock=SystemClock(), node=self.label)
        try:
            await store.commit([asker.pin() for asker in askers])
        finally:
            await store.close()

    async def up(self, *program: str) -> StatusView:
        """Start the daemon, `program` or the real one, and wait until its node is up."""
        argv = [sys.executable, "-m", *(program or ("cmesh", "daemon"))]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.state.parent),
                    "LANG": "C.UTF-8",
                    "CMESH_STATE_DIR": str(self.state),
                    "CMESH_CONFIG_DIR": str(self.config),
                    "CMESH_TESTNET": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
            )
        async with asyncio.timeout(UP_LIMIT_S):
            while True:
                if self._process.poll() is not None:
                    raise RuntimeError(self.log.read_text("utf-8"))
                with contextlib.suppress(CmeshError, OSError):
                    status = await self.status()
                    if status.phase == "up":
                        return status
                await asyncio.sleep(POLL_S)

    async def status(self) -> StatusView:
        """Ask the daemon how it is."""
        async with ControlClient(control_socket(self.state)) as client:
            return await client.status()

    def let_go(self, count: int) -> None:
        """Let so many tasks end, those that run and those that will."""
        os.write(self._gate, b"x" * count)

    async def stop(self) -> None:
        """End the daemon; blocks on nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, STOP_LIMIT_S)
            finally:
                process.kill()
                process.wait()
        os.close(self._gate)

    def _write(self, name: str, text: str) -> None:
        path = self.config / name
        path.write_text(text, "utf-8")
        path.chmod(0o600)


class Asker:
    """One peer. A link that breaks is made again, and what was said on it is said again.

    Attributes:
        open: its tasks that have not ended.
        ended: how each of the others did.
        links: how many it has had.
    """

    def __init__(self, node: Node, node_id: NodeId, label: str) -> None:
        self.open: set[TaskId] = set()
        self.ended: dict[TaskId, str] = {}
        self.links = 0
        self._label = label
        self._peer = LinkPeer(node, node_id)
        self._submits: dict[TaskId, Submit] = {}
        self._answers: dict[TaskId, asyncio.Future[None]] = {}
        self._cancelled = False
        self._closing = False
        self._channel: Channel | None = None
        self._living: asyncio.Task[None] | None = None

    def pin(self) -> TrustRecord:
        """Return the worker's row that says it trusts this peer's key."""
        key = self._peer.key.public
        return TrustRecord(
            peer_id=self._peer.node_id, peer=self._label, key=key, trusted=True, by="owner"
        )

    async def connect(self, address: str, crowd: "Crowd") -> None:
        """Open the link to the worker, and keep it."""
        await self._open(address)
        self._living = asyncio.create_task(self._live(address, crowd))

    async def submit(self, directory: Path) -> None:
        """Ask for a task, wait until the worker has it in its store, and follow it."""
        spec = TaskSpec(
            task_id=TaskId(str(uuid_utils.uuid7())),
            runner=RUNNER,
            profile=Profile.FULL,
            directory=str(directory),
            prompt="wait at the gate",
            limits=Limits(),
            not_after=datetime.now(UTC) + timedelta(days=1),
        )
        message = self._submits[spec.task_id] = submit(spec)
        answer = self._answers[spec.task_id] = asyncio.get_running_loop().create_future()
        await self._say(message)
        async with asyncio.timeout(ANSWER_LIMIT_S):
            await answer
        self.open.add(spec.task_id)
        await self._say(Subscribe(task_id=spec.task_id, after_seq=0))

    async def cancel(self) -> None:
        """Cancel all that has not ended."""
        self._cancelled = True
        for task_id in list(self.open):
            await self._say(self._cancel(task_id))

    async def close(self) -> None:
        """End the link; raises what the worker must not have said."""
        self._closing = True
        if self._channel is not None and self._living is not None:
            await self._channel.wire.close()
            await self._living

    def _cancel(self, task_id: TaskId) -> Cancel:
        payload_hash = self._submits[task_id].payload_hash
        return Cancel(task_id=task_id, reason="user", payload_hash=payload_hash)

    async def _say(self, message: Message) -> None:
        """Say it; on a link that is broken, the next one says it."""
        with contextlib.suppress(LinkError):
            if self._channel is not None:
                await self._channel.wire.send(encode(message))

    async def _live(self, address: str, crowd: "Crowd") -> None:
        while self._channel is not None:
            channel = self._channel
            with contextlib.suppress(LinkError):
                async for frame in channel.wire.frames():
                    await self._take(channel, frame, crowd)
            self._channel = None
            while not self._closing and self._channel is None:
                async with crowd.dialling:
                    with contextlib.suppress(CmeshError, TimeoutError):
                        await self._open(address)

    async def _open(self, address: str) -> None:
        channel = await self._peer.dial(address)
        self.links += 1
        self._channel = channel
        for task_id in list(self._answers):
            await self._say(self._submits[task_id])
        for task_id in (*self.open, *map(TaskId, channel.opened.unacknowledged)):
            await self._say(Subscribe(task_id=task_id, after_seq=0))
            if self._cancelled:
                await self._say(self._cancel(task_id))

    async def _take(self, channel: Channel, frame: str | bytes, crowd: "Crowd") -> None:
        assert isinstance(frame, str), "no output was asked for"
        message = decode(frame)
        if isinstance(message, Accepted):
            self._answered(message.task_id, None)
        elif isinstance(message, Denied):
            self._answered(message.task_id, f"{message.code}: {message.reason}")
        elif isinstance(message, Failure):
            self._answered(message.about, f"{message.code}: {message.reason}")
        elif isinstance(message, ResultMessage):
            await self._end(channel, message)
            crowd.news.set()

    def _answered(self, task_id: str, why: str | None) -> None:
        answer = self._answers.pop(TaskId(task_id), None)
        if answer is None or answer.done():
            return
        if why is None:
            answer.set_result(None)
        else:
            answer.set_exception(RuntimeError(why))

    async def _end(self, channel: Channel, message: ResultMessage) -> None:
        task_id, state = TaskId(message.task_id), message.outcome.state
        signed = result_bytes(
            task_id,
            self._submits[task_id].payload_hash,
            channel.identity.node_id,
            self._peer.node_id,
            message.outcome,
            message.last_seq,
        )
        assert verify(channel.opened.key, signed, message.signature)
        assert self.ended.setdefault(task_id, state) == state, "two ends of one task"
        self.open.discard(task_id)
        await self._say(ResultAck(task_id=task_id, signature=self._peer.key.sign(signed)))


class Crowd:
    """All peers of a worker."""

    def __init__(self, askers: Sequence[Asker], worker: CrowdedWorker) -> None:
        self.askers = askers
        self.news = asyncio.Event()
        # When all links break at once, to make them anew all at once would break them again.
        self.dialling = asyncio.Semaphore(REDIALS)
        self._worker = worker
        self._turn = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def connect(self, address: str, *, at_once: int) -> None:
        """Let each peer open its link."""
        await self._each(at_once, [asker.connect(address, self) for asker in self.askers])

    async def submit(self, count: int, *, at_once: int) -> None:
        """Let the peers ask for so many tasks, in turn."""
        askers = [self.askers[(self._turn + n) % len(self.askers)] for n in range(count)]
        self._turn = (self._turn + count) % len(self.askers)
        await self._each(at_once, [asker.submit(self._worker.place) for asker in askers])

    async def finish(self, count: int, limit_s: float) -> None:
        """Let so many tasks end, and wait until their results have been acknowledged."""
        goal = self.unfinished - count
        self._worker.let_go(count)
        await self.until(lambda: self.unfinished <= goal, limit_s)

    async def cancel(self, limit_s: float) -> None:
        """Let each peer cancel what it has left, and wait for each one's result."""
        await self._each(len(self.askers), [asker.cancel() for asker in self.askers])
        await self.until(lambda: not self.unfinished, limit_s)

    async def close(self) -> None:
        """End every link."""
        await self._each(len(self.askers), [asker.close() for asker in self.askers])

    @property
    def unfinished(self) -> int:
        """Tasks that were accepted and have not ended."""
        return sum(len(asker.open) for asker in self.askers)

    @property
    def links(self) -> int:
        """How many links there have been; more than peers when some broke."""
        return sum(asker.links for asker in self.askers)

    @property
    def ended(self) -> Counter[str]:
        """How many tasks ended in which state."""
        return Counter(state for asker in self.askers for state in asker.ended.values())

    async def until(self, done: Callable[[], bool], limit_s: float) -> None:
        """Wait until it is so, looking at each result."""
        async with asyncio.timeout(limit_s):
            while not done():
                self.news.clear()
                await self.news.wait()

    async def _each(self, at_once: int, works: list[Coroutine[Any, Any, None]]) -> None:
        free = asyncio.Semaphore(at_once)

        async def one(work: Coroutine[Any, Any, None]) -> None:
            async with free:
                await work

        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(one(work))
