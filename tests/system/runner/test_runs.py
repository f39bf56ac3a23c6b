"""What a task sees, and what its shim records of it."""

import asyncio
import hashlib
import json
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cmesh.runner.launch import Containment
from cmesh.runner.shim_processes import MARKER
from tests.system.runner.support import Worker, python

pytestmark = [pytest.mark.anyio, pytest.mark.system]

REPORT = """
import json, os, signal, sys
fds = sorted(int(n) for n in os.listdir("/proc/self/fd"))
print(json.dumps({
    "stdin": sys.stdin.read(), "env": dict(os.environ), "cwd": os.getcwd(),
    "fds": fds, "session": os.getsid(0) == os.getpid(), "umask": os.umask(0),
    "blocked": open("/proc/self/status").read().split("SigBlk:")[1].split()[0],
}))
"""


async def test_a_run_leaves_exit_output_and_digest(worker: Worker) -> None:
    code = 'import sys; print("out"); print("err", file=sys.stderr); sys.exit(3)'
    exit_ = await worker.run(python(code))
    assert (exit_.verdict, exit_.exit_code, exit_.processes_left) == ("exited", 3, 0)
    assert (exit_.stdout_bytes, exit_.stdout_kept) == (4, 4)
    assert exit_.stdout_sha256 == hashlib.sha256(b"out\n").hexdigest()
    assert exit_.stderr_kept == 4
    assert 0 < exit_.started_at <= exit_.ended_at
    assert exit_.leftovers_ended == 0


async def test_an_agent_ended_by_a_signal_is_recorded_as_such(worker: Worker) -> None:
    exit_ = await worker.run(python("import os; os.kill(os.getpid(), 9)"))
    assert (exit_.verdict, exit_.exit_code) == ("exited", -9)


async def test_the_agent_gets_its_own_environment_session_and_nothing_else(
    worker: Worker, tmp_path: Path
) -> None:
    task_id = worker.prepare(
        python(REPORT), stdin=b"the prompt", cwd=str(tmp_path), env={"A": "b", "PATH": "/bin"}
    )
    await worker.supervisor.spawn(task_id)
    await worker.result(task_id)
    said = json.loads(worker.output(task_id))
    assert said["stdin"] == "the prompt"
    assert said["cwd"] == str(tmp_path)
    env = {key: value for key, value in said["env"].items() if key != "LC_CTYPE"}
    assert env == {"A": "b", "PATH": "/bin", MARKER: task_id}
    # 0, 1, 2 and the one that lists them: neither the claim nor a pipe of the shim.
    assert len(said["fds"]) == 4
    assert said["session"]
    assert said["umask"] == 0o022
    assert int(said["blocked"], 16) == 0


async def test_an_agent_can_start_in_an_empty_folder_of_its_home_with_files_in_place(
    worker: Worker, tmp_path: Path
) -> None:
    task_id = worker.prepare(
        python(REPORT), cwd=str(tmp_path), starts_in="work", files={".agent/settings": "{}"}
    )
    await worker.supervisor.spawn(task_id)
    await worker.result(task_id)
    home = worker.supervisor.directory(task_id) / "home"
    assert json.loads(worker.output(task_id))["cwd"] == f"{home}/work"
    assert list((home / "work").iterdir()) == []
    settings = home / ".agent" / "settings"
    assert (settings.read_text(), stat.S_IMODE(settings.stat().st_mode)) == ("{}", 0o600)


