"""The configuration in force: read again when its file changes, refused as a whole when bad.

A file that cannot be used allows nothing. Beside it stand the owner's runner manifests, of which
a bad one takes away its runner alone. What a rule means is decided in
`cmesh.policy`, not here.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cmesh.config import Config, load_config
from cmesh.daemon.roots import Roots
from cmesh.errors import ConfigError, by_code
from cmesh.policy.decide import Decision
from cmesh.policy.rules import Policy
from cmesh.runner.own_manifests import Manifests, load_all, stamp_of

__all__ = ["Rules"]

logger = logging.getLogger(__name__)

_NOTHING = Policy(inbound=(), outbound=(), sha256="")


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What tells one version of a file from another without reading it."""

    mtime_ns: int
    size: int
    inode: int


class Rules:
    """Hands out the current configuration.

    Attributes:
        error: why the file is not in force; None = it is.
        roots: the directories that the rules in force name.
        manifests: every runner manifest of this machine.
        on_change: told of each new version of file or manifests, once it is in force.
    """

    def __init__(self, path: Path) -> None:
        self.error: ConfigError | None = None
        self.on_change: Callable[[Config], None] | None = None
        self._path = path
        self._taking_up = threading.RLock()
        self._stamp = _stamp(path)
        self._config = load_config(path)
        self.roots = Roots(self._config.policy)
        self._manifests_stamp = stamp_of(path.parent)
        self.manifests: Manifests = load_all(path.parent)

    def config(self) -> Config:
        """Return the configuration as the file is now; blocks for a `stat` of it, and of each manifest.

        A changed file that is bad, or gone, leaves everything but the policy as it was
        and allows nothing, until it is mended.
        """
        # INVARIANT: whoever comes while another thread takes up a change waits for it, or would
        # decide by rules that are in force no more.
        with self._taking_up:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self._load()
            seen = stamp_of(self._path.parent)
            if seen != self._manifests_stamp:
                self._manifests_stamp = seen
                self._load_manifests()
            return self._config

    def policy(self) -> Policy:
        """Return the rules in force now."""
        return self.config().policy

    def honest(self, decision: Decision) -> Decision:
        """Return a decision that was made just now; a denial says when no rule is in force."""
        if self.error is None or decision.effect != "deny":
            return decision
        return replace(decision, reason=f"no rule is in force: {self.error.message}")

    def require_in_force(self) -> None:
        """Raise what is wrong with the file as it is now, if anything is.

        Raises:
            ConfigError: it allows nothing until it is mended; names line, key and what was expected.
        """
        self.config()
        if self.error is not None:
            # A new one: an error that is raised again and again collects tracebacks.
            raise by_code(self.error.code)(self.error.message, hint=self.error.hint)

    def _load(self) -> None:
        before, was_bad = self._config, self.error is not None
        try:
            self._config = load_config(self._path)
            self.error = None
            if before.configured and not self._config.configured:
                raise ConfigError(f"`{self._path}` is gone")
        except ConfigError as error:
            self.error = error
            self._config = replace(before, policy=_NOTHING)
            logger.error("config_refused", extra={"data": {"why": error.message}})  # noqa: TRY400
        self.roots.read(self._config.policy)
        if self._config.sha256 != before.sha256 or self.error is not None or was_bad:
            self._changed()

    def _load_manifests(self) -> None:
        self.manifests = load_all(self._path.parent)
        for error in self.manifests.broken.values():
            logger.error("manifest_refused", extra={"data": {"why": error.message}})
        self._changed()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change(self._config)


def _stamp(path: Path) -> _Stamp | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return _Stamp(info.st_mtime_ns, info.st_size, info.st_ino)
