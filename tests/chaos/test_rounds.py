"""The short form of `scripts/chaos`: the same rounds and the same judge, fewer kills.

A red run names the round and the seed; `scripts/chaos --seed S` plays the long form of it.
"""

import random
import shutil
from pathlib import Path

import pytest

from tests.chaos import rounds
from tests.chaos.faults import Fault
from tests.chaos.judge import read_ledger
from tests.chaos.rounds import Plan, Report, play
from tests.chaos.tally import Tally
from tests.chaos.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

SEED = 5
KILLS = 10
SHIM_KILLS = 4
REPLACES = 1


def judged(report: Report) -> Report:
    """Return the report of a run without a fault."""
    assert report.faults == []
    assert report.tally.slow == []
    return report


async def test_tasks_survive_daemons_killed_at_random_and_at_named_points() -> None:
    kinds = ("kill-caller", "kill-worker", "kill-both", "point-caller", "point-worker")
    report = judged(await play(Plan(kills=KILLS, seed=SEED, only=kinds, pairs=2), print))
    assert report.kills >= KILLS
    # A daemon's death costs no run: no shim was touched.
    assert report.verdict.interrupted == 0


async def test_every_end_of_a_shim_or_an_agent_is_told_in_time() -> None:
    kinds = ("kill-shim", "point-shim", "kill-shim-and-worker", "kill-agent", "cut-spool")
    report = judged(await play(Plan(shims=SHIM_KILLS, seed=SEED, only=kinds, pairs=2), print))
    assert report.tally.shims >= SHIM_KILLS


async def test_tasks_survive_aborts_jumps_stops_and_torn_files() -> None:
    kinds = ("abort-worker", "abort-caller", "abort-go-worker", "abort-go-caller")
    kinds += ("stop-worker", "clock-worker", "clock-caller")
    kinds += ("wal-worker", "wal-caller", "kill-relay", "kill-under-session")
    report = judged(await play(Plan(rounds=2, seed=SEED, only=kinds, pairs=2), print))
    assert report.verdict.interrupted == 0


async def test_daemons_that_are_replaced_interrupt_nothing() -> None:
    kinds = ("replace-worker", "replace-caller", "break-replace-worker", "break-replace-caller")
    report = judged(await play(Plan(replaces=REPLACES, seed=SEED, only=kinds, pairs=2), print))
    assert len(report.tally.gaps_s) >= REPLACES
    assert report.verdict.interrupted == 0


async def test_a_round_with_a_fault_keeps_the_disks_of_its_pair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act(world: World, chance: random.Random, tally: Tally) -> None:
        raise AssertionError("found on purpose")

    monkeypatch.setattr(rounds, "FAULTS", (Fault("fails", 1, act),))
    report = await play(Plan(seed=SEED, pairs=1), print)
    [kept] = map(Path, report.kept)
    try:
        assert not report.clean
        assert report.faults[0] == "round p0r1: fails: found on purpose"
        assert read_ledger((kept / "ledger").read_text("utf-8"))
        for name in ("caller", "worker"):
            assert list((kept / name / "state" / "store").glob("journal-*"))
            assert (kept / name / "log").exists()
        assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    finally:
        shutil.rmtree(kept.parent)
