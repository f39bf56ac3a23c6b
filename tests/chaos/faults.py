"""What is done to the machines: one row a kind. Each leaves them as it found them, or killed.

A new kind is one row of `FAULTS`. What a kind excuses it notes on the task before it acts,
so that the judge never has to guess.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cmesh.locks import holder
from tests.chaos import task_faults
from tests.chaos.machine import ChaosMachine
from tests.chaos.points import CALLER_POINTS, WORKER_POINTS, passer
from tests.chaos.tally import Tally
from tests.chaos.world import World

__all__ = ["FAULTS", "Fault"]

POINT_LIMIT_S = 12.0
VICTIM_LIMIT_S = 8.0
GONE_POLL_S = 0.02
DAY_S = 86_400.0
GO_ABORT_LIMIT_S = 30.0  # the runtime waits for all its threads to write what they did
BROKEN_AFTER_S = (0.5, 6.0)
SHORT_STOP_S = (0.1, 2.0)
LONG_STOP_S = (11.0, 14.0)  # beyond the link's ping and its limit
ABORTS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL)

GO_ABORTS = (signal.SIGSEGV, signal.SIGBUS)
GO_DUMP = "goroutine 0 "
"""In what the runtime writes about all its goroutines before it ends the process."""


Act = Callable[[World, random.Random, Tally], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind; `weight` says how often it is drawn against the others."""

    name: str
    weight: int
    act: Act


def _kill(*sides: str) -> Act:
    async def act(world: World, chance: random.Random, tally: Tally) -> None:
        del chance, tally
        for side in sides:
            machine: ChaosMachine = getattr(world, side)
            machine.kill()

    return act


def _replace(side: str) -> Act:
    async def act(world: World, chance: random.Random, tally: Tally) -> None:
        machine: ChaosMachine = getattr(world, side)
        world.order(seconds=chance.choice((0, 0.5, 2)))
        tally.gaps_s.append(await machine.replace())

    return act


def _break_replace(side: str) -> Act:
    """Make a fault that ends a replacement in its middle; one of the daemons, or none, goes on."""

    async def act(world: World, chance: random.Random, tally: Tally) -> None:
        machine: ChaosMachine = getattr(world, side)
        world.order(seconds=chance.choice((0, 0.5, 2)))
        tally.faults["replacement ended early"] += await machine.break_replace(
            chance.uniform(*BROKEN_AFTER_S)
        )

    return act


def _point(side: str, points: tuple[str, ...]) -> Act:
    async def act(world: World, chance: random.Random, tally: Tally) -> None:
        machine: ChaosMachine = getattr(world, side)
        # The points that were reached least: each has its turn in a long run.
        fewest = min(tally.points[f"{side}: {point}"] for point in points)
        point = chance.choice([p for p in points if tally.points[f"{side}: {p}"] == fewest])
        by = passer(point)
        if by.unclaimed:
            world.worker.signal_shims(signal.SIGSTOP)
        machine.arm(point, chance.choice((0, 0, 1)) if by.often else 0)
        try:
            for _ in range(2):
                world.order(seconds=by.seconds, cancel_after_s=by.cancel_after_s)
            status = await machine.died(POINT_LIMIT_S)
        finally:
            machine.disarm()
            world.worker.signal_shims(signal.SIGCONT)
        # One that was not reached counts as had: it must not be waited for again and again.
        tally.points[f"{side}: {point}"] += 1
        if status is None:
            machine.kill()
            tally.faults["point not reached"] += 1
        elif machine.reached:
            tally.reached.add(f"{side}: {point}")

    return act


def _abort(side: str) -> Act:
    async def act(world: World, chance: random.Random, tally: Tally) -> None:
        del tally
        machine: ChaosMachine = getattr(world, side)
        machine.signal(chance.choice(ABORTS))
        status = await machine.died(VICTIM_LIMIT_S)
        assert status is not None, "a daemon survived an abort"

    return act


