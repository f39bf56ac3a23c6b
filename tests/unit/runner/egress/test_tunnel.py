"""One connection of a task through the proxy: what it may, what it is told, what is recorded."""

import asyncio
import logging
import socket
from dataclasses import replace
from ipaddress import ip_address

import pytest

from cmesh.runner.egress import proxy as proxy_module
from cmesh.runner.egress.hello import UNRECOGNIZED_NAME
from cmesh.runner.egress.network import Endpoint
from cmesh.runner.egress.outside import Streams, open_streams
from cmesh.runner.egress.reach import Limits
from cmesh.runner.egress.request import HEAD_BYTES
from tests.fakes.egress import (
    ALLOWED,
    LOCALHOST,
    TOKEN,
    client_hello,
    connect_head,
    loopback_outside,
    network,
)
from tests.unit.runner.egress.conftest import TASK, Serve, World

pytestmark = pytest.mark.anyio

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def refused(world: World, data: bytes) -> tuple[bytes, dict[str, object]]:
    """Return the answer to a request, and its row; nothing may have gone out."""
    answer = await world.ask(data)
    (row,) = await world.audit.wait("connection")
    assert row["verdict"] == "refused"
    assert not world.server.data
    return answer, row


async def test_bytes_go_both_ways_and_both_ends_are_recorded(serve: Serve) -> None:
    world = await serve()
    reader, writer = await world.connect()
    hello = client_hello()
    writer.write(connect_head() + hello)
    assert await reader.readexactly(len(ESTABLISHED) + len(hello)) == ESTABLISHED + hello
    writer.write(b"more")
    assert await reader.readexactly(4) == b"more"
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    (ended,) = await world.audit.wait("connection_ended")
    (row,) = await world.audit.wait("connection")
    assert [kind for kind, _ in world.audit.rows] == ["connection", "connection_ended"]
    assert (row["host"], row["address"], row["port"]) == (ALLOWED, "127.0.0.1", 443)
    assert (row["verdict"], row["code"]) == ("allowed", "host")
    assert ended["connection"] == row["connection"]
    assert (ended["bytes_out"], ended["bytes_in"]) == (len(hello) + 4, len(hello) + 4)
    assert ended["end"] == "closed"


@pytest.mark.parametrize("size", [1, 3, 64])
async def test_a_hello_in_pieces_is_read_as_a_whole_one(serve: Serve, size: int) -> None:
    world = await serve()
    reader, writer = await world.connect()
    sent = connect_head() + (hello := client_hello())
    for start in range(0, len(sent), size):
        writer.write(sent[start : start + size])
        await writer.drain()
    assert await reader.readexactly(len(ESTABLISHED) + len(hello)) == ESTABLISHED + hello
    writer.close()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (connect_head("evil.example.com"), b"403", "host_refused"),
        (connect_head(f"{ALLOWED}.evil.com"), b"403", "host_refused"),
        (connect_head("com"), b"403", "bad_request"),
        (connect_head("127.0.0.1"), b"403", "bad_request"),
        (connect_head("2130706433"), b"403", "bad_request"),
        (connect_head("[::1]"), b"403", "bad_request"),
        (connect_head(port=80), b"403", "port_refused"),
        (connect_head(port=22), b"403", "port_refused"),
        (connect_head(token=None), b"407", "no_token"),
        (connect_head(token=""), b"407", "wrong_token"),
        (connect_head(token=TOKEN[:-1]), b"407", "wrong_token"),
        (connect_head(token=TOKEN + "x"), b"407", "wrong_token"),
        (b"GET http://api.example.com/ HTTP/1.1\r\n\r\n", b"403", "bad_request"),
        (b"POST / HTTP/1.1\r\n\r\n", b"403", "bad_request"),
        (client_hello(), b"403", "bad_request"),
        (b"CONNECT " + b"a" * 2 * HEAD_BYTES, b"403", "bad_request"),
    ],
)
async def test_what_may_not_be_is_refused_with_a_reason_and_recorded(
    serve: Serve, data: bytes, status: bytes, code: str
) -> None:
    world = await serve()
    answer, row = await refused(world, data)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert str(row["reason"]).encode() in answer
    assert row["code"] == code
    assert world.server.connections == 0


@pytest.mark.parametrize(
    ("hello", "said"),
    [
        (client_hello("evil.example.com"), "another server"),
        (client_hello(None), "names no server"),
        (b"GET / HTTP/1.1\r\n\r\n", "does not begin with a TLS hello"),
        (b"\x16\x03\x01\x00\x00", "length"),
        (b"\x16\x03\x01\x40\x00" + bytes((1, 0, 0x40, 1)) + b"x" * 16380, "too long"),
    ],
)
async def test_without_a_hello_for_the_asked_name_not_a_byte_goes_out(
    serve: Serve, hello: bytes, said: str
) -> None:
    world = await serve()
    answer, row = await refused(world, connect_head() + hello)
    assert answer == ESTABLISHED + UNRECOGNIZED_NAME
    assert said in str(row["reason"])
    assert (row["code"], row["address"]) == ("tls_refused", "127.0.0.1")


