"""What the wizard keeps on disk: the one change that waits for its person, and what was applied.

Files of mode 0600 below the state directory, each replaced whole, so that an end at any point
leaves the old one or the new one.
"""

import contextlib
import hashlib
import secrets
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cmesh.errors import StoreError
from cmesh.paths import ensure_private_dir, replace_file
from cmesh.setup.plan import Plan

__all__ = ["EXPIRES_AFTER", "Applied", "Pending", "Records", "digest", "read_text"]

EXPIRES_AFTER = timedelta(minutes=15)
"""So long a change waits for its person."""

KEPT = 100
"""Applied changes that can be taken back, the newest."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Pending(_Record):
    """A change that waits; its id names it and authorises nothing."""

    plan_id: str
    plan: Plan
    made_at: datetime
    expires_at: datetime
    session: str = ""
    agent: str = ""
    pid: int = 0

    @classmethod
    def of(cls, plan: Plan, now: datetime, *, session: str, agent: str, pid: int) -> "Pending":
        """Return a new one."""
        return cls(
            plan_id=f"s-{secrets.token_hex(4)}",
            plan=plan,
            made_at=now,
            expires_at=now + EXPIRES_AFTER,
            session=session,
            agent=agent,
            pid=pid,
        )


class Applied(_Record):
    """A change that was applied, or was being applied (`done` is false) when the daemon ended."""

    plan_id: str
    plan: Plan
    at: datetime
    done: bool = False
    undone: bool = False
    backups: dict[str, str] = {}


class Records:
    """The wizard's directory."""

    def __init__(self, state_dir: Path) -> None:
        self._place = state_dir / "setup"

    def pending(self, now: datetime) -> Pending | None:
        """Return the change that waits; an expired or unreadable one counts as none."""
        try:
            found = Pending.model_validate_json(self._pending.read_bytes())
        except (OSError, ValidationError):
            return None
        return found if now < found.expires_at else None

    def keep_pending(self, pending: Pending | None) -> None:
        """Let this change wait, in the place of any other; None = none."""
        if pending is None:
            self._pending.unlink(missing_ok=True)
            return
        self._write(self._pending, pending.model_dump_json(indent=1))

    def keep(self, applied: Applied) -> None:
        """Write an applied change down; the oldest go when there are many."""
        place = self._place / f"{applied.at:%Y%m%dT%H%M%S%f}-{applied.plan_id}.json"
        self._write(place, applied.model_dump_json(indent=1))
        for old in self._files()[:-KEPT]:
            with contextlib.suppress(OSError):
                old.unlink()

    def applied(self) -> list[Applied]:
        """Return every applied change, the newest last; what cannot be read is left out."""
        found: list[Applied] = []
        for file in self._files():
            with contextlib.suppress(OSError, ValidationError):
                found.append(Applied.model_validate_json(file.read_bytes()))
        return found

    def _write(self, place: Path, text: str) -> None:
        """Write a record.

        Raises:
            StoreError: the state directory is full, or cannot be written.
        """
        try:
            ensure_private_dir(self._place)
            replace_file(place, text.encode())
        except OSError as error:
            raise StoreError(
                f"nothing was changed: `{self._place}` cannot be written: {error.strerror}",
                hint="make room there, or make it yours; then repeat the step",
            ) from error

    def _files(self) -> list[Path]:
        return sorted(self._place.glob("*T*-s-*.json"))

    @property
    def _pending(self) -> Path:
        return self._place / "pending.json"


def digest(text: str | None) -> str:
    """Return the SHA-256 of a file's text; empty = there is no file."""
    return "" if text is None else hashlib.sha256(text.encode()).hexdigest()


def read_text(path: Path) -> str | None:
    """Return a file's text; None = there is none.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
