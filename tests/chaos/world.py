"""Two machines, `caller` and `worker`, and tasks in flight whose program keeps a ledger.

Asks as an agent does: again after each answer that did not come, with the same key. Knows
what was asked and told; whether that was right is the judge's.
"""

import asyncio
import contextlib
import json
import os
import random
import shutil
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmesh.daemon.answers import TasksView
from cmesh.daemon.arguments import CancelArguments, SqlArguments, TasksArguments
from cmesh.errors import CmeshError, DaemonNotRunning, DaemonRestarted, DaemonTimeout, NodeError
from cmesh.model import TERMINAL
from cmesh.node.testnet import Testnet
from tests.chaos.crashing_shim import DIED
from tests.chaos.judge import Asked, Row, Verdict, judge, read_ledger
from tests.chaos.machine import ChaosMachine
from tests.system.daemon.conftest import OUTBOUND, inbound
from tests.system.daemon.machine import eventually, here, interpreter, worker_user

__all__ = ["RUNNER", "Order", "World", "marked_processes", "orders", "world"]

AGENT = Path(__file__).with_name("agent.py")
RUNNER = "command:agent"
ASK_AGAIN_S = 0.1
WATCH_EVERY_S = 0.3
SETTLE_LIMIT_S = 60.0
SETTLE_POLL_S = 0.25
CONCURRENT = 8
# A daemon that is not there, or has just come back: the client asks again.
_GONE = (DaemonNotRunning, DaemonRestarted, DaemonTimeout, NodeError)

_ROWS = """
SELECT task_id, state, code, reason, witness, exit_code, receipt FROM tasks
WHERE direction = '{direction}' AND task_id IN ({ids})
"""
_STATES = """
SELECT task_id, canon FROM audit
WHERE kind IN ('state', 'result') AND task_id IN ({ids}) ORDER BY seq
"""
_OPEN = """
SELECT count(*) FROM tasks WHERE direction = 'in' AND task_id IN ({ids})
AND (ended_at IS NULL OR receipt <> 'complete')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One task to ask for.

    Attributes:
        key: its idempotency key.
        after_s: pause before it is asked for.
        cancel_after_s: when to ask for its end; None = never.
        again: ask a second time with the same key, as an agent does that lost the answer.
    """

    key: str
    after_s: float = 0.0
    seconds: float = 0.5
    exit: int = 0
    stubborn: bool = False
    cancel_after_s: float | None = None
    again: bool = False

    @property
    def prompt(self) -> str:
        """What the program is told."""
        what = {"key": self.key, "seconds": self.seconds, "exit": self.exit}
        return json.dumps(what | {"stubborn": self.stubborn})


