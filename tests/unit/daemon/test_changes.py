"""A mark moves with each change, and waiting for the next one misses none."""

import asyncio

import pytest

from cmesh.daemon.actor import News
from cmesh.daemon.changes import Changes

pytestmark = pytest.mark.anyio

LIMIT_S = 20.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_whoever_waits_is_woken_by_the_news_of_any_task():
    changes = Changes()
    news: News[str] = News(changes.tell)
    waiting = asyncio.create_task(changes.after(changes.mark, LIMIT_S))
    before = changes.mark
    await asyncio.sleep(0)
    assert not waiting.done()
    news.tell("a task that nobody waits for")
    assert await waiting == changes.mark != before


async def test_what_changed_since_a_mark_was_given_is_not_waited_for_again():
    changes = Changes()
    mark = changes.mark
    changes.tell()
    changes.tell()
    assert await changes.after(mark, LIMIT_S) == changes.mark
    assert await changes.after(changes.mark, 0) == changes.mark


async def test_a_mark_of_another_life_of_the_daemon_is_answered_at_once():
    assert await Changes().after(Changes().mark, LIMIT_S)
