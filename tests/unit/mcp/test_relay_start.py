"""The relay finds the daemon where everything else finds it, and starts one when it may."""

# pyright: reportPrivateUsage=false

import os
from pathlib import Path

import pytest

from cmesh import paths
from cmesh.interfaces import start
from cmesh.interfaces.mcp import relay_start

LONG = "/tmp/" + "d" * 120


@pytest.mark.parametrize(
    "environment",
    [
        {"CMESH_STATE_DIR": "/srv/state"},
        {"CMESH_STATE_DIR": "relative/state"},
        {"CMESH_STATE_DIR": LONG, "XDG_RUNTIME_DIR": "/run/user/1"},
        {"CMESH_STATE_DIR": LONG},
        {"XDG_STATE_HOME": "/srv/xdg"},
        {},
    ],
)
def test_the_socket_is_where_cmesh_paths_puts_it(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CMESH_STATE_DIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    state = relay_start.state_dir()
    assert Path(state) == paths.state_dir()
    assert Path(relay_start.control_socket(state)) == paths.control_socket(Path(state))


def test_the_mark_is_the_one_that_down_leaves(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    start.mark_down(tmp_path)
    assert Path(relay_start.down_mark(str(tmp_path))).exists()


@pytest.mark.parametrize("status", [0, 1])
@pytest.mark.parametrize("answered", [True, False])
def test_a_daemon_that_answered_before_its_starter_ended_may_be_started_again_at_once(
    tmp_path: Path, status: int, *, answered: bool
) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    command = ("/bin/sh", "-c", f"read word <{go}; exit {status}")
    starter = relay_start.Starter(command, str(tmp_path / "down"))
    starter.start(100.0)
    if answered:
        starter.answered()
    go.write_text("on\n", "utf-8")
    os.waitid(os.P_PID, starter._pid, os.WEXITED | os.WNOWAIT)
    assert starter.poll(101.0)
    assert starter.refuses(101.5) is (status == 1 and not answered)
    assert starter.waits(101.5) is not answered
    assert starter.waits(102.5) is (status == 1 and not answered)


@pytest.mark.parametrize("answered", [True, False])
def test_a_start_that_is_slow_does_not_count_as_dead(tmp_path: Path, *, answered: bool) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    command = ("/bin/sh", "-c", f"read word <{go}")
    starter = relay_start.Starter(command, str(tmp_path / "down"))
    starter.start(100.0)
    if answered:
        starter.answered()
    assert not starter.poll(101.0)
    late = 100.0 + relay_start.START_LIMIT_S
    assert starter.poll(late)
    assert starter.refuses(late + 0.5) is not answered
    assert not starter.refuses(late + relay_start.START_SOON_S)
