"""A worker of an older version: it is not asked for what it does not know, on any link."""

import pytest

from cmesh.errors import PeerOutdated
from cmesh.link.link import Link
from cmesh.model import Limits
from cmesh.protocol.messages import Message
from tests.unit.daemon.conftest import Pair

pytestmark = pytest.mark.anyio

TURNS = Limits(turns=3)


async def test_a_task_that_waited_for_an_older_worker_ends_here_and_is_never_sent(
    pair: Pair,
) -> None:
    pair.doer.takes = ("tokens",)
    task_id = await pair.asker.delegate(pair.doer, limits=TURNS)
    await pair.connect()
    ended = await pair.asker.until(task_id, "cancelled")
    assert ended.code == PeerOutdated.code
    assert ended.reason == (
        "`doer` runs cmesh/test, which does not take a limit of turns (`--max-turns`)"
    )
    assert await pair.doer.store.task(task_id) is None
    # The link stands, and what the worker knows goes over it.
    plain = await pair.asker.delegate(pair.doer)
    await pair.doer.until(plain, "running")


async def test_one_that_was_sent_before_the_worker_was_put_back_is_not_sent_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.doer.mute = True
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer, limits=TURNS)
    await pair.asker.until(task_id, "sent")
    await pair.doer.until(task_id, "denied")
    pair.doer.mute, pair.doer.takes = False, ()
    heard: list[str] = []
    take = pair.doer.on_message

    def listen(link: Link, message: Message) -> None:
        heard.append(message.type)
        take(link, message)

    monkeypatch.setattr(pair.doer, "on_message", listen)
    for _ in range(3):
        await pair.connect()
        # What became of it there is the worker's word.
        await pair.asker.until(task_id, "denied")
        await pair.doer.quiet()
    assert "cancel" in heard
    assert "submit" not in heard


async def test_a_worker_that_says_what_it_takes_is_asked(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer, limits=TURNS)
    await pair.doer.until(task_id, "running", "denied")
