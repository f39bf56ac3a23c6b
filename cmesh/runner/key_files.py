"""Reading the owner's keys: one key in a file that nobody else may read. Blocks on the disk."""

from pathlib import Path

from cmesh.errors import ConfigError, RunnerUnavailable
from cmesh.paths import require_private_file

__all__ = ["read_key"]


def read_key(path: str | Path) -> str:
    """Return the key in a file, as it stands there now.

    Raises:
        RunnerUnavailable: it cannot be read, is no plain text, is empty, or others may read it.
    """
    try:
        require_private_file(Path(path), secret=True)
        key = Path(path).read_text(encoding="ascii").strip()
    except ConfigError as error:
        raise RunnerUnavailable(error.message, hint=error.hint) from error
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not plain text"
        raise RunnerUnavailable(f"key file `{path}` cannot be read: {why}") from error
    if not key:
        raise RunnerUnavailable(f"key file `{path}` is empty")
    return key
