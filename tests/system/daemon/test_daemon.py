"""The daemon as a process: one a directory, nobody else's, no port of the host, started clean."""

import asyncio
import json
import os
import signal
import stat
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import NoArguments
from cmesh.errors import DaemonNotRunning, StoreBusy
from cmesh.model import TaskState
from cmesh.node.testnet import Testnet
from cmesh.paths import control_socket
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import ME, Machine, as_user, eventually, here, worker_user

pytestmark = [pytest.mark.anyio, pytest.mark.system]

TABLES = ("tcp", "tcp6", "udp", "udp6")
LISTENING = "0A"  # of proc_net(5)
ALLOWED = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "XDG_RUNTIME_DIR"}


@pytest.fixture(scope="module")
async def machine(ground: Path, testnet: Testnet) -> AsyncIterator[Machine]:
    """Return one machine of this user, up."""
    machine = Machine("solo", ground, testnet, here())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(machine.stop)
        await machine.configure(OUTBOUND)
        await machine.up()
        yield machine
        assert "Traceback" not in machine.log_text()


def sockets(pid: int) -> dict[str, list[tuple[str, str]]]:
    """Return (local address, state) of a process's host sockets by table, in the kernel's form."""
    inodes: set[str] = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found: dict[str, list[tuple[str, str]]] = {}
    for table in TABLES:
        rows = [line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()]
        found[table] = [(row[1], row[3]) for row in rows[1:] if row[9] in inodes]
    return found


async def test_the_host_gets_no_listener_only_wireguard_s_datagrams(machine: Machine) -> None:
    found = sockets(machine.pid)
    listening = [row for table in ("tcp", "tcp6") for row in found[table] if row[1] == LISTENING]
    assert listening == []
    ports = {
        int(address.rpartition(":")[2], 16) for t in ("udp", "udp6") for address, _ in found[t]
    }
    assert len(found["udp"]) == 1
    assert len(ports) <= 2


async def test_a_second_daemon_on_the_directory_is_refused_and_the_first_goes_on(
    machine: Machine,
) -> None:
    before = await machine.status()
    done = await asyncio.to_thread(
        subprocess.run,
        machine.command("daemon"),
        env=machine.environment(),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == StoreBusy.exit_status
    assert "store_busy" in done.stderr
    assert "one daemon per state directory" in done.stderr
    assert "Traceback" not in done.stderr
    after = await machine.status()
    assert (after.pid, after.phase) == (before.pid, "up")


async def test_the_control_socket_is_the_owner_s_alone(machine: Machine) -> None:
    path = control_socket(machine.state)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="another user's process needs root to be started")
async def test_a_process_of_another_user_gets_no_word_from_the_socket(machine: Machine) -> None:
    # Even where the modes would let it in, the kernel's word about who connects decides.
    path = control_socket(machine.state)
    for place, mode in ((path.parent, 0o711), (path, 0o666)):
        place.chmod(mode)
    try:
        code = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b'{"v":1,"kind":"cli","session":"x"}\\n{"id":1,"op":"status","arguments":{}}\\n')
s.settimeout(20)
print(s.recv(4096))
"""
        done = await asyncio.to_thread(
            subprocess.run,
            ["/usr/bin/env", "python3", "-c", code, str(path)],
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
            cwd="/",
            **as_user(worker_user()),
        )
    finally:
        path.chmod(0o600)
        path.parent.chmod(0o700)
    assert "version" not in done.stdout
    assert "Permission" not in done.stderr
    assert "control_refused" in machine.log_text()
    assert (await machine.status()).phase == "up"


async def test_a_daemon_started_by_the_command_line_inherits_nothing(
    ground: Path, testnet: Testnet
) -> None:
    machine = Machine("clean", ground, testnet, here())
    await machine.configure(OUTBOUND)
    read, write = os.pipe()
    environment = machine.environment() | {"SECRET_TOKEN": "x", "PYTHONSTARTUP": "/tmp/x"}
    os.set_inheritable(read, True)
    try:
        up = await asyncio.to_thread(
            subprocess.run,
            machine.command("up", "--json"),
            env=environment,
            cwd=machine.base,
            pass_fds=[read],
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        assert up.returncode == 0, up.stderr
        pid = json.loads(up.stdout)["pid"]
        process = Path(f"/proc/{pid}")
        names = {
            pair.partition(b"=")[0].decode()
            for pair in (process / "environ").read_bytes().split(b"\0")
            if pair
        }
        assert {name for name in names if not name.startswith("CMESH_")} <= ALLOWED
        assert (process / "cwd").readlink() == Path("/")
        assert os.getsid(pid) == pid
        assert (process / "fd" / "0").readlink() == Path("/dev/null")
        inherited = f"pipe:[{os.fstat(read).st_ino}]"
        assert inherited not in [str(link.readlink()) for link in (process / "fd").iterdir()]
        assert "Umask:\t0077" in (process / "status").read_text()
    finally:
        os.close(read)
        os.close(write)
        down = await asyncio.to_thread(machine.cli, "down")
    assert down.returncode == 0
    await respects_the_mark(machine)


async def respects_the_mark(machine: Machine) -> None:
    """After `cmesh down` neither a command nor an agent's relay starts a daemon."""
    listed = await asyncio.to_thread(machine.cli, "tasks")
    assert listed.returncode == DaemonNotRunning.exit_status
    assert "`cmesh down`" in listed.stderr
    assert "hint: run `cmesh up`" in listed.stderr
    async with machine.mcp() as agent:
        assert "delegate" in agent.tools
        answer = await agent.call("list_tasks")
    assert answer.is_error
    assert "`cmesh down`" in answer.text
    assert "cmesh up" in answer.text
    assert not control_socket(machine.state).exists()
    assert "Traceback" not in machine.log_text()


