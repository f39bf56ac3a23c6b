"""Repositories and patches for the tests of applying: made by git as people use it."""

import os
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cmesh.patch.look import Look, look
from tests.system.runner.copying import commit, git

__all__ = ["Tree", "raw", "state"]


def raw(place: Path, *argv: str) -> bytes:
    """Run git as a person does; return its bytes."""
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.defpath}
    who = ("-c", "user.name=me", "-c", "user.email=me@example.com", "-c", "safe.directory=*")
    return subprocess.run(
        ["/usr/bin/git", *who, *argv], cwd=place, env=quiet, capture_output=True, check=True
    ).stdout


class Tree:
    """A repository with a commit, and patches made of it.

    Attributes:
        base: its first commit.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        (place / "code").write_text("one\n" * 20)
        (place / "sub").mkdir()
        (place / "sub" / "note").write_text("a note\n")
        (place / "tool").write_text("#!/bin/sh\n")
        (place / "tool").chmod(0o755)
        self.base = commit(place)

    def patch(self, script: str) -> bytes:
        """Return what a script changes, as a worker's patch has it; the tree is as before."""
        subprocess.run(["/bin/sh", "-ec", script], cwd=self.place, check=True, capture_output=True)
        git(self.place, "add", "--all", "--force")
        made = raw(self.place, "diff", "--cached", "--binary", "--full-index", "--no-renames")
        git(self.place, "reset", "--quiet", "--hard")
        git(self.place, "clean", "-qfdx")
        return made

    @contextmanager
    def look(
        self, patch: bytes, *, base: str | None = None, at: str = "", branch: str = ""
    ) -> Generator[Look]:
        with tempfile.TemporaryDirectory() as aside:
            wanted = self.base if base is None else base
            yield look(Path(aside), patch, wanted, str(self.place / at), branch)

    def objections(self, patch: bytes, **more: str) -> dict[str, list[str]]:
        """Return the codes of the objections, each with its paths."""
        with self.look(patch, **more) as seen:
            return {one.code: list(one.names) for one in seen.objections}


def state(place: Path) -> dict[str, tuple[str, object]]:
    """Return all that is below a directory, git's own too: mode, and content or target."""
    found: dict[str, tuple[str, object]] = {}
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = oct(path.lstat().st_mode)
            if path.is_symlink():
                content: object = str(path.readlink())
            else:
                content = None if path.is_dir() else path.read_bytes()
            found[str(path.relative_to(place))] = (mode, content)
    return found
