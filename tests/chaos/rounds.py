"""Rounds: tasks in flight, faults at random moments of a seed, then calm, then the judge.

Several pairs of machines run side by side, each with its own chance, so that one pair's
waiting is another's work. A round that finds a fault says with which seed to see it again, and
what the pair's machines had on their disks is kept.
"""

import asyncio
import contextlib
import math
import random
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cmesh.errors import CmeshError
from cmesh.node.testnet import Testnet
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.judge import Verdict
from tests.chaos.points import POINTS
from tests.chaos.tally import Tally
from tests.chaos.world import World, orders, world

__all__ = ["Plan", "Report", "play"]

FAULTS_A_ROUND = 5
TASKS_A_ROUND = 10
BETWEEN_S = (0.0, 1.6)
SPREAD_S = 6.0
KEPT = 6
"""Rounds with faults whose machines' disks are kept; the first ones tell most."""

_STOPS = (AssertionError, CmeshError, OSError, subprocess.TimeoutExpired)
"""What a daemon raises that does not start, answer or end; a `TimeoutError` is an `OSError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run.

    Attributes:
        kills, shims, replaces, rounds: how many there must be of each; it goes on until then.
        only: names of the kinds of faults; empty = all, by weight.
        pairs: machines side by side.
        limit_s: after that it is over, which is a fault.
    """

    seed: int
    kills: int = 0
    shims: int = 0
    replaces: int = 0
    rounds: int = 1
    only: tuple[str, ...] = ()
    pairs: int = 3
    limit_s: float = 3_600.0

    def is_done(self, report: "Report") -> bool:
        """There was enough of everything."""
        tally = report.tally
        enough = report.kills >= self.kills and report.rounds >= self.rounds
        return enough and tally.shims >= self.shims and len(tally.gaps_s) >= self.replaces


@dataclass(slots=True)
class Report:
    """What came of it.

    Attributes:
        faults: of cmesh, in words, with the round they came from.
        kept: where the disks of rounds with a fault are.
        stopped: somebody asked for an early end.
    """

    rounds: int = 0
    kills: int = 0
    tasks: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    tally: Tally = field(default_factory=Tally)
    faults: list[str] = field(default_factory=list[str])
    kept: list[str] = field(default_factory=list[str])
    settle_s: list[float] = field(default_factory=list[float])
    elapsed_s: float = 0.0
    stopped: bool = False

    def add(self, name: str, verdict: Verdict) -> None:
        """Count one round's verdict."""
        total = self.verdict
        total.lost += verdict.lost
        total.doubled += verdict.doubled
        total.wrong_state += verdict.wrong_state
        total.orphans += verdict.orphans
        total.interrupted += verdict.interrupted
        total.states += verdict.states
        self.rounds += 1
        self.tasks += verdict.states.total()
        self.faults += [f"round {name}: {fault}" for fault in verdict.faults]

    def line(self, seed: int) -> dict[str, object]:
        """Return the last line of output."""
        tally = self.tally
        return {
            "lost": len(self.verdict.lost),
            "doubled": len(self.verdict.doubled),
            "wrong_state": len(self.verdict.wrong_state),
            "orphans": len(self.verdict.orphans),
            "interrupted": self.verdict.interrupted,
            "kills": self.kills,
            "other_faults": len(self.faults) - len(self.verdict.faults),
            "shim_kills": tally.shims,
            "shim_reports_late": len(tally.slow),
            "shim_report_max_s": _quantile(tally.shim_reports_s, 1.0),
            "replaces": len(tally.gaps_s),
            "replace_gap_p95_s": _quantile(tally.gaps_s, 0.95),
            "replace_gap_max_s": _quantile(tally.gaps_s, 1.0),
            "agent_kills": tally.agents,
            "relay_kills": tally.relays,
            "sessions_that_went_on": tally.sessions,
            "rounds": self.rounds,
            "tasks": self.tasks,
            "states": dict(self.verdict.states),
            "faults": dict(tally.faults),
            "points_reached": len(tally.reached),
            "points_missed": sorted(set(tally.points) - tally.reached),
            "points": POINTS,
            "settle_max_s": _quantile(self.settle_s, 1.0),
            "elapsed_s": round(self.elapsed_s, 1),
            "seed": seed,
        }

    @property
    def clean(self) -> bool:
        """Nothing was lost, doubled, wrong or left, and each shim's end was told in time."""
        return not self.faults and not self.tally.slow


async def play(plan: Plan, say: Callable[[str], None], report: Report | None = None) -> Report:
    """Run the plan on machines of its own and report; `say` gets a line a round.

    A `report` that is handed in can be read, and its `stopped` set, while this runs.
    """
    report, began = report or Report(), time.monotonic()
    kinds = _kinds(plan.only)
    place = Path(tempfile.mkdtemp(prefix="cmesh-chaos-"))
    place.chmod(0o755)
    try:
        async with asyncio.timeout(plan.limit_s), asyncio.TaskGroup() as pairs:
            for number in range(plan.pairs):
                pair = _Pair(place / f"p{number}", plan, kinds, report, say)
                pairs.create_task(pair.run())
    except TimeoutError:
        report.faults.append(f"not done after {plan.limit_s:g} s")
    finally:
        for number in range(plan.pairs):
            shutil.rmtree(place / f"p{number}", ignore_errors=True)
        with contextlib.suppress(OSError):
            place.rmdir()  # unless something is kept
    report.elapsed_s = time.monotonic() - began
    return report


