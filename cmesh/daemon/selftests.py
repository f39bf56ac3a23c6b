"""The self-tests of this machine's agents: which are due, one run of each at a time, its verdict.

Agents update themselves, so nobody can have tried every version before. What is due is looked
for again and again, and run in the background; the owner may ask for one at any time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cmesh.clock import Clock
from cmesh.config import Config
from cmesh.daemon.background import guarded
from cmesh.errors import RunnerUnavailable
from cmesh.platform.users import is_superuser
from cmesh.runner.confine import Sandboxes
from cmesh.runner.registry import Runners
from cmesh.runner.runner import Runner
from cmesh.runner.selftest.trial import Bench, Finding, self_test
from cmesh.runner.standing import SelfTest
from cmesh.runner.traps.trapset import load_traps
from cmesh.runner.verdicts import Record, Subject, Verdicts, subject_of
from cmesh.store.records import AuditRecord

__all__ = ["RUNNER_TESTED", "SelfTests", "wanted"]

logger = logging.getLogger(__name__)

RUNNER_TESTED = "runner_tested"
"""Kind of audit row: the verdict of a self-test."""

AFTER_START_S = 10.0
"""How long agents that may run anyway wait for theirs, so that a start is not slowed down."""

LOOK_AGAIN_S = 30.0

AS_ROOT = "the daemon runs as root and is not told to run tasks so"


def wanted(config: Config) -> frozenset[str]:
    """Return the names of runners that somebody means to use here."""
    rules = [rule for rule in config.policy.inbound if rule.effect == "allow"]
    return frozenset(config.runners) | {name for rule in rules for name in rule.runners}


@dataclass(slots=True, kw_only=True)
class SelfTests:
    """The self-tests of one daemon; used from one event loop.

    Attributes:
        place: below it each runner has a directory for its self-test.
        audit: makes a row durable; raises CmeshError when it cannot.
    """

    place: Path
    verdicts: Verdicts
    runners: Callable[[], Runners]
    config: Callable[[], Config]
    sandboxes: Sandboxes
    clock: Clock
    audit: Callable[[AuditRecord], Awaitable[None]]
    _running: dict[str, asyncio.Task[SelfTest]] = field(
        default_factory=dict[str, "asyncio.Task[SelfTest]"]
    )
    _keeping: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tried: set[tuple[Subject, str]] = field(default_factory=set[tuple[Subject, str]])

    def running(self, name: str) -> bool:
        """Say whether a runner is being tested just now."""
        return name in self._running

    async def watch(self) -> None:
        """Run what is due for ever; at first only for agents that nothing else speaks for."""
        await guarded(self._round(blocked=True))
        await asyncio.sleep(AFTER_START_S)
        while True:
            await guarded(self._round())
            await asyncio.sleep(LOOK_AGAIN_S)

    async def check(self, name: str) -> SelfTest:
        """Test a runner now, or wait for the test that runs; return what is known then.

        A cancelled call does not end the test.

        Raises:
            RunnerUnavailable: it cannot start here at all.
        """
        runner = await asyncio.to_thread(self.runners().resolve, name)
        if runner.test.state == "none":
            return runner.test
        test = self._running.get(name)
        if test is None:
            test = self._running[name] = asyncio.create_task(self._test(runner))
            test.add_done_callback(lambda _test: self._running.pop(name, None))
        return await asyncio.shield(test)

    async def close(self) -> None:
        """End what runs; its verdict is not made."""
        tests = list(self._running.values())
        for test in tests:
            test.cancel()
        await asyncio.gather(*tests, return_exceptions=True)

    async def _round(self, *, blocked: bool = False) -> None:
        names = await asyncio.to_thread(self._due, blocked)
        for name in names:
            try:
                await self.check(name)
            except (RunnerUnavailable, OSError):
                continue  # it has gone since

    def _due(self, blocked: bool) -> list[str]:  # noqa: FBT001 - a thread's argument
        config, runners = self.config(), self.runners()
        found: list[str] = []
        for name in sorted(wanted(config).intersection(runners.names())):
            try:
                runner = runners.resolve(name)
            except (RunnerUnavailable, OSError):
                continue
            if blocked and runner.untested() is None:
                continue
            if runner.test.state == "pending" or (
                runner.test.state == "unable"
                and (_subject(runner), config.sha256) not in self._tried
            ):
                found.append(name)
        return found

    async def _test(self, runner: Runner) -> SelfTest:
        """Run one self-test and keep its verdict, unless the program changed meanwhile."""
        subject = await asyncio.to_thread(_subject, runner)
        traps = load_traps(runner.manifest.name)
        if subject is None or traps is None:
            return SelfTest()
        config = self.config()
        bench = Bench(
            place=self.place / runner.name,
            sandboxes=self.sandboxes,
            config=config.sandbox,
            clock=self.clock,
        )
        if is_superuser() and not config.worker.allow_root:
            # INVARIANT: as for a task: nothing of an agent runs as root without its owner's word.
            finding = Finding(verdict="unable", reason=AS_ROOT)
        else:
            finding = await self_test(bench, runner, traps)
        self._tried.add((subject, config.sha256))
        if await asyncio.to_thread(_subject, runner) != subject:
            return SelfTest(state="pending")
        record = Record(
            subject=subject,
            verdict=finding.verdict,
            at=self.clock.now().isoformat(timespec="seconds"),
            sprung=finding.sprung,
            reason=finding.reason,
        )
        await guarded(self._keep(runner, record))
        return self.verdicts.of(runner.name, subject)

    async def _keep(self, runner: Runner, record: Record) -> None:
        try:
            async with self._keeping:
                await asyncio.to_thread(self.verdicts.keep, runner.name, record)
        except OSError as error:
            data = {"runner": runner.name, "why": error.strerror}
            logger.warning("verdict_not_kept", extra={"data": data})
        data = {
            "runner": runner.name,
            "version": runner.version,
            "verdict": record.verdict,
            "sprung": list(record.sprung),
            "reason": record.reason,
        }
        level = logging.INFO if record.verdict == "passed" else logging.WARNING
        logger.log(level, RUNNER_TESTED, extra={"data": data})
        await self.audit(AuditRecord(kind=RUNNER_TESTED, data=data))


def _subject(runner: Runner) -> Subject | None:
    try:
        return subject_of(
            runner.manifest,
            runner.program,
            runner.version,
            model=runner.model,
            env=runner.env,
            search_path=runner.search_path,
        )
    except OSError:
        return None
