"""A `config.toml` that a person has written, changed in its place: whole, or not at all.

What the file would say is read before it takes the place of what it says; a change that cannot be
made leaves it as it is. What a change may be is `cmesh.setup.configtext`.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from cmesh.config import ConfigFileError, load_config
from cmesh.errors import ConfigError
from cmesh.paths import sync

__all__ = ["rewrite"]

_RETRIES = 3
"""How often a change is made anew because somebody else has written the file meanwhile."""


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
            mode = path.stat().st_mode & 0o777
            if _replaced(path, before, after, mode):
                return
        except OSError as error:
            raise ConfigError(
                f"`{path}` cannot be written: {error.strerror or error}",
                hint="make it writable for you, then repeat",
            ) from error
    raise ConfigError(f"`{path}` is being written by somebody else", hint="repeat it")


def _replaced(path: Path, before: bytes, after: bytes, mode: int) -> bool:
    """Write beside, read it as a configuration, and rename; False = the file has changed."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(after)
            file.flush()
            os.fsync(fd)
        try:
            load_config(fresh)
        except ConfigFileError as error:
            where = f"`{error.key}`: " if error.key else ""
            raise ConfigError(
                f"with the change config.toml could not be used: {where}{error.expected}", hint=""
            ) from None
        if path.read_bytes() != before:
            return False
        fresh.replace(path)
        sync(path.parent)
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