async def test_another_name_is_told_to_the_owner_only(serve: Serve) -> None:
    world = await serve()
    _answer, row = await refused(world, connect_head() + client_hello("evil.example.com"))
    assert row["detail"] == "it names `evil.example.com`"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.2", "10.0.0.1", "169.254.169.254", "100.100.100.100", "::1", "::ffff:127.0.0.1"],
)
async def test_an_allowed_name_at_a_forbidden_address_is_refused(
    serve: Serve, address: str
) -> None:
    world = await serve(outside=loopback_outside(1, ["127.0.0.1", address]))
    answer, row = await refused(world, connect_head() + client_hello())
    assert answer.startswith(b"HTTP/1.1 403")
    # Where a name leads inside this machine's network is the owner's to know.
    assert address.encode() not in answer
    assert (row["code"], row["address"]) == ("address_refused", str(ip_address(address)))
    assert str(row["detail"]).startswith(f"{ip_address(address)} is ")


async def test_a_name_is_resolved_once_and_only_what_was_judged_is_connected_to(
    serve: Serve,
) -> None:
    outside = loopback_outside(1)
    asked: list[str] = []
    reached: list[object] = []

    async def resolve(name: str) -> list[object]:
        asked.append(name)
        # A second answer would be another address: DNS rebinding.
        return [LOCALHOST] if len(asked) == 1 else [ip_address("10.0.0.1")]

    async def connect(address: object, port: int) -> object:
        reached.append(address)
        raise ConnectionRefusedError(111, "refused")

    changed = replace(outside, resolve=resolve, connect=connect)
    world = await serve(outside=changed)
    answer, row = await refused(world, connect_head() + client_hello())
    assert answer.startswith(b"HTTP/1.1 502")
    assert (asked, reached) == ([ALLOWED], [LOCALHOST])
    assert row["code"] == "unreachable"


async def test_a_refused_name_is_never_looked_up(serve: Serve) -> None:
    async def resolve(name: str) -> list[object]:
        raise AssertionError(name)

    changed = replace(loopback_outside(1), resolve=resolve)
    world = await serve(outside=changed)
    _answer, row = await refused(world, connect_head("secret-in-a-name.evil.com"))
    assert row["code"] == "host_refused"


async def test_a_name_without_an_address_is_told(serve: Serve) -> None:
    async def resolve(name: str) -> list[object]:
        raise OSError(name)

    changed = replace(loopback_outside(1), resolve=resolve)
    world = await serve(outside=changed)
    answer, row = await refused(world, connect_head())
    assert answer.startswith(b"HTTP/1.1 502")
    assert row["code"] == "no_address"


@pytest.mark.parametrize(("data", "answered"), [(b"", b"HTTP/1.1 403"), (b"CONN", b"HTTP/1.1 403")])
async def test_a_client_that_is_slow_with_its_head_is_sent_away(
    serve: Serve, data: bytes, answered: bytes
) -> None:
    world = await serve(limits=Limits(head_s=0.05))
    answer, row = await refused(world, data)
    assert answer.startswith(answered)
    assert row["code"] == "too_slow"


async def test_a_client_that_is_slow_with_its_hello_is_sent_away(serve: Serve) -> None:
    world = await serve(limits=Limits(head_s=0.3))
    answer, row = await refused(world, connect_head() + client_hello()[:20])
    assert answer == ESTABLISHED + UNRECOGNIZED_NAME
    assert row["code"] == "too_slow"


async def test_a_connection_without_a_byte_for_too_long_is_dropped(serve: Serve) -> None:
    world = await serve(limits=Limits(idle_s=0.2))
    answer = await world.ask(connect_head() + client_hello())
    assert answer.startswith(ESTABLISHED)
    (ended,) = await world.audit.wait("connection_ended")
    assert ended["end"] == "idle"


async def test_what_cannot_be_recorded_does_not_go_out(serve: Serve) -> None:
    world = await serve()
    world.audit.full = True
    answer = await world.ask(connect_head() + client_hello())
    assert answer == ESTABLISHED + UNRECOGNIZED_NAME
    assert not world.server.data
    assert not world.audit.rows


async def test_the_task_s_end_ends_its_connections_and_says_so(serve: Serve) -> None:
    world = await serve()
    reader, writer = await world.connect()
    writer.write(connect_head() + client_hello())
    await world.audit.wait("connection")
    await world.proxy.shut(TASK)
    (ended,) = await world.audit.wait("connection_ended")
    assert ended["end"] == "task ended"
    assert (await reader.read()).startswith(ESTABLISHED)
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await world.connect()


