"""Programs in a network of their own, through relay and proxy, to a server on loopback."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.model import TaskId
from cmesh.runner.egress.network import Endpoint, load, save, variables
from cmesh.runner.egress.proxy import Proxy
from tests.fakes.egress import (
    ALLOWED,
    LOCALHOST,
    TOKEN,
    Audit,
    Upstream,
    loopback_outside,
    make_certificate,
    network,
    upstream,
)
from tests.system.egress.support import LIMIT_S, PORT, PYTHON, run, started

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.network_namespace]

TASK = TaskId("00000000-0000-7000-8000-000000000001")
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"
MIB = 1024 * 1024

TLS = f"""
import base64, socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
def tunnel(host, name, token="{TOKEN}"):
    c = socket.create_connection(("127.0.0.1", {PORT}), 20)
    credential = base64.b64encode(b"task:" + token.encode()).decode()
    c.sendall(f"CONNECT {{host}}:443 HTTP/1.1\\r\\nProxy-Authorization: Basic {{credential}}\\r\\n\\r\\n".encode())
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        head += c.recv(1)
    if b" 200 " not in head:
        return head.decode().split("\\r\\n")[0]
    return context.wrap_socket(c, server_hostname=name)
"""


@dataclass
class World:
    proxy: Proxy
    door: Path
    audit: Audit
    server: Upstream
    env: Mapping[str, str]

    async def run(self, *program: str) -> tuple[int, str]:
        return await run(self.door, *program, env=self.env)


@contextlib.asynccontextmanager
async def world(tmp_path: Path, server: Upstream) -> AsyncGenerator[World]:
    audit = Audit()
    proxy = Proxy(audit, SystemClock(), outside=loopback_outside(server.port))
    granted = network()
    door = tmp_path / "net" / "daemon"
    proxy.open(TASK, granted, door)
    certificate = {"CURL_CA_BUNDLE": str(tmp_path / "certificate.pem")}
    yield World(proxy, door, audit, server, variables(granted) | certificate)
    await proxy.close()


@pytest.fixture
async def page(tmp_path: Path) -> AsyncGenerator[World]:
    """A server that answers one page over TLS."""
    _public, context = make_certificate(tmp_path)
    async with upstream(context, answer=PAGE) as server, world(tmp_path, server) as made:
        yield made


@pytest.fixture
async def echo(tmp_path: Path) -> AsyncGenerator[World]:
    """A server that echoes over TLS."""
    _public, context = make_certificate(tmp_path)
    async with upstream(context) as server, world(tmp_path, server) as made:
        yield made


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no `{name}` on this machine")
    return found


async def test_curl_gets_a_page_and_checks_the_certificate_itself(page: World) -> None:
    status, out = await page.run(program("curl"), "-sS", f"https://{ALLOWED}/")
    assert (status, out) == (0, "hello\n")
    (row,) = await page.audit.wait("connection")
    (ended,) = await page.audit.wait("connection_ended")
    assert (row["host"], row["verdict"]) == (ALLOWED, "allowed")
    assert isinstance(ended["bytes_in"], int)
    assert ended["bytes_in"] > len(PAGE)


async def test_curl_is_told_why_another_host_is_refused(page: World) -> None:
    url = "https://evil.example.com/?secret"
    status, out = await page.run(program("curl"), "-sSv", url)
    assert status == 56  # CURLE_RECV_ERROR: what curl makes of a refused CONNECT
    assert "403" in out
    assert page.server.connections == 0
    (row,) = await page.audit.wait("connection")
    assert (row["host"], row["code"]) == ("evil.example.com", "host_refused")


async def test_curl_without_the_proxy_s_variables_reaches_nothing(page: World) -> None:
    url = f"https://{ALLOWED}/"
    status, _out = await run(page.door, program("curl"), "-sS", url)
    assert status == 6  # CURLE_COULDNT_RESOLVE_HOST
    assert not page.audit.rows


async def test_openssl_with_another_name_gets_an_alert_and_sends_nothing(page: World) -> None:
    connect = ("s_client", "-brief", "-connect", f"{ALLOWED}:443", "-servername", "evil.com")
    proxy = ("-proxy", f"127.0.0.1:{PORT}", "-proxy_user", "task", "-proxy_pass", f"pass:{TOKEN}")
    status, out = await page.run(program("openssl"), *connect, *proxy)
    assert status != 0
    assert "unrecognized name" in out
    assert not page.server.data
    (row,) = await page.audit.wait("connection")
    assert row["code"] == "tls_refused"


async def test_a_client_that_ends_its_side_still_gets_the_whole_answer(echo: World) -> None:
    code = (
        TLS
        + f"""
