"""What a commit does for every row, where it is made fast: its text, and the look at the disk."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmesh.store.chain import canonical, canonical_row, clean
from cmesh.store.room import LOOK_S, Room
from cmesh.store.store import Store
from tests.unit.store.support import FixedClock, event, task

pytestmark = pytest.mark.anyio

_NAMES = st.text(st.characters(codec="ascii", categories=("Ll",)), min_size=1, max_size=4)
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text().map(clean),
    st.lists(st.text().map(clean), max_size=3),
)


@settings(deadline=None)
@given(st.dictionaries(_NAMES, _VALUES))
def test_a_rows_text_is_its_canonical_one(fields: dict[str, object]) -> None:
    assert canonical_row(fields) == canonical(fields)


@pytest.mark.parametrize("text", ["\x00\x1b\x1f\x7f\x85", '\\"/\b\f\n\r\t', "\u2028\ud83d\ude00é𝄞"])
def test_a_text_is_escaped_as_the_chain_has_it(text: str) -> None:
    fields = {"b": clean(text), "a": 1.5}
    assert canonical_row(fields) == canonical(fields)


async def test_every_row_of_a_group_has_a_salt_of_its_own(store: Store) -> None:
    asked = task()
    await store.commit([asked, *(event(asked, n, text="the same") for n in range(1, 6))])
    rows = await store.sql("SELECT count(DISTINCT canon) FROM audit WHERE kind = 'event'", [], 1)
    digests = await store.sql(
        "SELECT count(DISTINCT canon->>'$.text_sha256') FROM audit WHERE kind = 'event'", [], 1
    )
    assert rows.rows == digests.rows == [[5]]


def test_the_disk_is_looked_at_again_after_a_moment_and_not_before(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    real = os.statvfs

    def look(path: Path) -> os.statvfs_result:
        looks.append(path)
        return real(path)

    monkeypatch.setattr("cmesh.store.room.os.statvfs", look)
    room = Room(tmp_path, 1, clock)
    assert room.has_room()
    room.require(new=True)
    assert len(looks) == 1
    clock.advance(2 * LOOK_S)
    assert room.has_room()
    assert len(looks) == 2
