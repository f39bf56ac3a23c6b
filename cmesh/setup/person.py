"""Whether a person is likely to be at the other end: a terminal, and no agent above it.

This guards against mistakes and against calls that a text talked an agent into. A program of the
same user that leaves its agent's processes and makes a terminal of its own has its owner's
authority; nothing here can tell it from one.
"""

import contextlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from cmesh.errors import TaskRefused
from cmesh.runner.shim_processes import stat_of

__all__ = ["AGENT_VARIABLES", "require_person"]

AGENT_VARIABLES = (
    "CLAUDECODE",
    "CODEX_SANDBOX",
    "CODEX_CI",
    "GEMINI_CLI",
    "OPENCODE",
    "CURSOR_AGENT",
)
"""What agents set for the commands they run."""

ANCESTORS_LIMIT = 64
_TTY_FIELD = 4
READ_AND_SHOWN = (0, 1)


def require_person(
    pid: int,
    agents: Collection[int],
    *,
    command: str = "cmesh confirm",
    terminals: Sequence[int] = READ_AND_SHOWN,
) -> None:
    """Refuse a process that no person can be speaking through. Linux; reads /proc.

    Args:
        pid: the process that gives the answer.
        agents: processes that have `cmesh mcp` as their child: agents, whatever their name.
        command: what a person is to run instead.
        terminals: its descriptors by which it shows and reads.

    Raises:
        TaskRefused: it has no terminal, an agent started it, or it cannot be looked at.
    """
    own = f"open a terminal of your own, outside of every agent, and run `{command}`"
    try:
        if not _has_terminal(pid, terminals):
            raise TaskRefused("nobody is at a terminal to confirm this", hint=own)
        found = _marks(pid)
    except OSError as error:
        raise TaskRefused("who confirms this cannot be seen", hint=own) from error
    if found:
        raise TaskRefused(
            f"`{found}` is set, so an agent has started this; an agent confirms nothing",
            hint=own,
        )
    for _ in range(ANCESTORS_LIMIT):
        if pid in agents:
            raise TaskRefused(
                "an agent that uses cmesh has started this; an agent confirms nothing",
                hint=own,
            )
        stat = stat_of(pid)
        if stat is None or stat[1] <= 1:
            return
        pid = stat[1]


def _has_terminal(pid: int, terminals: Sequence[int]) -> bool:
    """Say whether it has a controlling terminal, and reads and writes one."""
    text = Path(f"/proc/{pid}/stat").read_bytes()
    fields = text[text.rindex(b")") + 2 :].split()
    if int(fields[_TTY_FIELD]) == 0:  # proc_pid_stat(5): tty_nr
        return False
    return all(_is_terminal(f"/proc/{pid}/fd/{number}") for number in terminals)


def _is_terminal(descriptor: str) -> bool:
    with contextlib.suppress(OSError):
        return str(Path(descriptor).readlink()).startswith(
            ("/dev/pts/", "/dev/tty", "/dev/console")
        )
    return False


def _marks(pid: int) -> str:
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    names = {os.fsdecode(item.partition(b"=")[0]) for item in environment}
    return next((name for name in AGENT_VARIABLES if name in names), "")
