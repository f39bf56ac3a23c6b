"""What a daemon erases by itself, with a real store."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from cmesh.config import StoreConfig
from cmesh.daemon.retention import MUCH_FREE_BYTES, Retention, compacts
from cmesh.store.sizes import Sizes
from cmesh.store.store import Store
from tests.unit.store.support import FixedClock, result, state, task

pytestmark = pytest.mark.anyio

DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("free", "whole", "pending", "age_days", "due"),
    [
        (0, 0, False, None, False),
        (0, 0, True, None, True),
        (0, 0, True, 0.9, False),
        (0, 0, True, 1.0, True),
        (0, 0, False, 9.0, False),
        (MUCH_FREE_BYTES, 2 * MUCH_FREE_BYTES, False, 0.1, True),
        (MUCH_FREE_BYTES, 2 * MUCH_FREE_BYTES + 1, False, 0.1, False),
        (MUCH_FREE_BYTES - 1, MUCH_FREE_BYTES, False, 0.1, False),
    ],
)
def test_a_store_is_written_anew_a_day_after_an_erasing_or_when_half_of_it_is_free(
    free: int, whole: int, *, pending: bool, age_days: float | None, due: bool
):
    now = FixedClock().now()
    last = None if age_days is None else now - timedelta(days=age_days)
    at = None if last is None else round(last.timestamp() * 1_000_000)
    sizes = Sizes(bytes=whole, free_bytes=free, pending=pending, compacted_at=at)
    assert compacts(sizes, now) is due


async def test_texts_go_after_their_time_and_not_before(tmp_path: Path):
    clock, config = FixedClock(), StoreConfig(keep_text_days=30)
    store = await Store.open(tmp_path / "store", clock=clock, node="laptop")
    try:
        retention = Retention(store, lambda: config, clock)
        asked = task(prompt="SWEPTWORD")
        await store.commit([asked, state(asked, "sent"), result(asked)])
        clock.advance(29 * DAY_S)
        assert (await retention.sweep()).rows == 0
        still = await store.task(asked.task_id)
        assert still is not None
        assert still.record.spec.prompt == "SWEPTWORD"
        clock.advance(2 * DAY_S)
        swept = await retention.sweep()
        assert (swept.rows, swept.compacted is not None, swept.not_compacted) == (3, True, "")
        gone = await store.task(asked.task_id)
        assert gone is not None
        assert gone.forgotten
        assert (await retention.sweep()).rows == 0
        assert (await store.verify()).finding is None
    finally:
        await store.close()


async def test_files_may_go_before_the_texts(tmp_path: Path):
    clock, config = FixedClock(), StoreConfig(keep_output_days=7)
    store = await Store.open(tmp_path / "store", clock=clock, node="laptop")
    try:
        sha256 = await store.blob(b"OUTPUTWORD")
        asked = task()
        end = result(asked)
        named = {"files": [{"sha256": sha256}]}
        await store.commit(
            [asked, state(asked, "sent"), replace(end, result=replace(end.result, patch=named))]
        )
        retention = Retention(store, lambda: config, clock)
        clock.advance(6 * DAY_S)
        assert (await retention.sweep()).files == 0
        assert store.blob_path(sha256) is not None
        clock.advance(2 * DAY_S)
        assert (await retention.sweep()).files == 1
        assert store.blob_path(sha256) is None
        kept = await store.task(asked.task_id)
        assert kept is not None
        assert not kept.forgotten
    finally:
        await store.close()
