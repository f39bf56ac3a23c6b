"""What stands around the proxy in tests: an outside, an upstream with TLS, a relay, an audit.

The names below `example.com` lead to loopback by an injected resolver and an injected address
rule; production has neither (`cmesh.runner.egress.outside.INTERNET`).
"""

import asyncio
import contextlib
import datetime
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cmesh.errors import DiskFull
from cmesh.model import TaskId
from cmesh.runner.egress.addresses import Address, refusal
from cmesh.runner.egress.network import Network
from cmesh.runner.egress.outside import INTERNET, Outside, Streams, open_streams

__all__ = [
    "ALLOWED",
    "ECHO_LIMIT_S",
    "LOCALHOST",
    "TOKEN",
    "Audit",
    "Upstream",
    "client_hello",
    "connect_head",
    "hand_in",
    "loopback_outside",
    "make_certificate",
    "network",
    "upstream",
]

ALLOWED = "api.example.com"
TOKEN = "token-of-this-task"
LOCALHOST = ip_address("127.0.0.1")
ECHO_LIMIT_S = 20.0


def network(**changes: object) -> Network:
    fields: dict[str, object] = {"hosts": frozenset({ALLOWED}), "token": TOKEN, **changes}
    return Network(**fields)  # pyright: ignore[reportArgumentType]


@dataclass
class Audit:
    """Audit rows in memory. Attributes: `rows` (kind, data); `full` makes each commit fail."""

    rows: list[tuple[str, dict[str, object]]] = field(
        default_factory=list[tuple[str, dict[str, object]]]
    )
    full: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, task_id: TaskId, kind: str, data: Mapping[str, object]) -> None:
        assert task_id
        await asyncio.sleep(0)
        if self.full:
            raise DiskFull("no room")
        self.rows.append((kind, dict(data)))
        self.changed.set()

    async def wait(self, kind: str, count: int = 1) -> list[dict[str, object]]:
        """Return the rows of a kind once there are `count`."""
        async with asyncio.timeout(ECHO_LIMIT_S):
            while len(found := [data for told, data in self.rows if told == kind]) < count:
                self.changed.clear()
                await self.changed.wait()
        return found


@dataclass
class Upstream:
    """A server on loopback. Attributes: `connections` and `data`, all that ever reached it."""

    port: int
    connections: int = 0
    data: bytearray = field(default_factory=bytearray)


@contextlib.asynccontextmanager
async def upstream(
    context: ssl.SSLContext | None = None, *, answer: bytes = b"", host: str = "127.0.0.1"
) -> AsyncGenerator[Upstream]:
    """Serve an echo that ends with its client, or one `answer` after the first bytes."""
    found = Upstream(port=0)
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await reader.read(65536):
                found.data += data
                writer.write(answer or data)
                await writer.drain()
                if answer:
                    break
            if writer.can_write_eof():
                writer.write_eof()
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accept, host, 0, ssl=context)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def loopback_outside(port: int, addresses: Sequence[str] = ("127.0.0.1",)) -> Outside:
    """Return an outside where each name leads to loopback, and each port to `port`."""

    async def resolve(name: str) -> list[Address]:
        await asyncio.sleep(0)
        return [ip_address(text) for text in addresses if name]

    async def connect(address: Address, asked: int) -> Streams:
        assert asked in (443, port)
        reader, writer = await asyncio.open_connection(str(address), port)
        writer.transport.set_write_buffer_limits(0)
        return reader, writer

    async def secure(address: Address, asked: int, name: str) -> Streams:
        assert asked in (443, port)
        return await INTERNET.secure(address, port, name)

    return Outside(
        resolve=resolve,
        refusal=lambda address: "" if address == LOCALHOST else refusal(address),
        connect=connect,
        secure=secure,
    )


async def hand_in(door: Path) -> Streams:
    """Do what a relay does, without a namespace: give a new connection in at a door."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as post:
        directory = os.open(door.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            post.connect(f"/proc/self/fd/{directory}/{door.name}")  # of any length
        finally:
            os.close(directory)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _address = listener.accept()
        with theirs:
            socket.send_fds(post, [b"c"], [theirs.fileno()])
    return await open_streams(ours)


def connect_head(host: str = ALLOWED, port: int = 443, token: str | None = TOKEN) -> bytes:
    """Return a CONNECT request."""
    import base64

    head = f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"
    if token is not None:
        credential = base64.b64encode(f"task:{token}".encode()).decode()
        head += f"Proxy-Authorization: Basic {credential}\r\n"
    return f"{head}\r\n".encode()


@cache
def client_hello(name: str | None = ALLOWED) -> bytes:
    """Return the first bytes of a TLS client; None = without a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


def make_certificate(directory: Path, name: str = ALLOWED) -> tuple[Path, ssl.SSLContext]:
    """Return a self-signed certificate's file and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = directory / "certificate.pem", directory / "certificate.key"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context
