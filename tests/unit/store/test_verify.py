"""How the look at a whole log ends when a part of it cannot be looked at."""

# pyright: reportPrivateUsage=false
from pathlib import Path

import duckdb
import pytest

from cmesh.store import verify
from cmesh.store.head import Head
from cmesh.store.snapshot import FILE_NAME
from tests.unit.store.conftest import OpenStore
from tests.unit.store.support import event, task

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("error", [duckdb.OutOfMemoryException, duckdb.IOException])
async def test_what_went_wrong_in_the_quick_look_is_not_lost_by_the_other_thread(
    open_store: OpenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    store = await open_store()
    first = task()
    await store.commit([first, *(event(first, n) for n in range(1, 400))])
    seq, digest = store.head
    await store.close()
    looked: list[int] = []

    def failing(_walk: object, first: int, _through: int) -> None:
        looked.append(first)
        raise error("the first look failed")

    monkeypatch.setattr(verify._Walk, "_rebuilt", failing)
    with duckdb.connect(str(tmp_path / "state" / FILE_NAME), read_only=True) as cursor:
        head = Head(seq=seq, hash=bytes.fromhex(digest))
        if error is duckdb.IOException:
            with pytest.raises(duckdb.IOException, match="the first look failed"):
                verify.verify(cursor, head)
        else:  # then row by row, which needs less memory
            assert verify.verify(cursor, head).bad_seq is None
    assert looked == [1]
