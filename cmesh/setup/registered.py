"""What the record of the installation says of agents' entries, and the lock it is changed under.

The record is `installed.json`; an entry of kind `mcp` says what was put into an agent's settings
and what has to be done to have them as they were.
"""

import contextlib
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cmesh import __version__
from cmesh.errors import ConfigError, StoreBusy
from cmesh.locks import FileLock, Held
from cmesh.setup.installed import Entry, read_installed, record_file, write_installed

__all__ = ["Registered", "Registry", "changing", "registered"]

LOCK_LIMIT_S = 10.0
_LOCK_STEP_S = 0.05
_KIND = "mcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What was put into one agent's settings.

    Attributes:
        client: the agent.
        path: of its settings, behind links.
        after: SHA-256 of the file once the entry was there.
        backup: a copy of the file as it was before; empty: there was none.
        exact: whether that copy, or the absence of a file, is the state without anything of ours.
        made: whether the file is ours, for it was not there.
        made_table: whether the table that holds all servers is ours.
        folders: those made on the way to the file, the outermost first.
    """

    client: str
    path: str
    after: str
    backup: str = ""
    exact: bool = False
    made: bool = False
    made_table: bool = False
    folders: tuple[str, ...] = ()


_FORM = TypeAdapter(Registered)


class Registry:
    """The record's entries, changed by whoever holds them."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._entries = read_installed(data)

    def of(self, client: str) -> Registered | None:
        """Return what is recorded for an agent."""
        return next((one for one in _read(self._entries) if one.client == client), None)

    def put(self, client: str, now: Registered | None) -> None:
        """Record another entry for an agent, or none. Blocks on the disk.

        Raises:
            ConfigError: the record cannot be written.
        """
        rest = [one for one in self._entries if not _is_of(one, client)]
        fresh: list[Entry] = [{"kind": _KIND, **asdict(now)}] if now is not None else []
        try:
            if not rest and not fresh:
                record_file(self._data).unlink(missing_ok=True)
            else:
                write_installed(self._data, [*rest, *fresh], version=__version__)
        except OSError as error:
            raise ConfigError(f"`{self._data}` cannot be written: {error.strerror}") from error
        self._entries = [*rest, *fresh]


def registered(data: Path) -> tuple[Registered, ...]:
    """Return what is recorded for all agents. Blocks on the disk.

    Raises:
        ConfigError: the record cannot be read.
    """
    return tuple(_read(read_installed(data)))


@contextlib.contextmanager
def changing(data: Path) -> Generator[Registry]:
    """Hold the record while it is changed. Blocks up to `LOCK_LIMIT_S` on another holder.

    Raises:
        StoreBusy: another process still changes it.
        ConfigError: it cannot be read, or its directory not be written.
    """
    lock = FileLock(data / "installed.lock")
    try:
        # The installer makes it as the person's umask says; its record is no secret.
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        _take(lock)
    except Held as held:
        raise StoreBusy(
            f"another cmesh changes what is installed ({held})", hint="wait for it, then repeat"
        ) from held
    except OSError as error:
        raise ConfigError(
            f"`{data}` cannot be written: {error.strerror}", hint=f"ls -ld {data.parent}"
        ) from error
    try:
        yield Registry(data)
    finally:
        lock.release()


def _take(lock: FileLock) -> None:
    for _ in range(int(LOCK_LIMIT_S / _LOCK_STEP_S)):
        try:
            lock.acquire()
        except Held:
            time.sleep(_LOCK_STEP_S)
        else:
            return
    lock.acquire()


def _is_of(entry: Entry, client: str) -> bool:
    return entry.get("kind") == _KIND and entry.get("client") == client


def _read(entries: Sequence[Entry]) -> list[Registered]:
    found: list[Registered] = []
    for entry in entries:
        if entry.get("kind") != _KIND:
            continue
        fields = {name: value for name, value in entry.items() if name != "kind"}
        # One that is not readable is as good as none: what is ours is seen by the entry itself.
        with contextlib.suppress(ValidationError):
            found.append(_FORM.validate_python(fields))
    return found
