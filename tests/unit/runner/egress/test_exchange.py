"""A task's requests through its gateway: what the model's API gets, and what comes back."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.errors import LoginExpired
from cmesh.model import TaskId
from cmesh.runner.egress import exchange
from cmesh.runner.egress.gate import Gate
from cmesh.runner.egress.gateway import Bearer, LoginReader
from cmesh.runner.egress.outside import INTERNET, Outside, Streams, trusted_here
from cmesh.runner.egress.proxy import Proxy
from cmesh.runner.egress.reach import Limits
from tests.fakes.api import Api, Asked, api, ok
from tests.fakes.egress import ALLOWED, Audit, hand_in, loopback_outside, make_certificate, network

pytestmark = pytest.mark.anyio

TASK = TaskId("00000000-0000-7000-8000-000000000001")
KEY = "sk-of-the-owner"
DUMMY = "cmesh-task-dummy"
BEARER = {"header": "authorization", "scheme": "Bearer"}
LIMIT_S = 20.0


@dataclass
class World:
    """A served task, its API, the file of the owner's key, and what was recorded."""

    proxy: Proxy
    door: Path
    audit: Audit
    api: Api
    key: Path

    async def connect(self) -> Streams:
        return await hand_in(self.door)

    async def ask(self, *requests: bytes) -> bytes:
        """Send bytes on a new connection, end them, and return all that comes back."""
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await self.connect()
            writer.write(b"".join(requests))
            await writer.drain()
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            return answer

    def sent(self) -> list[bytes]:
        return [asked.body for asked in self.api.requests]


Serve = Callable[..., Awaitable[World]]


def request(
    body: bytes = b"{}",
    *more: str,
    target: str = "/v1/messages",
    token: str = DUMMY,
    framing: str | None = None,
) -> bytes:
    length = f"content-length: {len(body)}" if framing is None else framing
    lines = [
        f"POST {target} HTTP/1.1",
        "host: 127.0.0.1:8119",
        f"x-api-key: {token}",
        length,
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def gate(key: Path, **changes: object) -> Gate:
    values: dict[str, object] = {
        "host": "127.0.0.1",
        "secure": False,
        "own": True,
        "path": "",
        "header": "x-api-key",
        "scheme": "",
        "routes": ("POST /v1/messages",),
        "query": (),
        "headers": ("anthropic-*",),
        "token": DUMMY,
        "key_file": str(key),
    }
    return Gate(**{**values, **changes})  # pyright: ignore[reportArgumentType]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    proxies: list[Proxy] = []

    async def make(
        found: Api,
        *,
        outside: Outside = INTERNET,
        limits: Limits | None = None,
        login: LoginReader | None = None,
        **changes: object,
    ) -> World:
        key = tmp_path / "key"
        key.touch(mode=0o600)
        key.write_text(f"{KEY}\n")
        audit = Audit()
        proxy = Proxy(audit, SystemClock(), outside=outside, limits=limits, read_login=login)
        proxies.append(proxy)
        granted = network(hosts=frozenset[str](), gate=gate(key, **{"port": found.port, **changes}))
        door = tmp_path / "net" / "daemon"
        proxy.open(TASK, granted, door)
        return World(proxy, door, audit, found, key)

    yield make
    for proxy in proxies:
        await proxy.close()


async def test_the_api_gets_the_owner_s_key_and_the_task_the_answer(serve: Serve) -> None:
    async with api() as found:
        world = await serve(found)
        answer = await world.ask(request(b"hello", "authorization: Bearer x", "anthropic-beta: b"))
        (asked,) = found.requests
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"fine")
        assert asked.head.startswith("POST /v1/messages HTTP/1.1\r\n")
        assert asked.body == b"hello"
        assert asked.headers == {
            "host": f"127.0.0.1:{found.port}",
            "x-api-key": KEY,
            "content-length": "5",
            "anthropic-beta": "b",
        }
        (row,) = await world.audit.wait("connection")
        (ended,) = await world.audit.wait("connection_ended")
    assert (row["host"], row["verdict"], row["code"]) == ("127.0.0.1", "allowed", "gateway")
    assert (ended["connection"], ended["status"]) == (row["connection"], 200)
    # What stands in a path or a header goes out as well.
    out = len("/v1/messages" + "content-length5" + "anthropic-betab" + "hello")
    assert (ended["bytes_out"], ended["bytes_in"], ended["end"]) == (out, 4, "closed")
    assert KEY not in str(world.audit.rows)
    assert KEY.encode() not in answer


