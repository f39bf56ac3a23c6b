"""What must cost the same with ten thousand tasks or a thousand peers as with one."""

# pyright: reportPrivateUsage=false
# That nothing is read, and what is kept, shows nowhere else.

import asyncio
import inspect
from typing import Any

import pytest

from cmesh.daemon import netmap
from cmesh.daemon.hearsay import Note
from cmesh.daemon.netmap import Netmap
from cmesh.daemon.twins import Twins
from cmesh.model import Identity, NodeId, TaskId
from cmesh.node.whois import Peer
from cmesh.store import index
from cmesh.store.records import TaskRecord
from tests.fakes.half import SETTLE_LIMIT_S, allowed
from tests.unit.daemon.conftest import Pair

pytestmark = pytest.mark.anyio


def peer(name: str) -> Peer:
    identity = Identity(
        node_id=NodeId(f"n{name}"), name=f"{name}.test", addresses=("100.64.0.1", "fd7a::1")
    )
    return Peer(identity=identity, online=True, direct="", relay="", os="", last_seen=None)


class Asked:
    """The node: counts how often it is asked, and can be slow."""

    def __init__(self, *names: str) -> None:
        self.peers = tuple(map(peer, names))
        self.times = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> tuple[Peer, ...]:
        self.times += 1
        said = self.peers
        await self.go.wait()
        return said


async def test_many_lookups_ask_the_node_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netmap, "AGE_LIMIT_S", 3600.0)
    asked = Asked("a", "b")
    known = Netmap(asked)
    names = ("a", "a.test", "na", "100.64.0.1", "fd7a::1")
    found = await asyncio.gather(*(known.named(name) for name in names for _ in range(100)))
    assert asked.times == 1
    assert {one.identity.node_id for one in found[0]} == {"na"}
    assert {one.identity.node_id for one in found[-1]} == {"na", "nb"}


async def test_a_change_is_looked_up_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netmap, "AGE_LIMIT_S", 3600.0)
    asked = Asked("a")
    known = Netmap(asked)
    assert await known.named("a")
    asked.peers = ()
    known.changed()
    assert not await known.named("a")


async def test_that_nobody_has_a_name_is_never_said_from_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(netmap, "AGE_LIMIT_S", 3600.0)
    asked = Asked("a")
    known = Netmap(asked)
    assert await known.named("a")
    asked.peers = (*asked.peers, peer("b"))
    assert await known.named("b")


async def test_an_answer_from_before_a_change_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netmap, "AGE_LIMIT_S", 3600.0)
    asked = Asked("a")
    known = Netmap(asked)
    asked.go.clear()
    looking = asyncio.create_task(known.named("a"))
    await asyncio.sleep(0)
    assert asked.times == 1
    asked.peers = ()
    known.changed()
    asked.go.set()
    assert await looking
    assert not await known.named("a")


async def test_an_answer_is_not_used_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netmap, "AGE_LIMIT_S", 0.0)
    asked = Asked("a")
    known = Netmap(asked)
    for _ in range(3):
        await known.named("a")
    assert asked.times == 3


async def test_a_task_that_memory_has_let_go_is_forgotten_without_a_read(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "FINISHED_KEPT", 0)  # as when hundreds end at once
    await pair.connect()
    records = [pair.asker.record(pair.doer, prompt=f"{n}") for n in range(4)]
    for record in records:
        await pair.asker.caller.delegate(record, allowed(record))
        await pair.asker.until(record.task_id, "accepted", "running")
    waiting = [one for one in records if one.task_id not in pair.doer.shims.running()]
    assert len(waiting) == 2
    tasks = [await pair.asker.seen(one.task_id) for one in waiting]
    reads: list[str] = []
    for half in (pair.asker, pair.doer):
        read = half.store._read

        async def counted(work: Any, read: Any = read) -> Any:
            callers = inspect.stack()
            reads.append(next(one.function for one in callers if "cmesh/daemon/" in one.filename))
            return await read(work)

        monkeypatch.setattr(half.store, "_read", counted)
    await asyncio.gather(*(pair.asker.caller.cancel(task, "no") for task in tasks))
    async with asyncio.timeout(SETTLE_LIMIT_S):
        while len(pair.doer.worker._inbounds.tasks) > 2 or len(pair.asker.caller._tasks) > 2:
            await pair.doer.quiet()
            await asyncio.sleep(0)
    assert not reads


async def test_who_a_peer_is_is_asked_once_for_all_of_its_tasks(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.connect()
    tasks = [await pair.asker.delegate(pair.doer, prompt=f"{n}") for n in range(5)]
    for task_id in tasks:
        await pair.asker.until(task_id, "accepted", "running")
    asked: list[NodeId] = []
    identify = pair.doer.identify

    async def counted(peer_id: NodeId) -> Identity:
        asked.append(peer_id)
        return await identify(peer_id)

    object.__setattr__(pair.doer.parts, "identify", counted)
    await pair.doer.worker.recheck(pair.asker.node_id)
    assert asked == [pair.asker.node_id]


async def test_a_tick_looks_at_no_task_that_nobody_has_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(100):  # their worker is away
        await pair.asker.delegate(pair.doer, prompt=f"{n}")
    caller, looked = pair.asker.caller, list[TaskId]()
    note = caller.hearsay.note

    def noted(task_id: TaskId) -> Note:
        looked.append(task_id)
        return note(task_id)

    monkeypatch.setattr(caller.hearsay, "note", noted)
    await caller.retry()
    assert looked == []


async def test_a_repeated_call_is_looked_for_among_tasks_of_its_prompt_alone(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = Twins(pair.asker.store, pair.clock.now())
    mine: TaskId | None = None
    for n in range(100):
        record = pair.asker.record(pair.doer, prompt=f"do {n}")
        await pair.asker.caller.delegate(record, allowed(record))
        twins.asked(record)
        mine = record.task_id
    compared: list[TaskId] = []

    def same(other: TaskRecord) -> bool:
        compared.append(other.task_id)
        return True

    assert await twins.find("s", "do 99", same, pair.clock.now()) == mine
    assert await twins.find("another", "do 99", same, pair.clock.now()) is None
    assert compared == [mine]