@dataclass(slots=True)
class World:
    """The two machines and what was asked so far.

    Attributes:
        batch: prefix of the keys of the round that runs now.
        asked: by key.
        asking: the clients that have not got their answers yet.
    """

    caller: ChaosMachine
    worker: ChaosMachine
    directory: Path
    ledger: Path
    batch: str = "first"
    asked: dict[str, Asked] = field(default_factory=dict[str, Asked])
    asking: list[asyncio.Task[None]] = field(default_factory=list["asyncio.Task[None]"])

    def order(self, **wanted: Any) -> None:
        """Let a client ask for one more task of this batch."""
        self.place_order(self.next_order(**wanted))

    def next_order(self, **wanted: Any) -> "Order":
        """Return one more task of this batch, not asked for yet."""
        return Order(key=f"{self.batch}-more{len(self.asking)}", **wanted)

    def place_order(self, order: "Order") -> None:
        """Let a client ask for it."""
        self.asking.append(asyncio.create_task(self.ask(order)))

    async def ask(self, order: Order) -> None:
        """Ask for a task, until an answer comes; its end as well, where the order says so."""
        await asyncio.sleep(order.after_s)
        asked = self.asked.setdefault(order.key, Asked(key=order.key))
        for _ in range(2 if order.again else 1):
            asked.task_ids.add(await self._delegate(order))
        if order.cancel_after_s is None:
            return
        await asyncio.sleep(order.cancel_after_s)
        asked.cancelled = True
        [task_id] = asked.task_ids
        await self._until_answered("cancel_task", CancelArguments(task_id=task_id))

    async def _delegate(self, order: Order) -> str:
        async def attempt() -> str | None:
            with contextlib.suppress(*_GONE, OSError):
                view = await self.caller.delegate(
                    "worker",
                    RUNNER,
                    self.directory,
                    prompt=order.prompt,
                    idempotency_key=order.key,
                )
                return view.task_id
            await asyncio.sleep(ASK_AGAIN_S)
            return None

        return await eventually(attempt, SETTLE_LIMIT_S)

    async def _until_answered(self, operation: str, arguments: Any) -> None:
        async def attempt() -> bool | None:
            with contextlib.suppress(*_GONE, OSError):
                await self.caller.call(operation, arguments)
                return True
            await asyncio.sleep(ASK_AGAIN_S)
            return None

        await eventually(attempt, SETTLE_LIMIT_S)

    async def watch(self) -> None:
        """Note what the caller tells of each task, as long as it runs."""
        while True:
            with contextlib.suppress(CmeshError, OSError):
                await self.note()
            await asyncio.sleep(WATCH_EVERY_S)

    async def note(self) -> bool:
        """Look once; True when every task of this batch has ended at the caller."""
        raw = await self.caller.call("list_tasks", TasksArguments(limit=200))
        states = {task.task_id: task.state for task in TasksView.model_validate(raw).tasks}
        ended = True
        for asked in self.of_batch():
            for task_id in asked.task_ids:
                state = states.get(task_id)
                ended = ended and state in TERMINAL
                if state is not None and asked.told[-1:] != [state.value]:
                    asked.told.append(state.value)
        return ended

    def of_batch(self) -> list[Asked]:
        """Return what was asked in this round."""
        return [one for key, one in self.asked.items() if key.startswith(f"{self.batch}-")]

    def running(self) -> list[str]:
        """Return the tasks that a shim has claimed and not ended, as the disk says."""
        tasks = self.worker.state / "tasks"
        with contextlib.suppress(OSError):
            names = [entry.name for entry in tasks.iterdir() if entry.name[0] != "."]
            return [
                name
                for name in names
                if (tasks / name / "claim").exists() and not (tasks / name / "result.json").exists()
            ]
        return []

    def asked_for(self, task_id: str) -> Asked | None:
        """Return what is known of a task's key."""
        found = (one for one in self.asked.values() if task_id in one.task_ids)
        return next(found, None)

    async def up(self) -> None:
        """Start the daemons that do not run."""
        for machine in (self.caller, self.worker):
            machine.disarm()
        await asyncio.gather(self.caller.bring_up(), self.worker.bring_up())

    async def settle(self, limit_s: float = SETTLE_LIMIT_S) -> bool:
        """Wait until every task has ended and is acknowledged on both sides; False = not."""

        async def settled() -> bool | None:
            with contextlib.suppress(CmeshError, OSError):
                if not await self.note():
                    return None
                rows = await self._sql(self.worker, _OPEN.format(ids=self._ids))
                return rows == [[0]] or None
            return None

        try:
            async with asyncio.timeout(limit_s):
                while await settled() is None:
                    await asyncio.sleep(SETTLE_POLL_S)
        except TimeoutError:
            return False
        return True

    async def judged(self) -> Verdict:
        """Judge this batch; both daemons run, and it has settled or never will."""
        caller = await self._rows(self.caller, "out")
        worker = await self._rows(self.worker, "in")
        entries = read_ledger(self.ledger.read_text("utf-8"))
        mine = [entry for entry in entries if entry.key.startswith(f"{self.batch}-")]
        ids = {task_id for one in self.of_batch() for task_id in one.task_ids}
        left = [f"pid {pid} of task {task}" for pid, task in marked_processes() if task in ids]
        with contextlib.suppress(FileNotFoundError):
            for task_id in (self.worker.place / DIED).read_text("utf-8").splitlines():
                if (one := self.asked_for(task_id)) is not None:
                    one.excused = True
        return judge(self.of_batch(), mine, caller, worker, left)

    @property
    def _ids(self) -> str:
        # Not by prompt: a task that was cancelled before it came has none on the worker.
        ids = sorted({task_id for one in self.of_batch() for task_id in one.task_ids})
        return ", ".join(f"'{task_id}'" for task_id in ids) or "NULL"

    async def _rows(self, machine: ChaosMachine, direction: str) -> dict[str, Row]:
        reached: dict[str, list[str]] = {}
        for task_id, canon in await self._sql(machine, _STATES.format(ids=self._ids)):
            told = json.loads(canon)
            reached.setdefault(task_id, []).append(str(told.get("name") or told.get("state")))
        rows = await self._sql(machine, _ROWS.format(direction=direction, ids=self._ids))
        return {
            task_id: Row(
                state=state,
                code=code,
                reason=reason,
                witness=witness,
                exit_code=exit_code,
                receipt=receipt,
                reached=tuple(reached.get(task_id, ())),
            )
            for task_id, state, code, reason, witness, exit_code, receipt in rows
        }

    async def _sql(self, machine: ChaosMachine, text: str) -> list[list[Any]]:
        return (await machine.call("sql", SqlArguments(sql=text, limit=100_000)))["rows"]


