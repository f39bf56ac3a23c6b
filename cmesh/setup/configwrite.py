"""A `config.toml` that a person has written, changed in its place: whole, or not at all.

What the file would say is read before it takes the place of what it says; a change that cannot be
made leaves it as it is. What a change may be is `cmesh.setup.configtext`.

INVARIANT: of this process one writer at a time compares and replaces, so that none undoes another's
change. An editor that saves within that instant, microseconds, is not seen.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from cmesh.config import ConfigFileError, load_config
from cmesh.errors import ConfigError
from cmesh.paths import replace_file, require_private_dir, require_private_file, sync

__all__ = ["put", "rewrite"]

_RETRIES = 3
"""How often a change is made anew because somebody else has written the file meanwhile."""

_NEW_MODE = 0o600
_turn = threading.Lock()


class _Changed(Exception):
    """Raised when the file is not what the change was made of."""


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    """Put what `change` makes of a configuration's text in its place, whole or not at all.

    Blocks on the disk. The file keeps its mode. Whoever writes it at the same time is not
    overwritten: the change is made of what they wrote.

    Raises:
        ConfigError: the file, or what it would be, cannot be used; nothing was written.
    """
    for _ in range(_RETRIES):
        load_config(path)  # others may not write it, and what stands there is right
        try:
            before = path.read_bytes()
            after = change(before.decode()).encode()
            if after == before:
                return
            if _replaced(path, before, after):
                return
        except OSError as error:
            raise _unwritable(path, error) from error
    raise ConfigError(f"`{path}` is being written by somebody else", hint="repeat it")


def put(path: Path, before: str | None, after: str | None) -> bool:
    """Put a text in a configuration's place if that still is `before`; None = no file.

    Blocks on the disk. Returns False, and changes nothing, where it is something else by now.

    Raises:
        ConfigError: what it would be cannot be used, or it cannot be written; it is as it was.
        UnsafePermissions: the file or its directory is a link, or others may write it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_private_dir(path.parent)
        old = None if before is None else before.encode()
        if after is not None:
            return _replaced(path, old, after.encode())
        with _turn:
            if _bytes(path) != old:
                return False
            path.unlink(missing_ok=True)
            sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    return True


def _replaced(path: Path, before: bytes | None, after: bytes) -> bool:
    """Write beside, read it as a configuration, and rename; False = the file has changed."""

    def usable(fresh: Path) -> None:
        try:
            load_config(fresh)
        except ConfigFileError as error:
            where = f"`{error.key}`: " if error.key else ""
            raise ConfigError(
                f"with the change config.toml could not be used: {where}{error.expected}", hint=""
            ) from None
        if _bytes(path) != before:
            raise _Changed

    with _turn:
        try:
            mode = _NEW_MODE if before is None else path.stat().st_mode & 0o777
            replace_file(path, after, mode=mode, check=usable)
        except (_Changed, FileNotFoundError):
            return False
    return True


def _bytes(path: Path) -> bytes | None:
    """Return a plain file's bytes; None = there is none.

    Raises:
        UnsafePermissions: it is a link, or others may write it.
    """
    try:
        require_private_file(path)
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"`{path}` cannot be written: {error.strerror or error}",
        hint="make it writable for you, then repeat",
    )
