"""Where agent programs are on this machine, and which versions. Blocks, but never long.

The daemon starts with a fixed environment, so the owner's `PATH` comes from a login shell.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cmesh.text import one_line

__all__ = ["Needs", "Programs", "needs_of", "state_of"]

SHELL_LIMIT_S = 5.0
VERSION_LIMIT_S = 30.0
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
INTERPRETERS = 4
"""How many programs one may lead to, each by its first line; `LINKS` to each of them."""

LINKS = 8
_SHEBANG_BYTES = 256
_MODULES = "/node_modules/"
_MARK = "cmesh-path:"
_FAILURES = (OSError, subprocess.SubprocessError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What must be there for a program to start, as far as its own file tells.

    Attributes:
        read: absolute paths of files and directories.
        links: absolute paths of links, and where each leads.
    """

    read: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()


class Programs:
    """Finds programs and asks their versions; answers are kept for the object's life.

    Attributes:
        search_path: given, or None = ask a login shell once, when first needed.
    """

    def __init__(self, search_path: str | None = None) -> None:
        self._search_path = search_path
        self._versions: dict[tuple[object, ...], str] = {}

    @property
    def search_path(self) -> str:
        """Return the `PATH` agents get. Blocks up to `SHELL_LIMIT_S` the first time."""
        if self._search_path is None:
            self._search_path = _login_path()
        return self._search_path

    def find(self, program: str) -> str:
        """Return the absolute path of a program; empty = it is not there.

        A name is looked for on `search_path`; a relative path is never taken.
        """
        if "/" in program and not program.startswith("/"):
            return ""
        found = shutil.which(program, path=self.search_path)
        return found if found is not None and found.startswith("/") else ""

    def version(
        self,
        program: str,
        arguments: tuple[str, ...],
        env: Mapping[str, str] | None = None,
        *,
        limit_s: float = VERSION_LIMIT_S,
    ) -> str:
        """Return the first line a program says about its version; empty = it does not say.

        `env` is added to its environment. Asked once in each way for each state of the file and
        of its interpreters. Blocks up to `limit_s`.
        """
        state = state_of(program, self.search_path)
        # INVARIANT: one program may be several agents, told apart by how it is asked, and the
        # version of one says nothing for another.
        key = (program, state, arguments, tuple(sorted((env or {}).items())))
        if key not in self._versions:
            self._versions[key] = self._ask(program, arguments, env or {}, limit_s)
        return self._versions[key]

    def _ask(
        self, program: str, arguments: tuple[str, ...], env: Mapping[str, str], limit_s: float
    ) -> str:
        try:
            # Some say nothing without a home to write to; what they write is taken away again.
            with TemporaryDirectory(prefix="cmesh-", ignore_cleanup_errors=True) as home:
                answer = subprocess.run(  # noqa: S603 - a program the owner configured
                    [program, *arguments],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=limit_s,
                    check=True,
                    cwd="/",
                    env={**env, "PATH": self.search_path, "HOME": home, "TMPDIR": home},
                )
        except (*_FAILURES, ValueError):  # the latter for a NUL in what it is asked by
            return ""
        return one_line(answer.stdout.decode("utf-8", "replace").partition("\n")[0], 80)


def needs_of(program: str, search_path: str) -> Needs:
    """Return what a program needs: its file, the way there, a script's interpreter.

    Packages of node.js are taken whole: a program there is useless without the others. What a
    program loads besides is the owner's to name. Blocks on the disk.
    """
    read: dict[str, None] = {}
    links: dict[str, str] = {}
    for place, real in _chain(program, search_path):
        links |= _links_to(place)
        head, modules, _ = real.partition(_MODULES)
        read[f"{head}{modules}".rstrip("/") if modules else real] = None
    return Needs(read=tuple(read), links=tuple(links.items()))


def state_of(program: str, search_path: str) -> tuple[tuple[str, int, int, int, int], ...]:
    """Return what tells a program from another one in its place: its file's and interpreters' state.

    Blocks on the disk.

    Raises:
        OSError: the program is gone.
    """
    found: list[tuple[str, int, int, int, int]] = []
    for _, real in _chain(program, search_path):
        try:
            info = Path(real).stat()
        except OSError:
            if not found:
                raise
            continue  # an interpreter that is not there: what needs it says nothing
        # npm sets one old `mtime` for every version, and an inode comes again; `ctime` tells.
        found.append((real, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns))
    return tuple(found)


def _chain(program: str, search_path: str) -> Iterator[tuple[str, str]]:
    """Yield a program and what it is read by, each with the file that it is behind links."""
    todo = [program]
    for _ in range(INTERPRETERS):
        if not todo:
            break
        place = todo.pop()
        real = os.path.realpath(place)
        yield place, real
        todo += _interpreter(real, search_path)


def _links_to(path: str) -> dict[str, str]:
    """Return the links on the way to a file: it may be one, or lie below one."""
    found: dict[str, str] = {}
    for _ in range(LINKS):
        place = Path(path)
        first = next((one for one in (*reversed(place.parents), place) if one.is_symlink()), None)
        if first is None:
            break
        found[str(first)] = str(first.readlink())
        # No parent of `first` is a link, so that `..` in where it leads means what it says.
        path = os.path.normpath(first.parent / found[str(first)] / place.relative_to(first))
    return found


def _interpreter(path: str, search_path: str) -> list[str]:
    """Return the program that a script names in its first line (execve(2))."""
    try:
        with Path(path).open("rb") as file:
            first = file.readline(_SHEBANG_BYTES)
    except OSError:
        return []
    words = first[2:].decode("utf-8", "replace").split() if first.startswith(b"#!") else []
    if words[:1] == ["/usr/bin/env"]:
        words = [shutil.which(word, path=search_path) or "" for word in words[1:] if word != "-S"]
    return [word for word in words[:1] if word.startswith("/")]


def _login_path() -> str:
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed command
            ["/bin/sh", "-lc", f'printf "\\n{_MARK}%s\\n" "$PATH"'],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SHELL_LIMIT_S,
            check=False,
            cwd="/",
            start_new_session=True,
        )
    except _FAILURES:
        return DEFAULT_PATH
    # Profiles may print: the marked line is ours, the last one wins.
    lines = answer.stdout.decode("utf-8", "replace").splitlines()
    marked = [line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)]
    return (marked or [""])[-1] or DEFAULT_PATH
