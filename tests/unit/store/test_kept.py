"""What a peer may see of a store is kept apart, grows with it, and goes when rows are changed."""

# pyright: reportPrivateUsage=false
import asyncio
from pathlib import Path

import pytest

from cmesh.errors import QueryRefused
from cmesh.model import Direction, NodeId
from cmesh.store import kept
from cmesh.store.answer import Question
from cmesh.store.askers import PROCESSES_MOST
from cmesh.store.confined import QueryLimits
from cmesh.store.records import AuditRecord, TaskRecord
from cmesh.store.snapshot import FILE_NAME
from cmesh.store.store import Store
from cmesh.store.texts import TEXTS_ERASED
from tests.unit.store.support import event, task

pytestmark = pytest.mark.anyio

ASKER, OTHER = NodeId("nASKER"), NodeId("nOTHER")
PROMPTS = "SELECT prompt FROM tasks ORDER BY prompt"


def asked(prompt: str, peer: NodeId = ASKER) -> TaskRecord:
    return task(direction=Direction.IN, peer_id=peer, prompt=prompt)


async def ask(store: Store, asker: NodeId = ASKER, text: str = PROMPTS) -> list[list[object]]:
    question = Question(text=text, limit=99, most_bytes=10**6, asker=asker, own=True)
    return (await store._askers.run(question, store.head[0])).rows


def kept_file(store: Store, asker: NodeId = ASKER) -> Path:
    return store._askers._kept[asker]._directory / FILE_NAME


async def test_it_grows_by_the_rows_that_came_and_holds_nobody_elses(store: Store) -> None:
    first = asked("mine-1")
    await store.commit([first, event(first, 1), asked("secret of another", OTHER)])
    assert await ask(store) == [["mine-1"]]
    file = kept_file(store)
    inode = file.stat().st_ino
    for number in (2, 3):
        more = asked(f"mine-{number}")
        await store.commit([more, event(more, 1), event(first, number), asked("hidden", OTHER)])
        assert await ask(store) == [[f"mine-{one}"] for one in range(1, number + 1)]
    assert await ask(store, text="SELECT count(*) FROM events") == [[5]]
    assert file.stat().st_ino == inode  # the same file, not one made anew
    data = await asyncio.to_thread(file.read_bytes)
    assert b"mine-3" in data
    assert b"secret of another" not in data
    assert await ask(store, OTHER) == [["hidden"], ["hidden"], ["secret of another"]]


async def test_steps_of_few_rows_make_the_same_part(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "STEP_ROWS", 3)
    tasks = [asked(f"mine-{number}") for number in range(5)]
    for one in tasks:
        await store.commit([one, event(one, 1), asked("hidden", OTHER)])
    assert await ask(store) == [[f"mine-{number}"] for number in range(5)]
    assert await ask(store, text="SELECT count(*) FROM events") == [[5]]


async def test_it_is_made_anew_when_texts_were_erased_and_goes_when_told(store: Store) -> None:
    await store.commit([asked("mine")])
    assert await ask(store) == [["mine"]]
    inode = kept_file(store).stat().st_ino
    # By its row alone: whoever erased it may not have come to say so.
    await store.commit([AuditRecord(kind=TEXTS_ERASED, data={"rows": []})])
    other = store._askers._kept[ASKER]._directory.parent / "keeps the number"
    other.hardlink_to(kept_file(store))
    assert await ask(store) == [["mine"]]
    assert kept_file(store).stat().st_ino != inode
    await store._askers.forget()
    assert not kept_file(store).exists()
    assert await ask(store) == [["mine"]]


async def test_a_damaged_part_is_made_anew_and_who_asks_is_told_no_path(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await store.commit([asked("mine")])
    assert await ask(store) == [["mine"]]
    kept_file(store).write_bytes(b"no database" * 1_000)
    await store.commit([asked("more")])
    with pytest.raises(QueryRefused, match="could not be chosen") as caught:
        await ask(store)
    assert "/" not in caught.value.message
    assert FILE_NAME in caplog.text
    assert await ask(store) == [["mine"], ["more"]]


async def test_who_goes_away_leaves_the_work_to_go_on(store: Store) -> None:
    await store.commit([asked("mine")])
    asking = asyncio.ensure_future(ask(store))
    while not store._askers._kept or not store._askers._kept[ASKER]._working:
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.wait(store._askers._kept[ASKER]._working)
    assert kept_file(store).exists()
    assert await ask(store) == [["mine"]]


async def test_more_askers_than_processes_have_their_parts_all_the_same(store: Store) -> None:
    peers = [NodeId(f"nPEER{number}") for number in range(6)]
    await store.commit([asked(str(peer), peer) for peer in peers])
    for _ in range(2):
        found = await asyncio.gather(*(ask(store, peer) for peer in peers))
        assert found == [[[str(peer)]] for peer in peers]
        await store.commit([AuditRecord(kind="meanwhile")])


async def test_askers_take_turns_and_few_are_answered_at_a_time(store: Store) -> None:
    askers, order = store._askers, list[NodeId]()
    many = NodeId("nMANY")
    others = [NodeId(f"nOTHER{number}") for number in range(PROCESSES_MOST + 1)]
    leave = asyncio.Event()

    async def one(asker: NodeId) -> None:
        async with askers.turn(asker):
            order.append(asker)
            await leave.wait()

    asking = [asyncio.create_task(one(asker)) for asker in (many, many, many, *others)]
    while len(order) < PROCESSES_MOST:
        await asyncio.sleep(0)
    assert order == [many, *others[: PROCESSES_MOST - 1]]
    leave.set()
    await asyncio.gather(*asking)
    assert order[PROCESSES_MOST:] == [*others[PROCESSES_MOST - 1 :], many, many]


async def test_who_waits_too_long_for_its_turn_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store._askers, "_limits", QueryLimits(queue_s=0.01))
    async with store._askers.turn(ASKER):
        with pytest.raises(QueryRefused, match="still running"):
            await ask_whole(store)


async def ask_whole(store: Store) -> None:
    question = Question(text=PROMPTS, limit=9, most_bytes=10**6, asker=ASKER, own=True)
    await store.answer(question, store.answer_path("waits"))