def marked_processes() -> list[tuple[int, str]]:
    """Return (pid, task id) of every process that carries a task's marker; zombies do not."""
    found: list[tuple[int, str]] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for word in (entry / "environ").read_bytes().split(b"\0"):
                name, _, value = word.partition(b"=")
                if name == b"CMESH_TASK":
                    found.append((int(entry.name), value.decode()))
    return found


def orders(batch: str, chance: random.Random, count: int, spread_s: float) -> list[Order]:
    """Return a batch of tasks of every sort."""
    return [
        Order(
            key=f"{batch}-{number}",
            after_s=chance.uniform(0, spread_s),
            seconds=chance.choice((0, 0.2, 0.5, 1.5, 3)),
            exit=chance.choice((0, 0, 0, 3)),
            stubborn=chance.random() < 0.1,
            cancel_after_s=chance.uniform(0, 2) if chance.random() < 0.2 else None,
            again=chance.random() < 0.3,
        )
        for number in range(count)
    ]


@contextlib.asynccontextmanager
async def world(
    base: Path, testnet: Testnet, *, entries: Sequence[tuple[str, ...]] = ((), ())
) -> AsyncGenerator[World]:
    """Make the machines below `base`, up, the caller trusted; end them with the block."""
    base.mkdir(mode=0o755, exist_ok=True)
    user = worker_user()
    # The caller starts nothing, so it may be whoever runs this; that saves a process a call.
    caller = ChaosMachine("caller", base, testnet, here(), enter=entries[0])
    worker = ChaosMachine("worker", base, testnet, user, enter=entries[1])
    place = worker.base / "app"
    ledger = base / "ledger"
    ledger.touch()
    if os.getuid() == 0:
        shutil.chown(ledger, user.pw_uid, user.pw_gid)
    argv = [interpreter(user), "-I", "-S", str(AGENT), str(ledger)]
    # Rates have tests of their own; here a peer says the same ten thousand times.
    worker_lines = f"[worker]\nconcurrent = {CONCURRENT}\nsubmits_per_minute = 1000000\n"
    text = f"{worker_lines}[commands.agent]\nargv = {json.dumps(argv)}\n"
    async with contextlib.AsyncExitStack() as stack:
        lines = {caller: OUTBOUND, worker: text + inbound(place, [RUNNER])}
        for machine, config in lines.items():
            stack.push_async_callback(machine.close)
            await machine.configure(config)
        worker.directory("app")
        await asyncio.gather(caller.up(), worker.up())
        made = World(caller, worker, place, ledger)
        await made.ask(Order(key="first-0", seconds=0))
        await worker.trust(caller)
        assert await made.settle(), caller.log_text()
        yield made