async def test_an_event_of_a_stream_is_there_before_the_next_is_made(serve: Serve) -> None:
    seen = asyncio.Event()

    async def stream(_asked: Asked, streams: Streams) -> bool:
        writer = streams[1]
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7\r\ndata: 1\r\n")
        await writer.drain()
        async with asyncio.timeout(LIMIT_S):
            await seen.wait()
        writer.write(b"7\r\ndata: 2\r\n0\r\n\r\n")
        await writer.drain()
        return True

    async with api() as found:
        found.play = stream
        world = await serve(found)
        reader, writer = await world.connect()
        writer.write(request())
        async with asyncio.timeout(LIMIT_S):
            assert (await reader.readuntil(b"data: 1")).endswith(b"data: 1")
            seen.set()
            assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"data: 2\r\n0\r\n\r\n")
        writer.close()


async def test_requests_of_a_task_use_one_warm_connection(serve: Serve) -> None:
    async with api() as found:
        world = await serve(found)
        assert (await world.ask(request(b"1"), request(b"2"))).count(b"200 OK") == 2
        assert b"200 OK" in await world.ask(request(b"3"))
        assert world.sent() == [b"1", b"2", b"3"]
        assert found.connections == 1


async def test_a_connection_that_said_something_unasked_is_not_used_again(serve: Serve) -> None:
    poisoned = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad"

    async def poison(asked: Asked, streams: Streams) -> bool:
        await ok(asked, streams)
        streams[1].write(poisoned)
        await streams[1].drain()
        return True

    async with api() as found:
        found.play = poison
        world = await serve(found)
        assert (await world.ask(request())).endswith(b"fine")
        await world.audit.wait("connection_ended")
        assert (await world.ask(request())).endswith(b"fine")


async def test_chunks_go_on_as_chunks_and_a_waiting_task_is_told_to_go_on(serve: Serve) -> None:
    async with api() as found:
        world = await serve(found)
        chunks = b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\ntrailer: x\r\n\r\n"
        answer = await world.ask(
            request(chunks, "expect: 100-continue", framing="transfer-encoding: chunked")
        )
        assert answer.startswith(b"HTTP/1.1 100 ")
        assert world.sent() == [b"abcde"]
        assert "trailer" not in found.requests[0].headers


async def test_a_new_key_in_the_file_counts_for_the_next_request(serve: Serve) -> None:
    async with api() as found:
        world = await serve(found)
        await world.ask(request())
        world.key.write_text("sk-new")
        await world.ask(request())
        assert [asked.headers["x-api-key"] for asked in found.requests] == [KEY, "sk-new"]


@pytest.mark.parametrize("damage", ["others may read it", "gone", "two lines"])
async def test_without_a_key_nothing_goes_out_and_the_owner_is_told_why(
    serve: Serve, damage: str
) -> None:
    async with api() as found:
        world = await serve(found)
        if damage == "gone":
            world.key.unlink()
        elif damage == "two lines":
            world.key.write_text("sk-1\nx-evil: 1")
        else:
            world.key.chmod(0o644)
        answer = await world.ask(request())
        (row,) = await world.audit.wait("connection")
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"sk-" not in answer
        assert (row["code"], bool(row["detail"])) == ("no_key", True)
        assert "sk-" not in str(row)
        assert not found.connections


async def test_a_request_hidden_in_another_one_is_never_asked(serve: Serve) -> None:
    hidden = request(b"{}", target="/v1/files")
    async with api() as found:
        world = await serve(found)
        both = f"content-length: {len(hidden)}\r\ntransfer-encoding: chunked"
        assert b"400 " in await world.ask(request(b"0\r\n\r\n" + hidden, framing=both))
        for framing in (
            "transfer-encoding: chunked, identity",
            "transfer-encoding: \x0bchunked",
            "transfer-encoding: gzip",
            "content-length: 5\r\ncontent-length: 6",
            "content-length: +5",
            "content-length : 5",
        ):
            answer = await world.ask(request(b"0\r\n\r\n" + hidden, framing=framing))
            assert answer.count(b"HTTP/1.1 4") == 1, framing
            assert answer.startswith(b"HTTP/1.1 400 "), framing
        assert not found.requests
        assert b"403 " in await world.ask(request(b"{}"), hidden)
        assert len(found.requests) == 1


async def test_a_redirect_is_told_and_not_followed(serve: Serve) -> None:
    async def redirect(_asked: Asked, streams: Streams) -> bool:
        streams[1].write(
            b"HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
        )
        await streams[1].drain()
        return True

    async with api() as found:
        found.play = redirect
        world = await serve(found)
        assert b"HTTP/1.1 307 Go" in await world.ask(request())
        assert (found.connections, len(found.requests)) == (1, 1)


async def test_an_answer_that_comes_before_the_request_has_ended_is_told(serve: Serve) -> None:
    async def too_large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(too_large, "127.0.0.1", 0)
    async with server:
        world = await serve(Api(port=server.sockets[0].getsockname()[1]))
        reader, writer = await world.connect()
        writer.write(request(b"begun", framing="content-length: 1000"))
        async with asyncio.timeout(LIMIT_S):
            assert b"413 Large" in await reader.read()
        writer.close()


