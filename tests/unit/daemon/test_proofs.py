"""Nodes that ask each other about their logs: what is told to whom, and what is not."""

import asyncio
from functools import partial

import pytest

from cmesh.daemon import proofs
from cmesh.errors import PeerOutdated, PeerUnreachable, StoreError
from cmesh.keys import verify
from cmesh.link.link import Link
from cmesh.model import NodeId, TaskId, TaskState
from cmesh.protocol.link_messages import Failure, Receipt
from cmesh.protocol.messages import Message
from cmesh.protocol.proof_messages import AskedHead, Proof, ProofAnswer
from cmesh.protocol.receipts import head_bytes, result_bytes
from cmesh.store import held
from cmesh.store.records import ReceiptRecord
from cmesh.store.store import Store
from tests.fakes.half import Half
from tests.unit.daemon.conftest import Pair

pytestmark = pytest.mark.anyio


def link_of(half: Half) -> Link:
    assert half.link is not None
    return half.link


async def done(pair: Pair) -> TaskId:
    """Let the doer do a task of the asker's, to the last receipt."""
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.shims.finish(task_id)
    await pair.doer.acknowledged(task_id)
    await pair.asker.until(task_id, TaskState.SUCCEEDED)
    await pair.doer.quiet()
    await pair.asker.quiet()
    return task_id


async def test_with_its_receipt_a_caller_sends_its_head_so_both_hold_the_other_s(
    pair: Pair,
) -> None:
    task_id = await done(pair)
    for half, other in ((pair.doer, pair.asker), (pair.asker, pair.doer)):
        head = half.store.head_of(other.node_id)
        assert head is not None
        assert await other.store.has_row(head.head_seq, head.head_hash)
    # The caller's vouches for the end that it acknowledged.
    told = pair.doer.store.head_of(pair.asker.node_id)
    rows = await pair.asker.store.sql("SELECT max(seq) FROM audit WHERE kind = 'result'", (), 1)
    assert told is not None
    assert told.head_seq >= int(str(rows.rows[0][0]))
    assert (await pair.asker.seen(task_id)).result is not None


async def test_each_is_told_what_the_other_holds_of_it(pair: Pair) -> None:
    task_id = await done(pair)
    for half, other, worked in ((pair.asker, pair.doer, True), (pair.doer, pair.asker, False)):
        answer = await half.proofs.ask(link_of(half), about="held")
        assert answer.next == 0
        assert answer.now is not None
        now = head_bytes(other.node_id, answer.now.head_seq, answer.now.head_hash)
        assert verify(other.key.public, now, answer.now.signature)
        assert answer.heads
        for head in answer.heads:
            signed = head_bytes(half.node_id, head.head_seq, head.head_hash)
            assert verify(half.key.public, signed, head.signature)
        [end] = answer.ends
        assert (end.task_id, end.worked) == (task_id, worked)
        whole = (await half.proofs.ask(link_of(half), about="end", task_id=task_id)).end
        assert whole is not None
        worker, caller = pair.doer, pair.asker
        message = result_bytes(
            task_id,
            whole.payload_hash,
            worker.node_id,
            caller.node_id,
            whole.outcome,
            whole.last_seq,
        )
        assert verify(worker.key.public, message, end.worker_signature)
        assert verify(caller.key.public, message, end.caller_signature)


async def test_a_hash_is_told_only_to_who_holds_this_node_s_signature_over_it(pair: Pair) -> None:
    await done(pair)
    newest = pair.asker.store.head_of(pair.doer.node_id)
    assert newest is not None
    forged = pair.asker.key.sign(head_bytes(pair.doer.node_id, 1, "ab" * 32))
    asked = [
        AskedHead(seq=newest.head_seq, signature=newest.signature),
        AskedHead(seq=newest.head_seq - 1, signature=newest.signature),
        AskedHead(seq=1, signature=forged),
        AskedHead(seq=2**40, signature="s" * 86),
        AskedHead(seq=1, signature=""),
    ]
    answer = await pair.asker.proofs.ask(link_of(pair.asker), about="rows", heads=asked)
    assert [row.hash for row in answer.rows] == [newest.head_hash, "", "", "", ""]


