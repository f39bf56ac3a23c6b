"""Finding the processes a run has caused: by directory, and by descent."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmesh.interfaces.demo.processes import alive, descendants, processes_with

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

LIMIT_S = 20.0
PARENT = """
import subprocess, sys
child = subprocess.Popen(["sleep", "600"])
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env={"MARK": str(tmp_path), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.communicate(timeout=LIMIT_S)


def child_of(parent: "subprocess.Popen[str]") -> int:
    assert parent.stdout is not None
    return int(parent.stdout.readline())


def test_a_process_is_found_by_a_path_in_its_environment(
    tmp_path: Path, parent: "subprocess.Popen[str]"
) -> None:
    child = child_of(parent)
    assert set(processes_with(tmp_path)) == {parent.pid, child}
    assert processes_with(tmp_path / "other") == []


def test_a_child_is_found_by_descent_and_counts_until_it_has_ended(
    parent: "subprocess.Popen[str]",
) -> None:
    child = child_of(parent)
    family = descendants([parent.pid])
    assert alive(family) == [child]
    parent.communicate(timeout=LIMIT_S)
    assert alive(family) == []


def test_a_reused_pid_is_another_process(parent: "subprocess.Popen[str]") -> None:
    child = child_of(parent)
    assert alive({(child, "1")}) == []


def test_an_ended_child_that_nobody_has_reaped_counts_as_ended() -> None:
    ended = subprocess.Popen(["sleep", "600"])
    (started,) = [one for one in descendants([os.getpid()]) if one[0] == ended.pid]
    ended.kill()
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert alive({started}) == []
    ended.wait(LIMIT_S)
