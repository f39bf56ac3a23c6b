"""Time as a value: the one place that reads the machine's clocks.

Everything else takes a `Clock`, so that tests and replays choose the time.
"""

import time
from datetime import UTC, datetime
from typing import Protocol

from typing_extensions import override

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Two clocks: one for people and records, one for deadlines."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware and in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go backwards; only differences mean anything."""
        ...


class SystemClock(Clock):
    """The clocks of this machine."""

    @override
    def now(self) -> datetime:
        return datetime.now(UTC)

    @override
    def monotonic(self) -> float:
        return time.monotonic()
