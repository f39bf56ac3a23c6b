"""Git as it is run for a patch: nothing that a repository or a user has configured has a turn.

Each run has a limit of time. What reads a patch has one of memory too: a few bytes of a binary
patch may say that they are to become very many.
"""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cmesh.errors import SandboxUnavailable, TaskError
from cmesh.runner.tree_git import QUIET
from cmesh.sandbox.plan import find_program

__all__ = ["GIT_LIMIT_S", "Git"]

GIT_LIMIT_S = 20.0
"""The longest that one run of git may take; a call of an agent waits 45 s in all."""

MEMORY_KIB = 2 * 1024 * 1024
"""Address space of a git that reads a patch."""

ERROR_CHARACTERS = 300

_SETTINGS = (
    "core.fsmonitor=false", "core.hooksPath=/dev/null", "core.attributesFile=/dev/null",
    "core.untrackedCache=false", "core.protectHFS=true", "core.protectNTFS=true",
    "core.pager=cat", "core.packedGitWindowSize=32m", "core.packedGitLimit=256m",
    "diff.external=", "submodule.recurse=false", "protocol.allow=never", "gc.auto=0",
    "maintenance.auto=false", "log.showSignature=false",
)  # fmt: skip


class Failed(TaskError):
    """Raised when git does not do what it was asked; its words may be remote text."""


class Git:
    """Git in one place, with the same settings everywhere.

    Attributes:
        env: what its runs find in their environment.
    """

    def __init__(self, cwd: str, **env: str) -> None:
        """Run in `cwd`; `env` are git's own variables, such as `GIT_DIR`."""
        program = find_program("git")
        if not program:
            raise SandboxUnavailable(
                "git checks and applies a patch, and is not installed",
                hint="install git (`apt-get install git`)",
            )
        options = [word for setting in _SETTINGS for word in ("-c", setting)]
        self._argv = [program, *options]
        self._cwd = cwd
        self.env: dict[str, str] = {**QUIET, "HOME": str(Path.home()), **env}

    def run(self, *argv: str, data: bytes = b"", nothing: int = 0) -> bytes:
        """Return what a command writes; `nothing` is a status besides 0 that is no failure.

        Raises:
            Failed: it ends otherwise, or takes too long.
        """
        done = self.result(*argv, data=data)
        if done.returncode not in {0, nothing}:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            said = lines[-1][:ERROR_CHARACTERS] if lines else "it says nothing"
            raise Failed(f"`git {argv[0]}`: {said}", hint="look at the repository with git")
        return done.stdout

    def line(self, *argv: str) -> str:
        """Return one line that a command writes, empty when it fails."""
        done = self.result(*argv)
        return "" if done.returncode else os.fsdecode(done.stdout).removesuffix("\n")

    def result(
        self, *argv: str, data: bytes = b"", more: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        """Return how a command ended; raises `Failed` when it takes too long, or cannot start."""
        limited = ("/bin/sh", "-c", 'ulimit -v "$0" 2>/dev/null; exec "$@"', str(MEMORY_KIB))
        env = {**self.env, **(more or {})}
        # A file, not a pipe: what is read and what is written may both be long.
        with tempfile.TemporaryFile() as given:
            given.write(data)
            given.seek(0)
            try:
                return subprocess.run(  # noqa: S603 - git, from the system's directories
                    [*limited, *self._argv, *argv],
                    stdin=given, capture_output=True, check=False, env=env, cwd=self._cwd,
                    timeout=GIT_LIMIT_S,
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise Failed(f"`git {argv[0]}` took more than {GIT_LIMIT_S:.0f} s") from error
            except OSError as error:  # a repository's settings may be too many to be told of
                raise Failed(f"`git {argv[0]}` cannot be started: {error.strerror}") from error
