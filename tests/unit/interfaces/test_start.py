"""Starting a real daemon process (the fake one): clean, once, and only when wanted."""

import json
import os
import stat
import sys
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from cmesh import __version__
from cmesh.errors import (
    CmeshError,
    ConfigError,
    DaemonError,
    DaemonNotRunning,
    DaemonTimeout,
    StoreBusy,
    UnsafePermissions,
)
from cmesh.interfaces import daemon_log, start
from cmesh.interfaces.client import ControlClient, run
from cmesh.interfaces.launch import record_launch
from cmesh.interfaces.start import Running
from cmesh.locks import FileLock
from cmesh.paths import config_dir, control_socket, ensure_private_dir
from cmesh.store.head import STORE_LOCK

ROOT = Path(__file__).parents[3]
IMPORTS = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
SERVE = IMPORTS + "from tests.fakes.daemon import main; sys.exit(main())"
LOOK = f"""
import json, os, sys
mask = os.umask(0); os.umask(mask)
found = {{"env": dict(os.environ), "cwd": os.getcwd(), "umask": mask,
    "open": [os.path.exists(f"/proc/self/fd/{{n}}") for n in map(int, sys.argv[1:])],
    "leads_session": os.getsid(0) == os.getpid()}}
with open(os.environ["CMESH_STATE_DIR"] + "/seen.json", "w") as out:
    json.dump(found, out)
{SERVE}
"""
FAIL = (
    IMPORTS
    + "from cmesh.errors import StoreBusy\n"
    + "from cmesh.interfaces.daemon_log import report_failure\n"
    + "report_failure(StoreBusy('taken', hint='look'), sys.stderr)\nsys.exit(71)"
)
GONE_LIMIT_S = 10.0


def program(monkeypatch: pytest.MonkeyPatch, source: str, *arguments: str) -> None:
    argv = [sys.executable, "-c", source, *arguments]

    def serve_argv(_state: Path, _config: Path) -> list[str]:
        return argv

    monkeypatch.setattr(start, "serve_argv", serve_argv)


@pytest.fixture
def stopped_after(state: Path) -> Iterator[None]:
    yield

    async def stop(client: ControlClient) -> int:
        pid = (await client.status()).pid
        await client.down()
        return pid

    pid = run(control_socket(state), stop)
    assert start.wait_gone(pid, GONE_LIMIT_S)