def _kinds(only: Sequence[str]) -> list[Fault]:
    if not only:
        return [fault for fault in FAULTS if fault.weight]
    found = [fault for fault in FAULTS if fault.name in only]
    unknown = set(only) - {fault.name for fault in found}
    if unknown:
        names = ", ".join(fault.name for fault in FAULTS)
        raise ValueError(f"no such kind: {', '.join(sorted(unknown))}; there are {names}")
    return found


def _quantile(values: Sequence[float], part: float) -> float | None:
    """Return the value that `part` of them do not exceed, None when there are none."""
    if not values:
        return None
    return round(sorted(values)[max(0, math.ceil(part * len(values)) - 1)], 3)


class _Pair:
    """Two machines and the rounds they go through."""

    def __init__(
        self,
        base: Path,
        plan: Plan,
        kinds: Sequence[Fault],
        report: Report,
        say: Callable[[str], None],
    ) -> None:
        self._base, self._plan, self._kinds = base, plan, kinds
        self._report, self._say = report, say
        self._chance = random.Random(f"{plan.seed} {base.name}")
        self._batch = f"{base.name}r0"

    async def run(self) -> None:
        """Play rounds until the plan is done, or the machines cannot go on, which is a fault."""
        try:
            # Each has a tailnet of its own, since their machines bear the same names.
            async with Testnet() as testnet, world(self._base, testnet) as made:
                number = 0
                while not self._over:
                    number += 1
                    made.batch = self._batch = f"{self._base.name}r{number}"
                    done = await self._round(made)
                    faults = (*self._report.faults, *self._report.tally.slow)
                    if any(fault.startswith(f"round {self._batch}:") for fault in faults):
                        self._keep()
                    so_far = f"{self._report.kills} kills so far"
                    self._say(f"{self._batch}: {', '.join(done)}; {so_far}")
        except _STOPS as error:
            self._report.faults.append(f"round {self._batch}: the pair stops: {error!r}")
            self._keep()

    @property
    def _over(self) -> bool:
        return self._report.stopped or self._plan.is_done(self._report)

    async def _round(self, made: World) -> list[str]:
        """Play one round, and add what the judge says of it; return its faults' names."""
        report = self._report
        made.asking = [
            asyncio.create_task(made.ask(order))
            for order in orders(made.batch, self._chance, TASKS_A_ROUND, SPREAD_S)
        ]
        watching = asyncio.create_task(made.watch())
        done: list[str] = []
        try:
            while len(done) < FAULTS_A_ROUND and not self._over:
                done.append(await self._fault(made))
            for answer in await asyncio.gather(*made.asking, return_exceptions=True):
                if isinstance(answer, BaseException):
                    report.faults.append(f"round {made.batch}: a client was told {answer!r}")
            began = time.monotonic()
            await made.settle()
            report.settle_s.append(time.monotonic() - began)
        finally:
            for task in (*made.asking, watching):
                task.cancel()
            with contextlib.suppress(Exception):
                await asyncio.wait([*made.asking, watching])
        report.add(f"{made.batch}: by {', '.join(done)}", await made.judged())
        return done

    async def _fault(self, made: World) -> str:
        """Draw one and play it; return its name."""
        report, kinds = self._report, self._kinds
        await asyncio.sleep(self._chance.uniform(*BETWEEN_S))
        [fault] = self._chance.choices(kinds, [max(1, kind.weight) for kind in kinds])
        try:
            await fault.act(made, self._chance, report.tally)
        except (AssertionError, CmeshError) as error:
            report.faults.append(f"round {made.batch}: {fault.name}: {error}")
        report.tally.faults[fault.name] += 1
        await made.up()
        for machine in (made.caller, made.worker):
            report.kills += machine.kills
            machine.kills = 0
        return fault.name

    def _keep(self) -> None:
        """Copy what the machines have on their disks, as it is now."""
        if len(self._report.kept) >= KEPT:
            return
        to = self._base.parent / f"kept-{self._batch}"
        with contextlib.suppress(shutil.Error):  # the daemons run on: a file may go meanwhile
            shutil.copytree(self._base, to, symlinks=True, ignore=_sockets, dirs_exist_ok=True)
        self._report.kept.append(str(to))
        self._say(f"{self._batch}: a fault; kept {to}")


def _sockets(directory: str, names: list[str]) -> list[str]:
    """Return what cannot be copied: sockets, pipes and what goes while we look."""
    left: list[str] = []
    for name in names:
        try:
            mode = Path(directory, name).lstat().st_mode
        except OSError:
            left.append(name)
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            left.append(name)
    return left
