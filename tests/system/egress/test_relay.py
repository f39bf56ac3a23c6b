"""The relay in real network namespaces: what it hands over, and when it ends."""

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.daemon.machine import interpreter, worker_user
from tests.system.egress.support import (
    LIMIT_S,
    PORT,
    PYTHON,
    Door,
    relays,
    run,
    started,
    until_gone,
)

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.network_namespace]

TALK = f"""
import socket
c = socket.create_connection(("127.0.0.1", {PORT}), 20)
c.sendall(b"ping")
c.shutdown(socket.SHUT_WR)
print(c.makefile("rb").read().decode())
"""
MANY = f"""
import asyncio
async def one(n):
    r, w = await asyncio.open_connection("127.0.0.1", {PORT})
    w.write(b"%d" % n)
    w.write_eof()
    got = await r.read()
    w.close()
    return got == b"%d" % n
async def all_():
    print(sum(await asyncio.gather(*map(one, range(200)))))
asyncio.run(all_())
"""
WAIT = "import sys; print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path / "net" / "daemon")
    yield made
    made.close()


async def answer(taken: socket.socket, reply: bytes | None = None) -> bytes:
    """Read a connection to its end, answer it, close it; no reply = what was read."""
    loop = asyncio.get_running_loop()
    read = b""
    with taken:
        async with asyncio.timeout(LIMIT_S):
            while data := await loop.sock_recv(taken, 65536):
                read += data
            await loop.sock_sendall(taken, read if reply is None else reply)
    return read


async def kill(pid: int) -> None:
    """Kill a process; its descriptors are closed on return.

    Its command line in /proc is gone before they are (exit(2) gives memory back first).
    """
    with os.fdopen(os.pidfd_open(pid)) as handle:
        os.kill(pid, signal.SIGKILL)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(handle.fileno(), ended.set)
        try:
            async with asyncio.timeout(LIMIT_S):
                await ended.wait()
        finally:
            asyncio.get_running_loop().remove_reader(handle.fileno())


async def test_a_connection_comes_out_whole_and_a_half_close_stays_one(door: Door) -> None:
    async with started(door.path, *PYTHON, TALK) as process:
        taken = await door.take()
        assert taken.getsockname() == ("127.0.0.1", PORT)
        assert await answer(taken, b"pong") == b"ping"
        out, error = await process.communicate()
    assert (out, error, process.returncode) == (b"pong\n", b"", 0)


async def test_two_hundred_connections_at_once_each_get_their_own_answer(door: Door) -> None:
    async with started(door.path, *PYTHON, MANY) as process, asyncio.TaskGroup() as group:
        for _ in range(200):
            group.create_task(answer(await door.take()))
        out, error = await process.communicate()
    assert (out, error) == (b"200\n", b"")


async def test_a_killed_relay_lets_nothing_new_out_and_open_connections_live_on(
    door: Door,
) -> None:
    code = (
        TALK.replace("c.sendall", "input(); c.sendall")
        + f"""
try:
    socket.create_connection(("127.0.0.1", {PORT}), 20)
except ConnectionRefusedError:
    print("refused")
"""
    )
    async with started(door.path, *PYTHON, code) as process:
        taken = await door.take()
        (pid,) = [pid for pid in relays(door.path) if pid != process.pid]
        await kill(pid)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        assert await answer(taken, b"pong") == b"ping"
        out, error = await process.communicate()
    assert (out, error) == (b"pong\nrefused\n", b"")


async def test_a_connection_waits_for_the_next_daemon(door: Door) -> None:
    door.close()
    async with started(door.path, *PYTHON, TALK) as process:
        await asyncio.wait_for(_relay_runs(door.path, process.pid), LIMIT_S)
        second = Door(door.path)
        assert await answer(await second.take(), b"pong") == b"ping"
        out, _error = await process.communicate()
        second.close()
    assert out == b"pong\n"