@pytest.mark.parametrize(
    ("said", "status", "end"),
    [
        (b"", b"502", "bad_answer"),
        (b"no http at all\r\n\r\n", b"502", "bad_answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfour", b"200", "broken"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 40_000, b"502", "bad_answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"\r\n", b"502", "bad_answer"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 33, b"502", "bad_answer"),
        (
            b"HTTP/1.1 103 Early Hints\r\n\r\n" * 99 + b"HTTP/1.1 200 OK\r\n\r\n",
            b"502",
            "bad_answer",
        ),
    ],
)
async def test_a_broken_answer_is_told_or_broken_off(
    serve: Serve, said: bytes, status: bytes, end: str
) -> None:
    async def broken(_asked: Asked, streams: Streams) -> bool:
        streams[1].write(said)
        await streams[1].drain()
        return False

    async with api() as found:
        found.play = broken
        world = await serve(found)
        answer = await world.ask(request())
        (ended,) = await world.audit.wait("connection_ended")
    assert ended["end"] == end
    assert answer.startswith(b"HTTP/1.1 " + status) or (end == "broken" and not answer)
    assert len([kind for kind, _ in world.audit.rows if kind == "connection"]) == 1


async def test_what_is_too_large_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_BYTES", 1000)
    async with api() as found:
        world = await serve(found)
        assert b" 431 " in await world.ask(request(b"{}", "anthropic-x: " + "y" * 60_000))
        assert b" 431 " in await world.ask(request(b"{}", *["a: b"] * 300))
        assert b" 413 " not in await world.ask(request(b"\n" * 900, *["a: b"] * 200))
        found.requests.clear()
        reader, writer = await world.connect()
        writer.write(request(b"z" * 1001))
        async with asyncio.timeout(LIMIT_S):
            assert b" 413 " in await reader.read()
        writer.close()
        assert not found.requests


async def test_tls_takes_a_certificate_for_the_host_and_no_other(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted, context = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    trusted_here.cache_clear()
    async with api(context) as found:
        outside = loopback_outside(found.port)
        world = await serve(found, outside=outside, host=ALLOWED, port=443, secure=True, own=False)
        assert (await world.ask(request())).endswith(b"fine")
        assert found.requests[0].headers["host"] == ALLOWED
        await world.proxy.shut(TASK)
        world = await serve(
            found, outside=outside, host="other.example.com", port=443, secure=True, own=False
        )
        assert b" 502 " in await world.ask(request())
        (row,) = await world.audit.wait("connection")
        assert row["code"] == "certificate_refused"
        assert len(found.requests) == 1
    trusted_here.cache_clear()


async def test_a_name_that_leads_inward_is_refused_unless_the_owner_named_it(serve: Serve) -> None:
    async with api() as found:
        for address in ("10.0.0.1", "169.254.169.254", "100.64.0.1", "::1"):
            outside = loopback_outside(found.port, [address])
            world = await serve(found, outside=outside, host=ALLOWED, own=False)
            assert b" 403 " in await world.ask(request())
            (row,) = await world.audit.wait("connection")
            assert row["code"] == "address_refused"
            await world.proxy.shut(TASK)
        world = await serve(found, outside=loopback_outside(found.port), host=ALLOWED, own=True)
        assert (await world.ask(request())).endswith(b"fine")


async def test_the_credential_of_another_task_opens_nothing(serve: Serve, tmp_path: Path) -> None:
    async with api() as found:
        world = await serve(found)
        other = gate(world.key, port=found.port, token="cmesh-task-other")
        second = TaskId("00000000-0000-7000-8000-000000000002")
        world.proxy.open(second, network(gate=other), tmp_path / "other" / "daemon")
        assert b" 401 " in await world.ask(request(token="cmesh-task-other"))
        assert not found.requests


async def test_what_cannot_be_recorded_does_not_go_out(serve: Serve) -> None:
    async with api() as found:
        world = await serve(found)
        world.audit.full = True
        assert b" 503 " in await world.ask(request())
        assert not found.requests


async def test_a_task_that_ends_ends_what_it_asked(serve: Serve) -> None:
    asked = asyncio.Event()

    async def think(_asked: Asked, streams: Streams) -> bool:
        asked.set()
        return bool(await streams[0].read())

    async with api() as found:
        found.play = think
        world = await serve(found)
        reader, writer = await world.connect()
        writer.write(request())
        async with asyncio.timeout(LIMIT_S):
            await asked.wait()
            await world.proxy.shut(TASK)
            assert await reader.read() == b""
        writer.close()
        (ended,) = await world.audit.wait("connection_ended")
        assert ended["end"] == "task ended"


async def test_a_task_that_ends_asks_nothing_that_was_not_asked_yet(serve: Serve) -> None:
    looking, found_it = asyncio.Event(), asyncio.Event()
    async with api() as found:
        leads = loopback_outside(found.port)

        async def resolve(name: str) -> Sequence[IPv4Address | IPv6Address]:
            looking.set()
            await found_it.wait()
            return await leads.resolve(name)

        world = await serve(found, outside=replace(leads, resolve=resolve), host=ALLOWED)
        _reader, writer = await world.connect()
        writer.write(request())
        async with asyncio.timeout(LIMIT_S):
            await looking.wait()
            ending = asyncio.create_task(world.proxy.shut(TASK))
            await asyncio.sleep(0)
            found_it.set()
            await ending
        writer.close()
        assert not found.requests
        assert not [kind for kind, _ in world.audit.rows if kind == "connection"]


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_comes_as_its_task_ends_asks_nothing(
    serve: Serve, turns: int
) -> None:
    async with api() as found:
        world = await serve(found)
        _reader, writer = await world.connect()
        writer.write(request())
        for _ in range(turns):  # at each step of its beginning
            await asyncio.sleep(0)
        before = len(found.requests)
        async with asyncio.timeout(LIMIT_S):
            await world.proxy.shut(TASK)
        writer.close()
        assert len(found.requests) == before
        assert not [row for _, row in world.audit.rows if row.get("end") == "closed"]


async def test_a_silent_name_server_holds_up_no_more_than_look_ups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, silent = threading.Event(), threading.Event()

    def ask(*_arguments: object, **_more: object) -> list[tuple[object, ...]]:
        asked.set()
        silent.wait(LIMIT_S)
        return []

    monkeypatch.setattr("socket.getaddrinfo", ask)
    looking = [asyncio.ensure_future(INTERNET.resolve(ALLOWED)) for _ in range(64)]
    try:
        async with asyncio.timeout(LIMIT_S / 2):
            while not asked.is_set():
                await asyncio.sleep(0)
            assert await asyncio.to_thread(lambda: "a key") == "a key"
    finally:
        silent.set()
        await asyncio.gather(*looking)


async def test_an_answer_in_crumbs_leaves_the_others_their_turns(serve: Serve) -> None:
    count, turns = 2_000, 0
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    said = head + b"1\r\na\r\n" * count + b"0\r\n\r\n"

    async def crumble(_asked: Asked, streams: Streams) -> bool:
        nonlocal turns
        turns = 0
        streams[1].write(said)
        await streams[1].drain()
        return False

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with api() as found:
        found.play = crumble
        world = await serve(found)
        busy = asyncio.create_task(others())
        answer = await world.ask(request())
        had = turns
        busy.cancel()
    assert answer.endswith(b"0\r\n\r\n")
    assert had >= count


async def test_a_model_that_is_silent_for_too_long_is_left(serve: Serve) -> None:
    async def silent(_asked: Asked, streams: Streams) -> bool:
        return bool(await streams[0].read())

    async with api() as found:
        found.play = silent
        world = await serve(found, limits=Limits(idle_s=0.2))
        assert await world.ask(request()) == b""
        (ended,) = await world.audit.wait("connection_ended")
        assert ended["end"] == "idle"


async def test_an_accounts_token_and_headers_stand_in_the_place_of_the_tasks(
    serve: Serve,
) -> None:
    async def login(path: str) -> Bearer:
        assert path.endswith("key")
        return "token-of-the-account", ((b"anthropic-account", b"a-1"),)

    async with api() as found:
        world = await serve(found, login=login, account=True, **BEARER)
        answer = await world.ask(
            request(b"{}", f"authorization: Bearer {DUMMY}", "anthropic-account: another")
        )
    assert answer.startswith(b"HTTP/1.1 200")
    [asked] = world.api.requests
    assert asked.headers["authorization"] == "Bearer token-of-the-account"
    assert asked.head.count("anthropic-account") == 1
    assert asked.headers["anthropic-account"] == "a-1"
    assert "x-api-key" not in asked.headers
    assert DUMMY not in asked.head


async def test_a_login_that_is_over_is_told_in_one_sentence_and_asks_nobody(serve: Serve) -> None:
    async def login(_path: str) -> Bearer:
        raise LoginExpired("the login of runner `x` on this machine has expired")

    async with api() as found:
        world = await serve(found, login=login, account=True, **BEARER)
        answer = await world.ask(request(b"{}", f"authorization: Bearer {DUMMY}"))
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"cmesh: the login of runner `x` on this machine has expired" in answer
    assert world.api.connections == 0
    [row] = await world.audit.wait("connection")
    assert (row["verdict"], row["code"]) == ("refused", "login_expired")