async def test_a_daemon_that_stops_records_what_was_open(serve: Serve) -> None:
    world = await serve()
    _reader, writer = await world.connect()
    writer.write(connect_head() + client_hello())
    await world.audit.wait("connection")
    await world.proxy.close()
    (ended,) = await world.audit.wait("connection_ended")
    assert ended["end"] == "daemon stopped"
    writer.close()


async def test_a_task_has_so_many_connections_and_no_more(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_module, "CONNECTIONS_MOST", 3)
    world = await serve()
    opened = [await world.connect() for _ in range(3)]
    for reader, writer in opened:
        writer.write(connect_head() + client_hello())
        await reader.readexactly(len(ESTABLISHED))
    answer = await world.ask(b"")
    assert answer.startswith(b"HTTP/1.1 503")
    for _reader, writer in opened:
        writer.close()
    await world.audit.wait("connection_ended", 3)
    answer = await world.ask(connect_head("evil.example.com"))
    assert answer.startswith(b"HTTP/1.1 403")


async def test_a_flood_waits_at_the_door_and_is_counted_when_it_fills_the_audit(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_module, "CONNECTIONS_BURST", 4.0)
    monkeypatch.setattr(proxy_module, "CONNECTIONS_PER_S", 50.0)
    monkeypatch.setattr(proxy_module, "REFUSED_RECORDED", 5)
    world = await serve()
    answers = await asyncio.gather(*(world.ask(b"GET / HTTP/1.0\r\n\r\n") for _ in range(8)))
    assert all(answer.startswith(b"HTTP/1.1 403") for answer in answers)
    await world.proxy.shut(TASK)
    assert [kind for kind, _ in world.audit.rows] == ["connection"] * 5 + ["connections_unrecorded"]
    assert world.audit.rows[-1][1] == {"refused": 3}


async def test_what_is_no_connect_goes_to_the_owner_s_model_server_and_nowhere_else(
    serve: Serve,
) -> None:
    world = await serve()
    await world.proxy.shut(TASK)
    model = Endpoint(address=LOCALHOST, port=world.server.port)
    world.proxy.open(TASK, network(hosts=frozenset[str](), model=model), world.door)
    reader, writer = await world.connect()
    sent = b"POST http://evil.example.com/ HTTP/1.1\r\nHost: evil.example.com\r\n\r\n"
    writer.write(sent)
    assert await reader.readexactly(len(sent)) == sent
    (row,) = await world.audit.wait("connection")
    assert (row["code"], row["address"], row["port"]) == ("model", "127.0.0.1", model.port)
    writer.close()
    assert (await world.ask(connect_head())).startswith(b"HTTP/1.1 403")


async def test_what_asks_for_cmesh_goes_to_the_daemon_and_the_rest_does_not(serve: Serve) -> None:
    world = await serve()
    await world.proxy.shut(TASK)
    model = Endpoint(address=LOCALHOST, port=world.server.port)
    asked: list[bytes] = []

    async def inside() -> Streams:
        ours, theirs = socket.socketpair()
        reader, writer = await open_streams(theirs)

        async def serve_one() -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"cmesh")
            writer.close()

        serving.append(asyncio.create_task(serve_one()))
        return await open_streams(ours)

    serving: list[asyncio.Task[None]] = []
    grant = network(hosts=frozenset[str](), model=model, mcp_token="a")
    world.proxy.open(TASK, grant, world.door, inside)
    head = b"POST /cmesh/mcp HTTP/1.1\r\nHost: localhost:8119\r\n\r\n"
    assert await world.ask(head) == b"cmesh"
    assert asked == [head]
    assert not world.server.data
    (row,) = await world.audit.wait("connection")
    assert (row["verdict"], row["code"]) == ("allowed", "mcp")
    for line in (b"POST /cmesh/mcp2 HTTP/1.1", b"POST /v1 /cmesh/mcp HTTP/1.1", b"/cmesh/mcp"):
        reader, writer = await world.connect()
        writer.write(line + b"\r\n\r\n")
        assert await reader.readexactly(len(line)) == line  # the model's echo
        writer.close()
    assert len(asked) == 1


async def test_no_token_stands_in_a_row_a_log_or_a_text(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world = await serve()
    for data in (
        connect_head() + client_hello(),
        connect_head(token=f"{TOKEN}x"),
        connect_head(host="bad_host"),
        connect_head()[:-4] + b" \x01\r\n\r\n",
        connect_head() + b"no hello",
    ):
        reader, writer = await world.connect()
        writer.write(data)
        writer.write_eof()
        assert TOKEN.encode() not in await reader.read()
        writer.close()
    await world.audit.wait("connection", 5)
    assert TOKEN not in str(world.audit.rows) + caplog.text + repr(network())
