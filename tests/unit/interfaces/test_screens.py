"""Screens are known by the locks that their processes hold, and by nothing that was left there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmesh.interfaces import screens
from cmesh.interfaces.screens import SCREENS, Screen, end, kept, opened
from cmesh.locks import shared

_OPEN = """
import sys
from pathlib import Path
from cmesh.interfaces.screens import kept
with kept(Path(sys.argv[1]), "watch"):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    argv = [sys.executable, "-c", _OPEN, str(tmp_path)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "open\n"
        yield running
        running.kill()


def test_one_that_is_open_is_found_and_ended(
    tmp_path: Path, process: "subprocess.Popen[str]"
) -> None:
    [screen] = opened(tmp_path)
    assert screen == Screen("watch", process.pid)
    end(screen)
    assert process.wait() != 0
    assert opened(tmp_path) == ()


def test_a_number_that_was_left_there_is_of_nobody_who_would_be_ended(
    tmp_path: Path, process: "subprocess.Popen[str]"
) -> None:
    [mine] = (tmp_path / SCREENS).iterdir()
    # As a killed one leaves it, and its number is another process's by now.
    (tmp_path / SCREENS / f"dashboard-{os.getppid()}").write_text(f"{os.getppid()}\n")
    (tmp_path / SCREENS / "dashboard-4194311").write_text("4194311\n")
    (tmp_path / SCREENS / "else").touch()
    assert [one.pid for one in opened(tmp_path)] == [process.pid]
    with kept(tmp_path, "dashboard"):
        names = {path.name for path in (tmp_path / SCREENS).iterdir()}
    assert names == {mine.name, f"dashboard-{os.getppid()}", "else", f"dashboard-{os.getpid()}"}


def test_where_nothing_can_be_written_it_shows_all_the_same(tmp_path: Path) -> None:
    with kept(tmp_path / "not" / "there", "watch"):
        assert opened(tmp_path / "not" / "there") == ()


def test_one_whose_lock_another_keeps_shows_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screens, "LOOKED_AT_S", 0.0)
    (tmp_path / SCREENS).mkdir()
    path = tmp_path / SCREENS / f"watch-{os.getpid()}"
    path.touch()
    with shared(path), kept(tmp_path, "watch"):
        pass
    assert not path.exists()


def test_one_that_does_not_end_is_named(
    tmp_path: Path, process: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screens, "END_LIMIT_S", 0.0)

    def deaf(_pid: int, _number: int) -> None:
        """Do nothing, as one that ignores the signal."""

    monkeypatch.setattr(os, "kill", deaf)
    [screen] = opened(tmp_path)
    with pytest.raises(screens.DaemonTimeout, match=rf"process {process.pid}\) does not end"):
        end(screen)