async def test_signals_python_ignores_are_restored_for_the_agent(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/cat", "/proc/self/status"))
    await worker.supervisor.spawn(task_id)
    await worker.result(task_id)
    ignored = worker.output(task_id).split(b"SigIgn:")[1].split()[0]
    # Two signals are glibc's own (nptl(7)); its posix_spawn ignores them in every child.
    assert int(ignored, 16) & ~(0b11 << 31) == 0


async def test_files_of_a_task_are_its_owner_s_alone(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/true",), env={"ANTHROPIC_API_KEY": "k"})
    await worker.supervisor.spawn(task_id)
    await worker.result(task_id)
    directory = worker.supervisor.directory(task_id)
    assert not (directory / "launch.json").exists()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {entry.name for entry in directory.iterdir() if entry.stat().st_mode & 0o077} == set()


@pytest.mark.parametrize(
    ("argv", "cwd", "words"),
    [
        (("/no/such/program",), "/", "No such file or directory"),
        (("/bin/true",), "/no/such/directory", "No such file or directory: `/no/such/directory`"),
        (("/etc/passwd",), "/", "Permission denied"),
    ],
)
async def test_what_cannot_start_says_why(
    worker: Worker, argv: tuple[str, ...], cwd: str, words: str
) -> None:
    exit_ = await worker.run(argv, cwd=cwd)
    assert (exit_.verdict, exit_.exit_code) == ("spawn_failed", None)
    assert words in exit_.error


async def test_running_is_seen_by_the_agent_s_record_before_its_end(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/sleep", "60"))
    assert worker.supervisor.look(task_id).claim == "none"
    await worker.supervisor.spawn(task_id)
    look = await worker.until(task_id, lambda look: look.agent_pid is not None)
    assert (look.claim, look.owner_alive, look.result) == ("shim", True, False)
    worker.supervisor.end(task_id, "cancelled")
    await worker.result(task_id)


async def test_output_is_there_while_the_agent_runs(worker: Worker) -> None:
    code = 'import sys; print("one", flush=True); sys.stdin.buffer.raw.read(); import time; time.sleep(60)'
    task_id = worker.prepare(python(code))
    await worker.supervisor.spawn(task_id)
    assert await worker.printed(task_id, b"one") == b"one\n"
    assert worker.supervisor.look(task_id).spool_bytes == 4
    assert worker.supervisor.read_spool(task_id, 2, 1) == b"e"
    worker.supervisor.end(task_id, "cancelled")
    await worker.result(task_id)


async def test_output_beyond_the_cap_is_counted_dropped_and_never_blocks(worker: Worker) -> None:
    total = 1024 * 1024 * 1024
    code = f"import os\nb = b'x' * 65536\nn = {total} // 65536\nfor _ in range(n): os.write(1, b)"
    task_id = worker.prepare(python(code), output_bytes=1_000_000)
    await worker.supervisor.spawn(task_id)
    await worker.until(task_id, lambda look: look.spool_bytes == 1_000_000)
    status = Path(f"/proc/{worker.claim(task_id)['pid']}/status").read_text()
    exit_ = await worker.result(task_id)
    assert (exit_.stdout_bytes, exit_.stdout_kept) == (total, 1_000_000)
    assert exit_.stdout_sha256 == hashlib.sha256(b"x" * 1_000_000).hexdigest()
    assert exit_.exit_code == 0
    peak_kib = int(status.split("VmHWM:")[1].split()[0])
    assert peak_kib < 20 * 1024


async def test_many_tasks_at_once_each_get_their_own_shim(worker: Worker) -> None:
    tasks = [worker.prepare(("/bin/echo", str(n))) for n in range(20)]
    await asyncio.gather(*(worker.supervisor.spawn(task) for task in tasks))
    exits = [await worker.result(task) for task in tasks]
    assert {exit_.exit_code for exit_ in exits} == {0}
    assert [worker.output(task) for task in tasks] == [b"%d\n" % n for n in range(20)]


async def test_a_full_disk_does_not_stop_the_agent_or_its_result(worker: Worker) -> None:
    # /dev/full stands for the disk: every write to it says "no space left".
    code = "print('x' * 5000)\nimport sys; sys.exit(7)"
    task_id = worker.prepare(python(code))
    (worker.supervisor.directory(task_id) / "stdout").symlink_to("/dev/full")
    await worker.supervisor.spawn(task_id)
    exit_ = await worker.result(task_id)
    assert (exit_.exit_code, exit_.stdout_kept, exit_.stdout_bytes) == (7, 0, 5001)
    assert "No space left" in exit_.spool_error


async def test_a_discarded_directory_is_gone_with_all_an_agent_left_in_it(worker: Worker) -> None:
    task_id = worker.prepare(("/bin/true",))
    await worker.supervisor.spawn(task_id)
    await worker.result(task_id)
    directory = worker.supervisor.directory(task_id)
    closed = directory / "home" / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0o000)
    worker.supervisor.discard(task_id)
    assert not directory.exists()
    await worker.eventually(lambda: not any(directory.parent.glob(".gone-*")))
    worker.supervisor.discard(task_id)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_no_descriptor_is_kept_for_a_finished_task(worker: Worker) -> None:
    await worker.run(("/bin/true",))
    before = open_files()
    for _ in range(20):
        await worker.run(("/bin/true",))
    await worker.eventually(lambda: open_files() <= before)


@pytest.mark.parametrize("containment", ["pid_namespace", "best_effort"])
async def test_the_agent_starts_in_the_directory_that_was_judged_or_not_at_all(
    worker: Worker, tmp_path: Path, containment: Containment
) -> None:
    worker.containment = containment
    place, other = tmp_path / "app" / "src", tmp_path / "other"
    for path in (place, other):
        path.mkdir(parents=True)
    info = place.stat()
    judged = (str(tmp_path / "app"), "src", info.st_dev, info.st_ino)
    where = python("import os; print(os.getcwd())")
    task_id = worker.prepare(where, cwd="/", judged=judged)
    await worker.supervisor.spawn(task_id)
    await worker.result(task_id)
    assert worker.output(task_id).decode() == f"{place}\n"
    place.rename(tmp_path / "moved")
    for swap in (lambda: place.symlink_to(other), place.mkdir):
        swap()
        task_id = worker.prepare(where, cwd=str(other), judged=judged)
        await worker.supervisor.spawn(task_id)
        exit_ = await worker.result(task_id)
        assert (exit_.verdict, worker.output(task_id)) == ("spawn_failed", b"")
        place.unlink() if place.is_symlink() else place.rmdir()


# As another user, where this one may become one: SO_REUSEPORT shares a port within a user only.
TAKES = """
import os, socket, sys
if os.getuid() == 0:
    os.setuid(65534)
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if os.getuid() == 65534:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
try:
    one.bind(("127.0.0.1", int(sys.argv[1])))
except OSError as error:
    print(error.strerror)
else:
    print("taken")
"""


async def test_a_task_s_port_is_kept_from_other_users_while_nobody_serves_it(
    worker: Worker,
) -> None:
    def thief() -> str:
        argv = [sys.executable, "-I", "-S", "-c", TAKES, str(port)]
        return subprocess.run(argv, capture_output=True, check=True, text=True).stdout.strip()

    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        first.listen()
        port = first.getsockname()[1]
        task_id = worker.prepare(python("import time; time.sleep(60)"), port=port)
        await worker.supervisor.spawn(task_id)
        await worker.until(task_id, lambda look: look.agent_pid is not None)
    assert await asyncio.to_thread(thief) == "Address already in use"
    with socket.socket() as again:  # as the next daemon
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        again.bind(("127.0.0.1", port))
        again.listen()
    worker.supervisor.end(task_id, "cancelled")
    await worker.result(task_id)
    assert await asyncio.to_thread(thief) == "taken"


async def test_a_task_whose_port_somebody_has_is_not_started(worker: Worker) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        exit_ = await worker.run(python("print('ran')"), port=other.getsockname()[1])
    assert exit_.verdict == "spawn_failed"
    assert "Address already in use: port" in exit_.error
