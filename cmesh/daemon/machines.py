"""What peers have told of their machines, dated; a small file, 0600, that outlives the daemon.

A peer's word, of use to choose by and proof of nothing. It is kept while the peer is away.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter

from cmesh.clock import Clock
from cmesh.model import NodeId
from cmesh.protocol.link_messages import May
from cmesh.protocol.machine import Machine

__all__ = ["STALE", "Heard", "Machines"]

logger = logging.getLogger(__name__)

STALE = timedelta(hours=1)
"""What is older is said to be: a linked peer tells again every minute."""

PEERS_MOST = 1_000
FILE_BYTES = 8 * 1024 * 1024
WRITTEN_AGAIN = timedelta(minutes=10)
"""So much younger the same word must be for the file to be written for it."""

WRITE_PAUSE_S = 2.0


class _Kept(BaseModel):
    """One peer's word in the file."""

    model_config = ConfigDict(frozen=True)

    machine: Machine
    at: AwareDatetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a peer has told; `at` is when it was so, by this node's clock."""

    machine: Machine
    at: datetime


_FILE: TypeAdapter[dict[str, _Kept]] = TypeAdapter(dict[str, _Kept])


class Machines:
    """The machines of peers. Event loop only.

    Attributes:
        trouble: why what was kept is not all used, for people; empty = it is.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        """Read what was kept; a file that cannot be is put aside. Blocks on the disk."""
        self.trouble = ""
        self._path = path
        self._clock = clock
        found: Mapping[str, _Kept]
        try:
            found = _read(path)
        except (OSError, ValueError) as error:
            found = dict[str, _Kept]()
            self.trouble = _put_aside(path, str(error) if isinstance(error, _TooLarge) else "")
        self._heard = {NodeId(name): kept for name, kept in found.items()}
        self._written: Mapping[NodeId, _Kept] = dict(self._heard)
        self._to_write = asyncio.Event()
        self._waiting: dict[NodeId, list[asyncio.Event]] = {}

    def of(self, peer_id: NodeId) -> Heard | None:
        """Return what a peer has told last; None = nothing."""
        kept = self._heard.get(peer_id)
        return None if kept is None else Heard(machine=kept.machine, at=kept.at)

    def take(self, peer_id: NodeId, may: May) -> None:
        """Take what a peer says; one that lets this node ask for nothing is forgotten."""
        if not may.operations:
            self.forget(peer_id)
            return
        if may.machine is None:
            return  # not looked at yet, or an older version: what it said before is still dated
        at = self._clock.now() - timedelta(seconds=min(may.machine.age_s, 366 * 86_400))
        kept = _Kept(machine=may.machine.model_copy(update={"age_s": 0}), at=at)
        if peer_id not in self._heard and len(self._heard) >= PEERS_MOST:
            del self._heard[min(self._heard, key=lambda one: self._heard[one].at)]
        self._heard[peer_id] = kept
        before = self._written.get(peer_id)
        if before is None or before.machine != kept.machine or kept.at - before.at > WRITTEN_AGAIN:
            self._to_write.set()
        for waiter in self._waiting.get(peer_id, ()):
            waiter.set()

    def forget(self, peer_id: NodeId) -> None:
        """Forget what a peer has told."""
        if self._heard.pop(peer_id, None) is not None:
            self._to_write.set()

    async def wait(self, peer_id: NodeId, limit_s: float) -> None:
        """Wait until a peer has told something; at most `limit_s`."""
        if peer_id in self._heard:
            return
        told = asyncio.Event()
        self._waiting.setdefault(peer_id, []).append(told)
        try:
            async with asyncio.timeout(limit_s):
                await told.wait()
        except TimeoutError:
            return
        finally:
            self._waiting[peer_id].remove(told)
            if not self._waiting[peer_id]:
                del self._waiting[peer_id]

    async def keep(self) -> None:
        """Write the file whenever there is something new, for ever."""
        while True:
            await self._to_write.wait()
            await self.close()
            await asyncio.sleep(WRITE_PAUSE_S)  # a thousand peers that tell at once are one write

    async def close(self) -> None:
        """Write what is new."""
        if not self._to_write.is_set():
            return
        self._to_write.clear()
        heard = dict(self._heard)
        try:
            await asyncio.to_thread(_write, self._path, heard)
        except OSError as error:  # a full disk: what peers say they say again
            logger.warning("machines_not_kept", extra={"data": {"why": str(error)}})
            return
        self._written = heard


class _TooLarge(ValueError):
    """Raised when there is more than this node takes."""


def _read(path: Path) -> Mapping[str, _Kept]:
    """Return what a file holds, none when there is no file; raises ValueError when it is not ours."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    if len(data) > FILE_BYTES:
        raise _TooLarge(f"it has more than {FILE_BYTES} bytes")
    return _FILE.validate_json(data)


def _put_aside(path: Path, why: str) -> str:
    """Keep a file that is not used from being written over; say where it is, and log it."""
    aside = path.with_suffix(".unread")
    why = why or "it cannot be read as one of this version's"
    try:
        path.replace(aside)
        kept = f"it is `{aside}` now"
    except OSError as error:
        kept = f"it could not be put aside: {error.strerror}"
    said = f"what peers told of their machines, `{path}`, is not used: {why}; {kept}"
    logger.warning("machines_not_read", extra={"data": {"why": why, "kept": kept}})
    return said


def _fitting(heard: Mapping[NodeId, _Kept]) -> bytes:
    """Return the file's content; the oldest words give way where there are too many bytes."""
    newest = sorted(heard, key=lambda name: heard[name].at, reverse=True)
    left, parts = FILE_BYTES - 2, list[bytes]()
    for name in newest:
        part = _FILE.dump_json({str(name): heard[name]})[1:-1]
        if (left := left - len(part) - 1) < 0:
            data = {"kept": len(parts), "left_out": len(newest) - len(parts)}
            logger.warning("machines_left_out", extra={"data": data})
            break
        parts.append(part)
    return b"{" + b",".join(parts) + b"}"


def _write(path: Path, heard: Mapping[NodeId, _Kept]) -> None:
    incoming = path.with_suffix(".new")
    data = _fitting(heard)
    handle = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    incoming.replace(path)
