"""Who may confirm: a process with a terminal, and no agent above it."""

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Generator

import pytest

from cmesh.errors import TaskRefused
from cmesh.setup.person import AGENT_VARIABLES, require_person

WAITS = "import sys; print('up', flush=True); sys.stdin.read()"


@contextlib.contextmanager
def at_a_terminal(env: dict[str, str] | None = None) -> Generator[int]:
    """Run a program that waits, with a terminal of its own; yields its pid."""
    parent, child = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in AGENT_VARIABLES}
    argv = ["setsid", "--ctty", sys.executable, "-c", WAITS]
    with subprocess.Popen(
        argv, stdin=child, stdout=child, stderr=child, env=clean | (env or {})
    ) as process:
        os.close(child)
        os.read(parent, 100)
        yield process.pid
        process.kill()
    os.close(parent)


def test_a_person_at_a_terminal_may():
    with at_a_terminal() as pid:
        require_person(pid, ())


def test_one_without_a_terminal_may_not():
    with subprocess.Popen(
        [sys.executable, "-c", WAITS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        with pytest.raises(TaskRefused, match="nobody is at a terminal"):
            require_person(process.pid, ())
        process.kill()


@pytest.mark.parametrize("variable", AGENT_VARIABLES)
def test_one_that_an_agent_has_marked_may_not(variable: str):
    with at_a_terminal({variable: "1"}) as pid, pytest.raises(TaskRefused, match=variable):
        require_person(pid, ())


def test_one_below_an_agent_may_not():
    with at_a_terminal() as pid, pytest.raises(TaskRefused, match="an agent that uses cmesh"):
        require_person(pid, [os.getpid()])


def test_one_that_is_gone_may_not():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(TaskRefused):
        require_person(process.pid, ())
