"""A settings file of another program: read whole, replaced whole, or left exactly as it was.

INVARIANT: nobody ever reads a half-written file, and what another program wrote after we read
is never lost: the file is compared again right before it is replaced. A link leads on to the
file that it means, as managers of dotfiles set them.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from cmesh.clock import Clock, SystemClock
from cmesh.errors import ConfigError, SettingsChanged
from cmesh.paths import ensure_private_dir, sync

__all__ = [
    "READ_BYTES",
    "Content",
    "digest",
    "keep",
    "locked",
    "make_directories",
    "private",
    "read",
    "remove",
    "remove_empty",
    "replace",
]

READ_BYTES = 64 * 2**20
"""The largest settings file that is touched; Claude Code's grows with its history."""

LOCK_LIMIT_S = 15.0
STALE_S = 10.0
"""Claude Code touches its lock more often than that, and takes an older one away."""

_LOCK_STEP_S = 0.1
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A file as it was read.

    Attributes:
        path: as it was asked for.
        real: the file itself, behind links.
        data: its bytes; None = there is no such file.
        text: without a byte order mark; empty without a file.
        bom: the mark, or nothing.
    """

    path: Path
    real: Path
    data: bytes | None
    text: str = ""
    bom: bytes = b""

    def encoded(self, text: str) -> bytes:
        """Return the bytes of a new text of this file."""
        return self.bom + text.encode("utf-8")


def digest(data: bytes | None) -> str:
    """Return the SHA-256 of a content as hex; empty for no file."""
    return "" if data is None else hashlib.sha256(data).hexdigest()


def read(path: Path) -> Content:
    """Return what a settings file holds. Blocks on the disk.

    Raises:
        ConfigError: it cannot be read, is no plain file of this user, or not UTF-8.
    """
    real = Path(os.path.realpath(path))
    try:
        data = _bytes(real)
    except OSError as error:
        raise ConfigError(
            f"`{path}` cannot be read: {error.strerror}", hint=f"look at it: ls -l {path}"
        ) from error
    if data is None:
        return Content(path=path, real=real, data=None)
    bom = _BOM if data.startswith(_BOM) else b""
    try:
        text = data[len(bom) :].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"`{path}` is not UTF-8 (byte {error.start + len(bom)})",
            hint="save it as UTF-8 in an editor, then repeat",
        ) from error
    return Content(path=path, real=real, data=data, text=text, bom=bom)


def replace(before: Content, data: bytes) -> None:
    """Put new bytes into a file's place, in one step. Mode stays; a new file gets 0600. Blocks.

    Raises:
        SettingsChanged: it is not as it was read any more; nothing was changed.
        ConfigError: it cannot be written; nothing was changed.
    """
    try:
        fd, name = tempfile.mkstemp(prefix=f".{before.real.name}.", dir=before.real.parent)
    except OSError as error:
        raise _unwritable(before, error) from error
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if before.data is not None:
                os.fchmod(fd, stat.S_IMODE(before.real.stat().st_mode))
            os.fsync(fd)
        require_unchanged(before)
        Path(name).replace(before.real)
        sync(before.real.parent)
    except OSError as error:
        raise _unwritable(before, error) from error
    finally:
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, clock: Clock | None = None) -> Generator[None]:
    """Hold the lock that Claude Code takes for its settings: the directory `FILE.lock`.

    It reads, changes and writes its file under it, so while it is ours nothing of that is lost.
    One that is older than `STALE_S` was left by a process that died, for Claude Code too. Blocks
    up to `LOCK_LIMIT_S`.

    Raises:
        SettingsChanged: another process keeps it.
        ConfigError: it cannot be made.
    """
    place = path.with_name(f"{path.name}.lock")
    now = clock or SystemClock()
    for _ in range(int(LOCK_LIMIT_S / _LOCK_STEP_S)):
        try:
            place.mkdir(mode=0o700)
        except FileExistsError:
            with contextlib.suppress(OSError):
                if now.now().timestamp() - place.stat().st_mtime > STALE_S:
                    place.rmdir()
                    continue
            time.sleep(_LOCK_STEP_S)
        except OSError as error:
            raise ConfigError(
                f"`{path}` cannot be locked: {error.strerror}", hint=f"ls -ld {path.parent}"
            ) from error
        else:
            break
    else:
        raise SettingsChanged(f"another program keeps `{path}` locked", hint=f"ls -ld {place}")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            place.rmdir()


def remove(before: Content) -> None:
    """Delete a file that we made. Blocks.

    Raises:
        SettingsChanged: it is not as it was read any more; nothing was changed.
        ConfigError: it cannot be deleted.
    """
    require_unchanged(before)
    try:
        before.real.unlink()
    except OSError as error:
        raise _unwritable(before, error) from error


def require_unchanged(before: Content) -> None:
    """Check that a file still is what was read.

    Raises:
        SettingsChanged: it is not.
    """
    changed = f"`{before.path}` was changed by another program meanwhile"
    try:
        data = _bytes(before.real)
    except OSError as error:  # there is something, which could be read before or was not there
        raise SettingsChanged(changed) from error
    if Path(os.path.realpath(before.path)) != before.real or data != before.data:
        raise SettingsChanged(changed)


def keep(directory: Path, name: str, data: bytes) -> Path:
    """Keep a copy that this user alone may read; return where. Blocks.

    Raises:
        ConfigError: it cannot be written.
    """
    place = directory / name
    try:
        ensure_private_dir(directory)
        place.unlink(missing_ok=True)
        with open(place, "xb", opener=private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(
            f"no backup can be kept in `{directory}`: {error.strerror}", hint=f"ls -ld {directory}"
        ) from error
    return place


def private(path: str, flags: int) -> int:
    """Open a file for this user alone; `open` takes it as its `opener`."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def remove_empty(directories: Iterable[Path]) -> None:
    """Delete directories that are empty, the innermost first; others stay."""
    for one in directories:
        with contextlib.suppress(OSError):
            one.rmdir()