def _abort_go(side: str) -> Act:
    """Make a fault that lets the Go runtime end the process by itself, as after a panic."""

    async def act(world: World, chance: random.Random, tally: Tally) -> None:
        del tally
        machine: ChaosMachine = getattr(world, side)
        dumps = machine.log_text().count(GO_DUMP)
        machine.signal_go(chance.choice(GO_ABORTS))
        status = await machine.died(GO_ABORT_LIMIT_S)
        assert status is not None, "a daemon survived an abort of its Go runtime"
        assert machine.log_text().count(GO_DUMP) > dumps, "the Go runtime did not end it"

    return act


def _stop(side: str, range_s: tuple[float, float]) -> Act:
    async def act(world: World, chance: random.Random, tally: Tally) -> None:
        del tally
        machine: ChaosMachine = getattr(world, side)
        machine.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(chance.uniform(*range_s))
        finally:
            machine.signal(signal.SIGCONT)

    return act


def _jump(side: str) -> Act:
    async def act(world: World, chance: random.Random, tally: Tally) -> None:
        del tally
        machine: ChaosMachine = getattr(world, side)
        machine.shift_clock(chance.choice((-DAY_S, DAY_S)))
        try:
            await asyncio.sleep(chance.uniform(0.5, 2.5))
            if chance.random() < 0.5:
                machine.kill()
                await world.up()
        finally:
            machine.shift_clock(0)

    return act


def _tear(side: str) -> Act:
    """Make a fault that ends a daemon and spoils what its store had not acknowledged."""

    async def act(world: World, chance: random.Random, tally: Tally) -> None:
        machine: ChaosMachine = getattr(world, side)
        machine.kill()
        store = machine.state / "store"
        end = time.monotonic() + VICTIM_LIMIT_S
        # What is written after the cut would stand behind a torn entry: no power cut does that.
        while (writer := holder(store / "database.lock")) is not None:
            assert time.monotonic() < end, (
                f"process {writer} still has the store of a killed daemon"
            )
            await asyncio.sleep(GONE_POLL_S)
        for wal in store.glob("*.wal"):
            # All that is in it is in the journal as well, until a checkpoint.
            os.truncate(wal, chance.randrange(wal.stat().st_size + 1))
            tally.faults["wal cut"] += 1

    return act


FAULTS: tuple[Fault, ...] = (
    Fault("kill-caller", 3, _kill("caller")),
    Fault("kill-worker", 5, _kill("worker")),
    Fault("kill-both", 3, _kill("caller", "worker")),
    Fault("point-caller", 6, _point("caller", CALLER_POINTS)),
    Fault("point-worker", 8, _point("worker", WORKER_POINTS)),
    Fault("abort-caller", 1, _abort("caller")),
    Fault("abort-worker", 1, _abort("worker")),
    Fault("abort-go-caller", 1, _abort_go("caller")),
    Fault("abort-go-worker", 1, _abort_go("worker")),
    Fault("stop-caller", 1, _stop("caller", SHORT_STOP_S)),
    Fault("stop-worker", 1, _stop("worker", SHORT_STOP_S)),
    Fault("sleep-worker", 0, _stop("worker", LONG_STOP_S)),
    Fault("sleep-caller", 0, _stop("caller", LONG_STOP_S)),
    Fault("replace-caller", 2, _replace("caller")),
    Fault("replace-worker", 2, _replace("worker")),
    Fault("break-replace-caller", 1, _break_replace("caller")),
    Fault("break-replace-worker", 1, _break_replace("worker")),
    Fault("clock-caller", 1, _jump("caller")),
    Fault("clock-worker", 1, _jump("worker")),
    Fault("wal-caller", 1, _tear("caller")),
    Fault("wal-worker", 1, _tear("worker")),
    Fault("kill-shim", 5, task_faults.kill_shim),
    Fault("kill-shim-and-worker", 1, task_faults.kill_shim_and_worker),
    Fault("point-shim", 2, task_faults.shim_point),
    Fault("kill-agent", 1, task_faults.kill_agent),
    Fault("cut-spool", 1, task_faults.cut_spool),
    Fault("kill-relay", 1, task_faults.kill_relay),
    Fault("kill-under-session", 2, task_faults.kill_under_session),
)