async def test_what_concerns_another_peer_is_not_told(pair: Pair) -> None:
    task_id = await done(pair)
    other = pair.asker.record(pair.doer)
    store: Store = pair.doer.store
    stranger = NodeId("nSTRANGER")
    await store.commit(
        [
            ReceiptRecord(
                peer_id=stranger,
                peer="stranger",
                kind="head",
                task_id=None,
                head_seq=5,
                head_hash="cd" * 32,
                signature="x" * 86,
            )
        ]
    )
    answer = await pair.asker.proofs.ask(link_of(pair.asker), about="held")
    assert "x" * 86 not in {head.signature for head in answer.heads}
    page = await store.held(stranger, 0)
    assert ([head.head_seq for head in page.heads], page.ends) == ([5], ())
    assert await store.whole_end(stranger, task_id) is None
    unknown = await pair.asker.proofs.ask(link_of(pair.asker), about="end", task_id=other.task_id)
    assert unknown.end is None


async def test_pages_follow_one_another_and_lose_nothing(pair: Pair) -> None:
    await done(pair)
    whole = await pair.doer.store.held(pair.asker.node_id, 0)
    found, after = list[object](), 0
    while True:
        read = partial(held.page, peer_id=pair.asker.node_id, after=after, limit=1)
        page = await pair.doer.store._read(read)  # pyright: ignore[reportPrivateUsage]
        found += [*page.heads, *page.ends]
        after = page.next
        if not after:
            break
    assert len(found) == len(whole.heads) + len(whole.ends) > 1


async def test_an_older_peer_is_not_asked_and_its_link_stands(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.doer.takes = tuple(name for name in pair.doer.takes if name != "proof")
    await pair.connect()
    heard: list[str] = []
    take = pair.doer.on_message

    def listen(link: Link, message: Message) -> None:
        heard.append(message.type)
        take(link, message)

    monkeypatch.setattr(pair.doer, "on_message", listen)
    with pytest.raises(PeerOutdated, match="`doer` runs cmesh/test, which cannot be asked"):
        await pair.asker.proofs.ask(link_of(pair.asker), about="held")
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    assert "proof" not in heard


async def test_who_waits_is_told_when_the_peer_goes_away_is_silent_or_refuses(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.connect()
    asked = asyncio.Event()

    def silent(_link: Link, message: Message) -> bool:
        if isinstance(message, Proof):
            asked.set()
        return isinstance(message, Proof)

    answer = pair.doer.proofs.take
    monkeypatch.setattr(pair.doer.proofs, "take", silent)
    waiting = asyncio.create_task(pair.asker.proofs.ask(link_of(pair.asker), about="held"))
    await asked.wait()
    await pair.connect()
    with pytest.raises(PeerUnreachable, match="the link ended"):
        await waiting
    monkeypatch.setattr(proofs, "ANSWER_LIMIT_S", 0.01)
    with pytest.raises(PeerUnreachable, match=r"has not answered for 0\.01 s"):
        await pair.asker.proofs.ask(link_of(pair.asker), about="held")
    monkeypatch.undo()
    assert pair.doer.proofs.take == answer

    async def broken(*_: object) -> object:
        raise StoreError("secret words about a path")

    monkeypatch.setattr(pair.doer.store, "held", broken)
    with pytest.raises(StoreError) as found:
        await pair.asker.proofs.ask(link_of(pair.asker), about="held")
    assert "secret" not in found.value.message


async def test_an_answer_that_nobody_waits_for_or_of_another_is_dropped(pair: Pair) -> None:
    await pair.connect()
    link = link_of(pair.asker)
    assert pair.asker.proofs.take(link, ProofAnswer(query_id="never asked"))
    assert not pair.asker.proofs.take(link, Failure(code="busy", reason="", about="something"))
    signature = "s" * 86
    assert not pair.asker.proofs.take(
        link, Receipt(head_seq=1, head_hash="ab" * 32, signature=signature)
    )
