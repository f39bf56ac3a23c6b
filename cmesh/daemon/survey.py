"""What this machine tells of itself: looked at in the background, told to peers with a grant.

Nothing is looked at before somebody may be told, or the daemon has run for a while, so that a
start costs no programs.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from cmesh.clock import Clock
from cmesh.config import Config
from cmesh.protocol.machine import RUNNERS_MOST, Machine, RunnerFact
from cmesh.runner.machine import Surveyor, version_number
from cmesh.runner.registry import Runners, RunnerStatus

__all__ = ["Survey"]

AFTER_START_S = 10.0
LOOK_AGAIN_S = 60.0
"""How often it is looked whether a tool's file, a runner or the configuration has changed."""

WHOLE_AGAIN_S = 6 * 3600.0
"""How often everything is asked anew, the login shell and the graphics processors too."""

_OF_KIND: Mapping[str, tuple[str, ...]] = {
    "system": ("os", "distribution", "os_version", "arch", "cpus", "memory"),
    "tools": ("tools",),
    "gpu": ("gpus", "gpu_by"),
    "labels": ("labels",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    machine: Machine
    runners: tuple[RunnerStatus, ...]
    at: float  # by the monotonic clock


class Survey:
    """The looks at one machine; used from one event loop."""

    def __init__(
        self,
        *,
        runners: Callable[[], Runners],
        config: Callable[[], Config],
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        """Make it; `changed` is told when peers should hear something new."""
        self._runners = runners
        self._config = config
        self._clock = clock
        self._changed = changed
        self._surveyor = Surveyor()
        self._seen: _Seen | None = None
        self._whole_at = 0.0
        self._wanted = asyncio.Event()
        self._look_now = asyncio.Event()

    @property
    def age_s(self) -> float | None:
        """Seconds since this machine was looked at; None = not yet."""
        return None if self._seen is None else self._clock.monotonic() - self._seen.at

    def again(self) -> None:
        """Look soon: something was configured anew."""
        self._look_now.set()

    def told(self, runners: Collection[str]) -> Machine | None:
        """Return what a peer that may ask for `runners` is told; None = not looked at yet."""
        self._wanted.set()
        return self.own(runners)

    def own(self, runners: Collection[str] | None = None) -> Machine | None:
        """Return the same, with every runner when none are named; asks for no look."""
        if self._seen is None:
            return None
        told = self._config().node.tell
        fields = {name: getattr(self._seen.machine, name) for kind in told for name in _of(kind)}
        if "labels" in told:  # those of now, without a look
            fields["labels"] = self._config().node.labels
        if "runners" in told:
            fields["runners"] = _facts(self._seen.runners, runners)
        return Machine(**fields, age_s=int(self._clock.monotonic() - self._seen.at))

    async def watch(self) -> None:
        """Look again and again, for ever."""
        try:
            async with asyncio.timeout(AFTER_START_S):
                await self._wanted.wait()
        except TimeoutError:
            pass
        while True:
            self._look_now.clear()
            await self._look()
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._look_now.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        now = self._clock.monotonic()
        whole = self._seen is None or now - self._whole_at >= WHOLE_AGAIN_S
        if whole:
            self._whole_at = now
        told = self._config().node.tell
        asks = bool({"system", "tools", "gpu"}.intersection(told))
        look = asyncio.to_thread(self._surveyor.look, whole=whole)
        machine = await look if asks else Machine()
        runners = await asyncio.to_thread(self._runners().status)
        before = self.own()
        self._seen = _Seen(machine=machine, runners=tuple(runners), at=now)
        after = self.own()
        if before is None or after is None or not _same(before, after):
            self._changed()


def _of(kind: str) -> tuple[str, ...]:
    return _OF_KIND.get(kind, ())


def _facts(
    runners: Collection[RunnerStatus], named: Collection[str] | None
) -> tuple[RunnerFact, ...]:
    shown = [one for one in runners if named is None or one.name in named]
    return tuple(
        RunnerFact(name=one.name, version=version_number(one.version), ready=one.available)
        for one in shown[:RUNNERS_MOST]
    )


def _same(left: Machine, right: Machine) -> bool:
    return left.model_copy(update={"age_s": 0}) == right.model_copy(update={"age_s": 0})