async def test_without_a_daemon_connections_are_closed_and_the_task_goes_on(door: Door) -> None:
    door.close()
    code = f"""
import socket
for _ in range(3):
    print(socket.create_connection(("127.0.0.1", {PORT}), 20).recv(1))
"""
    async with started(door.path, *PYTHON, code, limit_s=0.1) as process:
        out, error = await process.communicate()
    assert (out, error) == (b"b''\n" * 3, b"")


@pytest.mark.parametrize("way", ["ends", "is killed"])
async def test_the_relay_ends_with_the_program_it_was_started_for(door: Door, way: str) -> None:
    async with started(door.path, *PYTHON, WAIT) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        assert [pid for pid in relays(door.path) if pid != process.pid]
        if way == "ends":
            assert process.stdin is not None
            process.stdin.close()
        else:
            process.kill()
        await process.wait()
        await until_gone(door.path)


async def test_the_relay_is_no_child_of_the_program_and_holds_none_of_its_output(
    door: Door,
) -> None:
    code = """
import os, sys
try:
    os.wait()
except ChildProcessError:
    print("no child", flush=True)
os.close(1); os.close(2)
sys.stdin.read()
"""
    async with started(door.path, *PYTHON, code) as process:
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            assert await process.stdout.read() == b"no child\n"
        assert process.returncode is None


async def test_the_port_is_on_one_address_and_none_of_the_host_s_ports_is_there(
    door: Door,
) -> None:
    with (
        socket.create_server(("127.0.0.2", PORT)) as same_port,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        code = f"""
import socket
for address in [("127.0.0.2", {PORT}), ("127.0.0.1", {other.getsockname()[1]}), ("::1", {PORT})]:
    try:
        print(socket.create_connection(address, 20))
    except OSError as error:
        print(type(error).__name__)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for address in [("127.0.0.1", {udp.getsockname()[1]}), ("192.0.2.1", 53), ("8.8.8.8", 53)]:
    try:
        u.sendto(b"secret", address)
        print("sent to lo" if address[0].startswith("127.") else "SENT")
    except OSError as error:
        print(error.strerror)
try:
    print(socket.getaddrinfo("api.example.com", 443))
except OSError as error:
    print(type(error).__name__)
"""
        status, out = await run(door.path, *PYTHON, code)
        for listener in (same_port, other, udp):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.recv(1) if listener is udp else listener.accept()
    assert status == 0
    assert out.splitlines() == [
        "ConnectionRefusedError",
        "ConnectionRefusedError",
        "ConnectionRefusedError",
        "sent to lo",
        "Network is unreachable",
        "Network is unreachable",
        "gaierror",
    ]


@pytest.mark.skipif(os.getuid() != 0, reason="a program of another user needs root to be started")
async def test_a_program_of_the_same_user_cannot_get_at_what_the_relay_holds() -> None:
    user = worker_user()
    code = """
import os, sys
print("up", flush=True)
found = []
for name in ("cwd", "root", "fd", "environ", "mem"):
    path = f"/proc/{int(input())}/{name}"
    try:
        os.listdir(path) if name == "fd" else os.close(os.open(path, os.O_RDONLY))
        found.append(name)
    except PermissionError:
        pass
print(found)
"""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        door = Door(place / "net" / "daemon")
        os.chown(door.path.parent, user.pw_uid, user.pw_gid)
        # Rights over a user namespace would be rights over the relay; a task has none.
        up = ("sh", "-c", 'ip link set lo up && exec "$@"', "sh")
        ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        prefix = ("unshare", "--net", *up, "setpriv", *ids)
        python = interpreter(user)
        program = (python, "-I", "-S", "-c", code)
        async with started(door.path, *program, prefix=prefix, python=python) as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"up\n"
            (pid,) = [pid for pid in relays(door.path) if pid != process.pid]
            out, error = await process.communicate(f"{pid}\n".encode() * 5)
        door.close()
    assert (out, error) == (b"[]\n", b"")


async def _relay_runs(door: Path, program: int) -> None:
    while not [pid for pid in relays(door) if pid != program]:
        await asyncio.sleep(0.02)
