"""Abuse cases 16, 17 and 19 on one machine: a browser, another user, and what a task is given.

A real daemon of an ordinary user. The other user is root where the kernel's word counts, and
one without rights where the modes of files do.
"""

import asyncio
import contextlib
import os
import pwd
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from cmesh.daemon.arguments import ResultArguments
from cmesh.model import TaskState
from cmesh.node.testnet import Testnet
from cmesh.paths import control_socket
from tests.system.daemon.conftest import OUTBOUND, command, inbound
from tests.system.daemon.machine import Machine, as_user, here, worker_user
from tests.system.daemon.test_daemon import LISTENING, sockets

pytestmark = [pytest.mark.anyio, pytest.mark.system]

LIMIT_S = 20.0
RUN_LIMIT_S = 40
NOBODY = 65534
needs_root = pytest.mark.skipif(
    os.getuid() != 0, reason="another user's process needs root to be started"
)

TOKENS = {
    "AWS_SECRET_ACCESS_KEY": "canary-aws",
    "GITHUB_TOKEN": "canary-github",
    "ANTHROPIC_API_KEY": "canary-anthropic",
    "SSH_AUTH_SOCK": "/canary/agent",
    "HTTPS_PROXY": "http://canary-proxy.invalid",
    "LD_PRELOAD": "",
    "PYTHONSTARTUP": "/canary/startup",
}
GIVEN = {"PATH", "LANG", "HOME", "TMPDIR", "CMESH_DIRECTORY", "CMESH_TASK"}
OF_THE_SHELL = {"PWD", "SHLVL", "_"}
SLOW = "touch running; while [ ! -e go ]; do sleep 0.05; done"


@pytest.fixture(scope="module")
async def pair(ground: Path, testnet: Testnet) -> AsyncIterator[tuple[Machine, Machine]]:
    """Return caller and worker, both with secrets in the environment of their daemons."""
    place = ground / "works" / "app"
    text = command("env", "/usr/bin/env") + command("slow", "/bin/sh", "-c", SLOW)
    text += inbound(place, ["command:env", "command:slow"])
    asks = Machine("asks", ground, testnet, here())
    works = Machine("works", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, lines in ((asks, OUTBOUND), (works, text)):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
            machine.directory("app")
            await machine.start(environment=TOKENS)
        await asyncio.gather(asks.up(), works.up())
        await asks.delegate("works", "command:env", place)
        await works.trust(asks)
        yield asks, works
        for machine in (asks, works):
            assert "Traceback" not in machine.log_text()


def listeners(pid: int) -> list[tuple[str, str]]:
    with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
        tables = sockets(pid)
        return [row for name in ("tcp", "tcp6") for row in tables[name] if row[1] == LISTENING]
    return []


def family(pid: int) -> list[int]:
    """Return a process and what descends from it."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text("ascii").split())
    return found


async def test_16_there_is_no_port_of_this_machine_for_a_page_to_call(
    pair: tuple[Machine, Machine],
) -> None:
    asks, works = pair
    place = works.base / "app"
    view = await asks.delegate("works", "command:slow", place)
    async with asyncio.timeout(LIMIT_S):
        while not (place / "running").exists():
            view = await asks.task(view.task_id, wait_s=1)
    processes = [*family(works.pid), *family(asks.pid)]
    assert len(processes) > 2, "the shim and its task are looked at too"
    found = [row for pid in processes for row in listeners(pid)]
    (place / "go").touch()
    assert (await asks.ended(view.task_id)).state is TaskState.SUCCEEDED
    assert found == []


REBOUND = (
    b"GET / HTTP/1.1\r\nHost: evil.example\r\nOrigin: https://evil.example\r\n\r\n",
    (
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n"
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}\n'
    ),
)


@pytest.mark.parametrize("request_bytes", REBOUND, ids=["GET", "POST"])
async def test_16_the_control_socket_answers_no_http(
    pair: tuple[Machine, Machine], request_bytes: bytes
) -> None:
    """A form or a proxy that reaches the socket has its first line refused, and no second read."""
    asks = pair[0]
    reader, writer = await asyncio.open_unix_connection(str(control_socket(asks.state)))
    writer.write(request_bytes)
    async with asyncio.timeout(LIMIT_S):
        answer = await reader.read()
    writer.close()
    assert b"tools" not in answer
    assert b"HTTP/" not in answer
    assert (await asks.status()).phase == "up"


def run_as(user: dict[str, Any], code: str, *arguments: str) -> str:
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", code, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=RUN_LIMIT_S,
        check=False,
        cwd="/",
        **user,
    )
    return done.stdout + done.stderr


READ_ALL = """
import os, sys, socket
for name in sys.argv[2:]:
    try:
        print(name, "opened", os.listdir(name) if os.path.isdir(name) else open(name, "rb").read(9))
    except OSError as error:
        print("refused", type(error).__name__)
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
    print("connected")
except OSError as error:
    print("refused", type(error).__name__)
"""


@needs_root
async def test_17_another_user_opens_nothing_of_the_daemons(pair: tuple[Machine, Machine]) -> None:
    works = pair[1]
    places = [works.state, works.state / "store", works.config_file, works.config / "authkey"]
    places += [works.state / "daemon.log", works.state / "key"]
    names = [str(place) for place in places if place.exists()]
    assert len(names) > 3
    nobody = pwd.getpwuid(NOBODY)
    said = await asyncio.to_thread(
        run_as, as_user(nobody), READ_ALL, str(control_socket(works.state)), *names
    )
    assert said.splitlines() == ["refused PermissionError"] * (len(names) + 1)


HELLO = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.settimeout(20)
try:
    s.sendall(b'{"v":1,"kind":"cli","session":"x"}\\n{"id":1,"op":"status","arguments":{}}\\n')
    print(s.recv(4096))
except (BrokenPipeError, ConnectionResetError):
    print(b"")
"""


@needs_root
async def test_17_the_kernels_word_on_who_connects_decides_even_about_root(
    pair: tuple[Machine, Machine],
) -> None:
    works = pair[1]
    said = await asyncio.to_thread(run_as, {}, HELLO, str(control_socket(works.state)))
    assert said == "b''\n"
    assert "control_refused" in works.log_text()


async def test_19_a_task_is_given_the_allow_list_and_no_token_of_either_side(
    pair: tuple[Machine, Machine],
) -> None:
    asks, works = pair
    view = await asks.delegate("works", "command:env", works.base / "app", new=True)
    assert (await asks.ended(view.task_id)).state is TaskState.SUCCEEDED
    arguments = ResultArguments(task_id=view.task_id, part="output")
    text = (await asks.call("get_result", arguments))["text"]
    names = {line.partition("=")[0] for line in text.splitlines()}
    assert names - OF_THE_SHELL == GIVEN
    assert "canary" not in text