def make_directories(path: Path) -> tuple[Path, ...]:
    """Make a directory and those above it, mode 0700; return those that were not there. Blocks.

    Raises:
        ConfigError: it cannot be made.
    """
    made: list[Path] = []
    todo = [path, *path.parents]
    for one in reversed(todo):
        if one.is_dir():
            continue
        try:
            one.mkdir(mode=0o700)
        except OSError as error:
            remove_empty(reversed(made))
            raise ConfigError(
                f"`{one}` cannot be made: {error.strerror}", hint=f"look at it: ls -ld {one.parent}"
            ) from error
        made.append(one)
    return tuple(made)


def _bytes(real: Path) -> bytes | None:
    """Return a plain file's bytes; None = it is not there.

    Raises:
        ConfigError: it is something else, another user's, too large, or has a second name.
        OSError: it cannot be read.
    """
    try:
        # A pipe in its place must not make us wait.
        fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ConfigError(f"`{real}` is no plain file", hint=f"look at it: ls -ld {real}")
        if info.st_uid != os.getuid():
            raise ConfigError(
                f"`{real}` belongs to uid {info.st_uid}, not to you", hint=f"ls -l {real}"
            )
        if info.st_nlink > 1:
            # Replacing would part it from its other name, and writing into it would not be whole.
            raise ConfigError(
                f"`{real}` has {info.st_nlink} hard links, so it cannot be replaced",
                hint="make it one file, or a symbolic link, then repeat",
            )
        if info.st_size > READ_BYTES:
            raise ConfigError(f"`{real}` is larger than {READ_BYTES // 2**20} MiB", hint="")
        return file.read()


def _unwritable(before: Content, error: OSError) -> ConfigError:
    return ConfigError(
        f"`{before.path}` cannot be written: {error.strerror}; it is as it was",
        hint=f"look at its directory: ls -ld {before.real.parent}",
    )
