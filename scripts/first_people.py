"""Who acts in the first five minutes: an agent's model that follows `next`, a person's terminal."""

import ast
import contextlib
import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.fakes.live_model import LiveModel

__all__ = ["LIMIT_S", "Agent", "Terminal"]

LIMIT_S = 120.0
"""How long the next word of the other side is waited for."""


class Agent:
    """The model of a session: it calls what `next` says, with what the person has said beside."""

    def __init__(self, live: LiveModel, given: Mapping[str, str]) -> None:
        self._live = live
        self._given = given
        self._next = ""
        live.heard(0, LIMIT_S)

    def follow(
        self,
        first: str = "",
        *,
        to: Callable[[dict[str, Any]], bool],
        given: Mapping[str, object] | None = None,
    ) -> str:
        """Call `first`, then what comes next, until it is told what is waited for."""
        tool, arguments = (first, dict[str, Any]()) if first else _call(self._next)
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            if tool == "setup_step" and arguments.get("step") == "machine":
                arguments |= self._given
            if tool == "delegate":
                arguments |= given or {}
            number = self._live.say({"tool": f"mcp__cmesh__{tool}", "input": arguments})
            heard = self._live.heard(number + 1, LIMIT_S).text
            told: dict[str, Any] = json.loads(heard) if heard.startswith("{") else {"error": heard}
            self._next = str(told.get("next", ""))
            if to(told):
                return heard
            if "error" in told:
                raise RuntimeError(heard)
            tool, arguments = _call(self._next)
        raise TimeoutError(f"what was waited for did not come; next: {self._next}")


class Terminal:
    """A terminal with a command in it, given as the command line that runs it on its machine."""

    def __init__(self, inside: Sequence[str]) -> None:
        self._screen = ""
        self._fd, child = pty.openpty()
        argv = ["setsid", "--ctty", "--wait", *inside]
        self._process = subprocess.Popen(argv, stdin=child, stdout=child, stderr=child)
        os.close(child)

    def until(self, pattern: str) -> str:
        """Read on until the screen has that; return its first group."""
        while not (found := re.search(pattern, self._screen.replace("\r", ""))):
            self._read()
        return found[1] if found.groups() else found[0]

    def type(self, line: str) -> None:
        """Type a line."""
        self._screen = ""
        os.write(self._fd, f"{line}\n".encode())

    def end(self) -> None:
        """Wait for the command's end.

        Raises:
            RuntimeError: it failed; shows the screen.
        """
        with contextlib.suppress(OSError):
            while True:
                self._read()
        if self._process.wait(LIMIT_S):
            raise RuntimeError(self._screen)

    def _read(self) -> None:
        data = os.read(self._fd, 65_536)  # EIO: the command has ended
        if not data:
            raise OSError(self._screen)
        self._screen += data.decode()


def _call(text: str) -> tuple[str, dict[str, Any]]:
    """Return the tool and the arguments of a literal call."""
    tree = ast.parse(text, mode="eval").body
    assert isinstance(tree, ast.Call)
    assert isinstance(tree.func, ast.Name)
    words = {str(one.arg): ast.literal_eval(one.value) for one in tree.keywords}
    return tree.func.id, words