t = tunnel("{ALLOWED}", "{ALLOWED}")
t.sendall(b"x" * 300000)
got = 0
while got < 300000:
    got += len(t.recv(65536))
t.unwrap().close()
print(got)
"""
    )
    status, out = await echo.run(*PYTHON, code)
    assert (status, out) == (0, "300000\n")
    (ended,) = await echo.audit.wait("connection_ended")
    assert ended["end"] == "closed"


async def test_fifty_tunnels_at_once_each_get_their_own_echo(echo: World) -> None:
    code = (
        TLS
        + f"""
from concurrent.futures import ThreadPoolExecutor
def one(n):
    with tunnel("{ALLOWED}", "{ALLOWED}") as t:
        t.sendall(b"%d" % n)
        return t.recv(10) == b"%d" % n
with ThreadPoolExecutor(50) as pool:
    print(sum(pool.map(one, range(50))))
"""
    )
    status, out = await echo.run(*PYTHON, code)
    assert (status, out) == (0, "50\n")
    assert len(await echo.audit.wait("connection_ended", 50)) == 50


async def test_a_slow_reader_slows_its_sender_and_costs_the_daemon_no_memory(
    tmp_path: Path,
) -> None:
    sent = 0
    begun = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.transport.set_write_buffer_limits(0)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while True:
                writer.write(bytes(MIB))
                await writer.drain()
                sent += MIB
                begun.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    audit = Audit()
    proxy = Proxy(audit, SystemClock())
    model = Endpoint(address=LOCALHOST, port=server.sockets[0].getsockname()[1])
    door = tmp_path / "net" / "daemon"
    proxy.open(TASK, network(hosts=frozenset[str](), model=model), door)
    code = f"""
import socket, sys
c = socket.create_connection(("127.0.0.1", {PORT}), 20)
c.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
sys.stdin.read()
"""
    async with started(door, *PYTHON, code) as process:
        async with asyncio.timeout(LIMIT_S):
            before, last = _resident(), -1
            while last != sent or not begun.is_set():
                last = sent
                await asyncio.sleep(0.3)
        # What the kernel holds between the two, and not a gigabyte a second.
        assert sent < 64 * MIB
        assert _resident() - before < 8 * MIB
        process.kill()
    (ended,) = await audit.wait("connection_ended")
    assert ended["end"] == "broken"
    server.close()
    await proxy.close()


async def test_the_next_daemon_serves_the_same_task_by_what_is_in_its_directory(
    echo: World, tmp_path: Path
) -> None:
    save(network(), tmp_path / "network.json")
    code = (
        TLS
        + f"""
for _ in range(2):
    with tunnel("{ALLOWED}", "{ALLOWED}") as t:
        t.sendall(b"a")
        print(t.recv(10), flush=True)
        input()
"""
    )
    async with started(echo.door, *PYTHON, code) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert await process.stdout.readline() == b"b'a'\n"
        await echo.proxy.close()
        process.stdin.write(b"\n")
        granted = load(tmp_path / "network.json")
        assert granted is not None
        second = Proxy(echo.audit, SystemClock(), outside=loopback_outside(echo.server.port))
        second.open(TASK, granted, echo.door)
        assert await process.stdout.readline() == b"b'a'\n"
        process.stdin.write(b"\n")
        await process.communicate()
        await second.close()
    first, _second = await echo.audit.wait("connection_ended", 2)
    assert first["end"] == "daemon stopped"


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
