"""The secrets that this daemon itself knows, for them to be taken out of what it keeps and sends.

Reads the key files that the configuration names. INVARIANT: a value once known is looked
for until this daemon ends, also when its file has another by then.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from cmesh.config import Config
from cmesh.errors import ConfigError, RunnerUnavailable
from cmesh.paths import key_file, login_file, require_private_file
from cmesh.redact import Redactor
from cmesh.runner.logins import load

__all__ = ["Secrets"]

FILE_BYTES = 16 * 1024
"""A longer file is no key."""

# A variable so named is handed to a program as a secret; others (a path, a language) would
# be found all over its output.
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)

Mark = tuple[int, int]


class Secrets:
    """What is known now. Blocks for a moment when a file has changed."""

    def __init__(
        self,
        config: Callable[[], Config],
        environment: Mapping[str, str],
        state: Path | None = None,
    ) -> None:
        self._state = state
        self._config = config
        self._environment = environment
        self._files: dict[Path, Mark | None] = {}
        self._values: set[str] = set()
        self._redactor = Redactor()

    def redactor(self) -> Redactor:
        """Return what finds every secret that is known; the same one while nothing changed."""
        config = self._config()
        values = self._named(config) | self._read(config)
        if not values <= self._values:
            self._values |= values
            self._redactor = Redactor(self._values)
        return self._redactor

    def _read(self, config: Config) -> set[str]:
        files = [runner.key_file for runner in config.runners.values()]
        logins: list[Path] = []
        if self._state is not None:
            kept, login = key_file(self._state, "*"), login_file(self._state, "*")
            files += kept.parent.glob(kept.name)
            logins += login.parent.glob(login.name)
        found = set[str]()
        for path in (*files, *logins, config.node.auth_key_file):
            if path is None:
                continue
            mark = _mark(path)
            if mark is not None and self._files.get(path) != mark:
                found |= _login_words(path) if path in logins else _words(path)
            self._files[path] = mark
        return found

    def _named(self, config: Config) -> set[str]:
        given = [runner.env for runner in config.runners.values()]
        passed = {name for command in config.commands.values() for name in command.env_pass}
        own = {name: self._environment.get(name, "") for name in passed}
        return {
            value.strip()
            for variables in (*given, own)
            for name, value in variables.items()
            if _SECRET_NAME.search(name)
        }


def _mark(path: Path) -> Mark | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size


def _login_words(path: Path) -> frozenset[str]:
    try:
        return load(path).secrets()
    except RunnerUnavailable:
        return frozenset()


def _words(path: Path) -> set[str]:
    """Return the lines of a key file; what no runner could use is no secret of ours."""
    try:
        require_private_file(path, secret=True)
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except (OSError, ConfigError):
        return set()
    text = data.decode("utf-8", "replace") if len(data) <= FILE_BYTES else ""
    return {line.strip() for line in text.splitlines() if line.strip()}