@pytest.mark.skipif(os.getuid() != 0, reason="only root is refused as root")
async def test_a_worker_that_runs_as_root_takes_no_task_unless_told_to(
    make_machine: MakeMachine, machine: Machine
) -> None:
    root = await make_machine("rootbox", user=here())
    place = root.directory("app")
    rules = command("true", "/bin/true") + inbound(place, ["command:true"])
    await root.configure(rules)
    await root.up()
    first = await machine.delegate("rootbox", "command:true", place)
    await root.trust(machine)
    ended = await machine.ended(first.task_id)
    assert (ended.state, ended.code) == (TaskState.DENIED, "root_refused")
    assert "allow_root = true" in ended.reason
    await root.configure("[worker]\nallow_root = true\n" + rules)
    view = await machine.delegate("rootbox", "command:true", place, wait_s=30)
    assert view.state is TaskState.SUCCEEDED


async def test_a_first_contact_and_a_changed_key_wait_for_the_owner(
    make_machine: MakeMachine,
) -> None:
    caller = await make_machine("caller", OUTBOUND, user=here())
    worker = await make_machine("worker")
    place = worker.directory("app")
    await worker.configure(command("true", "/bin/true") + inbound(place, ["command:true"]))
    await worker.up()
    await caller.up()
    view = await untrusted(caller, place)
    assert "first contact" in view.reason
    assert await standing(worker, "caller") == "waiting"
    await worker.trust(caller)
    assert (await caller.ended(view.task_id)).state is TaskState.SUCCEEDED

    await caller.stop()
    (caller.state / "key").unlink()
    await caller.up()
    view = await untrusted(caller, place)
    assert "another cmesh key" in view.reason
    assert await standing(worker, "caller") == "changed"
    rows = await worker.sql(f"SELECT count(*) FROM tasks WHERE task_id = '{view.task_id}'")
    assert rows == [[0]]
    await worker.trust(caller)
    assert (await caller.ended(view.task_id)).state is TaskState.SUCCEEDED
    assert await standing(worker, "caller") == "trusted"

    assert worker.cli("peers", "untrust", "caller").returncode == 0
    view = await untrusted(caller, place)
    # The caller is told what may be true, not which of it; the worker's owner is told which.
    assert "or the trust was taken back" in view.reason

    async def refused() -> bool | None:
        return "the key of `caller` is not trusted any more" in worker.log_text() or None

    await eventually(refused)  # the link's end may have told the caller before it came again
    assert worker.log_text().count("`caller` is a first contact") == 1


async def untrusted(caller: Machine, place: Path) -> TaskView:
    """Delegate, and return the task once it is known that its worker's owner must agree first."""
    task_id = (await caller.delegate("worker", "command:true", place, new=True)).task_id

    async def waits() -> TaskView | None:
        view = await caller.task(task_id)
        assert view.state is TaskState.SUBMITTING
        return view if view.code == "peer_untrusted" else None

    return await eventually(waits)


async def standing(machine: Machine, name: str) -> str:
    peers = (await machine.call("list_peers", NoArguments()))["peers"]
    return next(peer["trust"] for peer in peers if peer["name"] == name)


async def test_a_machine_whose_key_is_not_there_says_so_and_is_logged_in_at_a_page(
    make_machine: MakeMachine, testnet: Testnet
) -> None:
    machine = await make_machine("fresh", user=here())
    text = machine.config_file.read_text("utf-8")
    machine.config_file.write_text(text.replace('"authkey"', '"nokey"'), "utf-8")
    await machine.start()

    async def asked() -> str | None:
        status = await machine.status()
        return status.login_url if status.phase == "login" else None

    url = await eventually(asked)
    shown = await asyncio.to_thread(machine.cli, "login", "--no-wait")
    assert url in shown.stdout
    lacks = f"the auth key file `{machine.config}/nokey` is not there"
    for word in ("status", "doctor", "setup"):
        said = await asyncio.to_thread(machine.cli, word)
        assert lacks in said.stdout + said.stderr
    async with machine.mcp() as agent:
        answer = await agent.call("list_peers")
    assert answer.text.startswith("login_required")
    assert "cmesh login" in answer.text
    await testnet.complete_login(url, ME)
    status = await machine.up()
    assert (status.user, status.problems) == (ME, [])
    assert "Traceback" not in machine.log_text()


async def test_the_daemon_ends_well_on_a_signal_and_starts_again(machine: Machine) -> None:
    before = await machine.status()
    os.kill(machine.pid, signal.SIGTERM)
    await machine.stop()
    after = await machine.up()
    assert (after.node_id, after.fingerprint) == (before.node_id, before.fingerprint)
    assert after.store_seq > before.store_seq
