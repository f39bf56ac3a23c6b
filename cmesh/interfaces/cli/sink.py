"""Where the rows of a query go: standard output, or a new file that its owner alone may read.

A file appears whole or not at all.
"""

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Generator
from pathlib import Path

from cmesh.errors import DiskFull, UsageError
from cmesh.text import one_line

__all__ = ["Sink"]

_SHOWN = 200


class Sink:
    """A place for one answer; empty `name` = standard output."""

    def __init__(self, name: str, *, force: bool) -> None:
        """Check that it can be written, before anybody is asked for rows.

        Raises:
            UsageError: the file is there already, its folder is not, or it is no file.
        """
        self.path = Path(name) if name else None
        self._force = force
        if self.path is None:
            if force:
                raise UsageError("`--force` is for `--output`")
            return
        if not self.path.parent.is_dir():
            raise UsageError(f"{self._shown} is in a folder that is not there")
        self._require_free()

    def require_no_terminal(self) -> None:
        """Raise `UsageError` where bytes that are no text would go to a terminal."""
        if self.path is None and sys.stdout.isatty():
            raise UsageError(
                "Parquet is no text for a terminal", hint="name a file: `--output FILE`"
            )

    def write(self, text: str) -> None:
        """Write all of it.

        Raises:
            UsageError: the file is there by now, or may not be made.
            DiskFull: there is no room.
        """
        if self.path is None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        with self.made() as place, open(place, "x", encoding="utf-8", opener=_private) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def made(self) -> Generator[Path]:
        """Give the path of a new file to be made; it gets its name when the block has ended well.

        Raises:
            UsageError: the file is there by now, or may not be made.
            DiskFull: there is no room.
        """
        assert self.path is not None
        place = self.path.with_name(f".{self.path.name[:100]}.{secrets.token_hex(4)}.part")
        try:
            yield place
            self._name(place)
        except FileExistsError as error:
            raise UsageError(f"{self._shown} is there already", hint=_OTHER) from error
        except PermissionError as error:
            raise UsageError(f"{self._shown} cannot be made: {error.strerror}") from error
        except OSError as error:
            raise DiskFull(f"{self._shown} cannot be written: {error.strerror}") from error
        finally:
            place.unlink(missing_ok=True)

    def _name(self, place: Path) -> None:
        assert self.path is not None
        if self._force:
            self._require_free()
            place.replace(self.path)
            return
        try:
            self.path.hardlink_to(place)  # unlike a rename, never over another file
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            self._require_free()
            place.rename(self.path)

    def _require_free(self) -> None:
        assert self.path is not None
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f"{self._shown} cannot be made: {error.strerror}") from error
        if not stat.S_ISREG(mode):
            raise UsageError(f"{self._shown} is there and is no plain file", hint="name a new file")
        if not self._force:
            raise UsageError(f"{self._shown} is there already", hint=_OTHER)

    @property
    def _shown(self) -> str:
        return f"`{one_line(str(self.path), _SHOWN)}`"


_OTHER = "name a new file, or put `--force` to replace it"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
