"""A short form of `scripts/fuzz`: nothing crashes, and what is refused is refused by name.

`CMESH_FUZZ_FRAMES` sets how many malformed frames; the long form is 1,000,000.
"""

import os

import pytest

from cmesh.protocol import session as session_module
from cmesh.protocol.codec import decode
from tests.security.fuzz import GROWTH_KIB
from tests.security.fuzz_frames import Found, fuzz_frames
from tests.security.fuzz_link import fuzz_link
from tests.security.fuzz_native import fuzz_native
from tests.security.fuzz_sql import fuzz_sql
from tests.security.fuzz_texts import fuzz_config, fuzz_manifests

FRAMES = int(os.environ.get("CMESH_FUZZ_FRAMES", "20000"))
LINKS, TEXTS, QUERIES, CALLS = 60, 600, 40, 20_000
SEED = 20261128


def judge(found: Found, inputs: int) -> None:
    """Hold what was found to what the page promises."""
    assert found.inputs >= inputs
    assert found.malformed > found.inputs // 4, "most of it should be refused"
    assert found.crashes == []
    assert found.growth_kib < GROWTH_KIB


@pytest.mark.timeout(3600)
def test_malformed_frames_are_refused_by_name_and_nothing_grows() -> None:
    found = fuzz_frames(FRAMES, SEED)
    print(f"{found.malformed} malformed frames, RSS +{found.growth_kib} KiB")
    judge(found, FRAMES)
    assert found.taken > 0, "none got past the parser"


@pytest.mark.anyio
@pytest.mark.system
async def test_malformed_frames_over_the_tailnet_end_their_own_link_only() -> None:
    judge(await fuzz_link(LINKS, SEED), LINKS)


def test_damaged_configurations_and_manifests_are_refused_by_our_own_errors() -> None:
    judge(fuzz_config(TEXTS, SEED), TEXTS)
    judge(fuzz_manifests(TEXTS, SEED), TEXTS)


@pytest.mark.anyio
@pytest.mark.system
async def test_damaged_sql_changes_nothing_and_is_refused_in_words() -> None:
    judge(await fuzz_sql(QUERIES, SEED), QUERIES)


def test_wrong_handles_lengths_and_texts_break_nothing_at_the_c_boundary() -> None:
    judge(fuzz_native(CALLS, SEED), CALLS)


def test_a_parser_that_fails_in_another_way_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def breaks(text: str) -> object:
        if '"event"' in text:
            raise IndexError("list index out of range")
        return decode(text)

    monkeypatch.setattr(session_module, "decode", breaks)
    found = fuzz_frames(1_000, SEED)
    assert found.crashes
    assert "IndexError" in found.crashes[0]