@pytest.mark.usefixtures("stopped_after")
def test_the_daemon_inherits_nothing_but_the_fixed_environment(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    inherited = os.open("/", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    program(monkeypatch, LOOK, str(inherited))
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    monkeypatch.setenv("CMESH_TESTNET", "1")
    try:
        running = start.start_daemon(state, config_dir())
    finally:
        os.close(inherited)
    assert running == Running(version=__version__, pid=running.pid)
    seen = json.loads((state / "seen.json").read_text())
    assert {"PATH", "HOME", "CMESH_STATE_DIR", "CMESH_CONFIG_DIR"} <= set(seen["env"])
    assert seen["env"]["CMESH_TESTNET"] == "1"
    assert "SECRET_TOKEN" not in seen["env"]
    assert (seen["cwd"], seen["umask"], seen["leads_session"]) == ("/", 0o077, True)
    assert seen["open"] == [False]


@pytest.mark.usefixtures("stopped_after")
def test_of_many_starters_one_wins_and_all_use_its_daemon(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    program(monkeypatch, SERVE)
    found: list[Running] = []
    threads = [
        threading.Thread(target=lambda: found.append(start.start_daemon(state, config_dir())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(running.pid != 0 for running in found) == 1
    assert [running.version for running in found] == [__version__] * 4


def test_a_daemon_that_ends_at_once_is_reported_as_the_error_it_named(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    program(monkeypatch, FAIL)
    with pytest.raises(StoreBusy, match="taken") as caught:
        start.start_daemon(state, config_dir())
    assert caught.value.hint == "look"


@pytest.fixture
def taken(state: Path) -> Iterator[None]:
    """Another process has the store."""
    ensure_private_dir(state)
    (state / "store").mkdir()
    lock = FileLock(state / "store" / STORE_LOCK)
    lock.acquire()
    yield
    lock.release()


@pytest.mark.usefixtures("stopped_after", "taken")
def test_a_daemon_that_finds_its_store_taken_leaves_the_answer_to_the_one_that_starts(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    program(monkeypatch, FAIL)
    real = start.pause

    def pause() -> None:
        monkeypatch.setattr(start, "pause", real)
        log = daemon_log.open_log(state)
        other = start.spawn([sys.executable, "-c", SERVE], state, config_dir(), log)
        other.returncode = 0  # it outlives us, and Popen would warn of it
        os.close(log)

    monkeypatch.setattr(start, "pause", pause)
    assert start.start_daemon(state, config_dir()).version == __version__


@pytest.mark.usefixtures("taken")
def test_a_store_that_stays_taken_without_an_answer_is_an_error(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    program(monkeypatch, FAIL)
    monkeypatch.setattr(start, "BUSY_LIMIT_S", 0.0)
    with pytest.raises(StoreBusy, match="taken"):
        start.start_daemon(state, config_dir())


@pytest.mark.parametrize("limit_s", [3_600.0, 0.0])
def test_a_daemon_that_takes_connections_is_given_time_to_answer(
    state: Path, monkeypatch: pytest.MonkeyPatch, limit_s: float
):
    program(monkeypatch, FAIL)
    monkeypatch.setattr(start, "SLOW_LIMIT_S", limit_s)
    answers = iter([DaemonTimeout("not yet"), Running(version="1")])

    def probe(_state: Path) -> Running:
        answer = next(answers)
        if isinstance(answer, DaemonTimeout):
            raise answer
        return answer

    monkeypatch.setattr(start, "probe", probe)
    if limit_s:
        assert start.ensure_daemon(state, config_dir()) == Running(version="1")
    else:
        with pytest.raises(DaemonTimeout):
            start.ensure_daemon(state, config_dir())


def test_without_a_report_the_last_error_line_of_this_start_is_shown(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    state.mkdir(mode=0o700)
    log = daemon_log.log_file(state)
    log.write_text("2026-01-01T00:00:00Z error cmesh old_trouble\n")
    log.chmod(0o600)
    lines = "2026-01-01T00:00:01Z error cmesh node_died why=x\n2026-01-01T00:00:02Z info cmesh bye"
    program(monkeypatch, f"import sys; sys.exit({lines!r})")
    with pytest.raises(DaemonError, match=r"status 1: .*node_died why=x"):
        start.start_daemon(state, config_dir())
    program(monkeypatch, "raise SystemExit(3)")
    with pytest.raises(DaemonError, match="status 3: it wrote nothing"):
        start.start_daemon(state, config_dir())


def test_after_down_nothing_but_up_starts_a_daemon(state: Path, monkeypatch: pytest.MonkeyPatch):
    program(monkeypatch, FAIL)
    start.mark_down(state)
    with pytest.raises(DaemonNotRunning):
        start.ensure_daemon(state, config_dir())
    start.clear_down(state)
    start.clear_down(state)
    with pytest.raises(StoreBusy):
        start.ensure_daemon(state, config_dir())


@pytest.mark.usefixtures("stopped_after")
def test_a_daemon_that_a_service_manager_keeps_is_waited_for(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    ensure_private_dir(state)
    record_launch(state, "service")
    real, managers = start.pause, list[Running]()

    def pause() -> None:
        # The manager starts it while somebody waits, and nobody else may.
        monkeypatch.setattr(start, "pause", real)
        program(monkeypatch, SERVE)
        managers.append(start.start_daemon(state, config_dir()))
        program(monkeypatch, FAIL)

    monkeypatch.setattr(start, "pause", pause)
    found = start.ensure_daemon(state, config_dir())
    assert [found.version] == [manager.version for manager in managers]


@pytest.mark.usefixtures("stopped_after")
def test_a_service_manager_s_daemon_that_does_not_come_back_is_replaced(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    ensure_private_dir(state)
    record_launch(state, "service")
    monkeypatch.setattr(start, "SERVICE_WAIT_S", 0.1)
    program(monkeypatch, SERVE)
    assert start.ensure_daemon(state, config_dir()).pid > 0


def test_a_long_log_is_put_aside_and_the_new_one_is_private(
    state: Path, monkeypatch: pytest.MonkeyPatch
):
    state.mkdir(mode=0o700)
    log = daemon_log.log_file(state)
    log.write_bytes(b"old")
    monkeypatch.setattr(daemon_log, "LOG_LIMIT_BYTES", 2)
    program(monkeypatch, FAIL)
    with pytest.raises(StoreBusy):
        start.start_daemon(state, config_dir())
    assert (state / "daemon.log.1").read_bytes() == b"old"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_log_that_others_can_read_is_refused(state: Path):
    state.mkdir(mode=0o700)
    daemon_log.log_file(state).touch()
    daemon_log.log_file(state).chmod(0o644)
    with pytest.raises(UnsafePermissions):
        start.start_daemon(state, config_dir())


def test_a_failure_report_is_one_line():
    stream = StringIO()
    daemon_log.report_failure(CmeshError("two\nlines", hint=""), stream)
    assert stream.getvalue().count("\n") == 1


def test_the_daemon_is_this_interpreter_cut_off_from_its_surroundings(state: Path):
    assert start.serve_argv(state, state) == [
        *(sys.executable, "-I", "-m", "cmesh"),
        *("daemon", "--detached"),
    ]


def test_a_process_that_is_gone_is_not_waited_for():
    assert start.wait_gone(2**22 + 1, GONE_LIMIT_S)
    assert not start.wait_gone(os.getpid(), 0)


def test_a_state_directory_that_cannot_be_made_or_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made: File exists") as caught:
        start.start_daemon(tmp_path / "file" / "state", tmp_path)
    assert "CMESH_STATE_DIR" in caught.value.hint

    # Root may write everywhere but on a file system that is read-only.
    def refused(_path: Path, _mode: int) -> bool:
        return False

    monkeypatch.setattr(os, "access", refused)
    with pytest.raises(ConfigError, match="cannot be written"):
        start.start_daemon(tmp_path / "state", tmp_path)
    assert list((tmp_path / "state").iterdir()) == []
