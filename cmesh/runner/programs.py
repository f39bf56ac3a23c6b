"""Where agent programs are on this machine, and which versions. Blocks, but never long.

The daemon starts with a fixed environment, so the owner's `PATH` comes from a login shell.
"""

import shutil
import subprocess
from pathlib import Path

from cmesh.text import one_line

__all__ = ["Programs"]

SHELL_LIMIT_S = 5.0
VERSION_LIMIT_S = 10.0
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_MARK = "cmesh-path:"
_FAILURES = (OSError, subprocess.SubprocessError)


class Programs:
    """Finds programs and asks their versions; answers are kept for the object's life.

    Attributes:
        search_path: given, or None = ask a login shell once, when first needed.
    """

    def __init__(self, search_path: str | None = None) -> None:
        self._search_path = search_path
        self._versions: dict[tuple[str, int], str] = {}

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

    def version(self, program: str, arguments: tuple[str, ...]) -> str:
        """Return the first line a program says about its version; empty = it does not say.

        Asked once for each state of the file. Blocks up to `VERSION_LIMIT_S`.
        """
        key = (program, Path(program).stat().st_mtime_ns)
        if key not in self._versions:
            self._versions[key] = self._ask(program, arguments)
        return self._versions[key]

    def _ask(self, program: str, arguments: tuple[str, ...]) -> str:
        try:
            answer = subprocess.run(  # noqa: S603 - a program the owner configured
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=VERSION_LIMIT_S,
                check=True,
                cwd="/",
                env={"PATH": self.search_path, "HOME": "/nonexistent"},
            )
        except _FAILURES:
            return ""
        return one_line(answer.stdout.decode("utf-8", "replace").partition("\n")[0], 80)


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
