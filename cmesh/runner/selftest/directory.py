"""A hostile working directory: traps planted, and what was sprung. Blocks on the disk."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cmesh.runner.traps.trapset import PLACEHOLDER, Traps

__all__ = ["Hostile", "TrapsUnfit"]

CONTROL = "control"
CONTROL_LIMIT_S = 10.0
PROGRAMS = "bin"
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")


class TrapsUnfit(Exception):
    """Raised when no trap could be sprung here, so that a self-test would prove nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """A directory full of traps.

    Attributes:
        directory: absolute; where the agent starts.
        marks: absolute; where each program that is started leaves a file of its trap's name.
        decoy: URL of the model server that the directory would have the agent ask.
        canary: a word that should reach no model.
    """

    directory: Path
    marks: Path
    decoy: str
    canary: str

    def plant(self, traps: Traps) -> None:
        """Write the traps' files and programs; whatever has their names is replaced.

        Raises:
            TrapsUnfit: a path of this machine cannot stand in them.
            OSError: the disk refuses.
        """
        for path in (self.directory, self.marks):
            if not _PLAIN.fullmatch(str(path)):
                raise TrapsUnfit(f"`{path}` has characters that no trap can name")
        for name, text in traps.files.items():
            filled = PLACEHOLDER.sub(lambda found: self._value(found[1], found[2], found[3]), text)
            self.write(name, filled)

    def write(self, name: str, text: str) -> None:
        """Write one file below the directory; a script is made a program."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        if text.startswith("#!"):
            path.chmod(0o755)

    def trap(self, name: str) -> str:
        """Make a program that leaves a mark, and says the canary; return its path."""
        self.write(
            f"{PROGRAMS}/{name}",
            f"#!/bin/sh\n: > {shlex.quote(str(self.marks / name))}\necho {self.canary}\n",
        )
        return str(self.directory / PROGRAMS / name)

    def require_works(self) -> None:
        """Spring one trap of its own, by hand.

        Raises:
            TrapsUnfit: it left no mark.
        """
        mark = self.marks / CONTROL
        try:
            subprocess.run(  # noqa: S603 - written by this very function
                [self.trap(CONTROL)], check=True, capture_output=True, timeout=CONTROL_LIMIT_S
            )
            mark.unlink()
        except (OSError, subprocess.SubprocessError) as error:
            raise TrapsUnfit(f"programs in `{self.directory}` do not start") from error

    def sprung(self, more: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the names of the traps that worked, `more` among them, sorted."""
        traps = {entry.name for entry in (self.directory / PROGRAMS).iterdir()}
        marks = {entry.name for entry in self.marks.iterdir()}
        return tuple(sorted((traps & marks) | set(more)))

    def _value(self, kind: str, name: str, other: str) -> str:
        value = self.trap(name) if kind else {"decoy": self.decoy, "canary": self.canary}[other]
        # Without its quotes; in TOML's strings the same escapes mean the same.
        return json.dumps(value)[1:-1]
