"""Reading the server's name of a TLS hello: of real ones, of damaged ones, of any bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmesh.runner.egress.hello import HELLO_BYTES, Hello, HelloError
from tests.fakes.egress import ALLOWED, client_hello

SERVER_NAME, ECH = 0, 0xFE0D


def vector(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size, "big") + data


def names(*entries: tuple[int, bytes]) -> bytes:
    return vector(b"".join(bytes([kind]) + vector(name, 2) for kind, name in entries), 2)


def hello(*extensions: tuple[int, bytes], record: int = 2**14, after: bytes = b"") -> bytes:
    """Return a ClientHello with exactly these extensions, in records of at most `record`."""
    body = b"".join(kind.to_bytes(2, "big") + vector(data, 2) for kind, data in extensions)
    message = b"\x03\x03" + bytes(32) + vector(b"", 1) + vector(b"\x13\x01", 2) + vector(b"\0", 1)
    message = b"\x01" + vector(message + (vector(body, 2) if extensions else b"") + after, 3)
    pieces = [message[at : at + record] for at in range(0, len(message), record)]
    return b"".join(b"\x16\x03\x01" + vector(piece, 2) for piece in pieces)


GOOD = (SERVER_NAME, names((0, ALLOWED.encode())))


def read(data: bytes) -> str | None:
    return Hello().feed(data)


def read_bytewise(data: bytes) -> str | None:
    reader, name = Hello(), None
    for at in range(len(data)):
        name = reader.feed(data[at : at + 1])
    return name


def test_the_name_of_a_real_client_is_read() -> None:
    assert read(client_hello(ALLOWED)) == ALLOWED
    assert read(client_hello("OTHER.example.com")) == "other.example.com"


@pytest.mark.parametrize("record", [1, 2, 5, 50])
def test_a_hello_over_many_records_is_read(record: int) -> None:
    assert read(hello(GOOD, record=record)) == ALLOWED


def test_byte_by_byte_it_is_known_at_the_last_byte_and_no_sooner() -> None:
    reader, data = Hello(), client_hello()
    assert all(reader.feed(data[at : at + 1]) is None for at in range(len(data) - 1))
    assert reader.feed(data[-1:]) == ALLOWED
    assert reader.feed(b"what follows is not looked at") == ALLOWED


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (hello(), "names no server"),
        (hello((1, b"")), "names no server"),
        (hello(GOOD, (ECH, b"")), "ECH"),
        (hello(GOOD, GOOD), "twice"),
        (hello((SERVER_NAME, names())), "cut short"),
        (hello((SERVER_NAME, b"")), "cut short"),
        (hello((SERVER_NAME, names((0, b"a"), (0, b"b")))), "exactly one"),
        (hello((SERVER_NAME, names((1, b"a")))), "exactly one"),
        (hello((SERVER_NAME, names((0, b"a")) + b"x")), "exactly one"),
        (hello((SERVER_NAME, names((0, b"\xff")))), "not ASCII"),
        (hello(GOOD, after=b"x"), "after its end"),
        (b"\x17\x03\x03\x00\x01x", "does not begin"),
        (b"\x16\x02", "does not begin"),
        (b"\x80\x2e\x01\x03\x01", "does not begin"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "does not begin"),
        (b"\x16\x03\x01\x00\x00", "length"),
        (b"\x16\x03\x01\x40\x01", "length"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", "too long"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x00x", "after its end"),
    ],
)
def test_what_has_no_one_readable_name_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(HelloError, match=said):
        read_bytewise(data)


def test_a_hello_without_end_is_cut_off_at_the_limit() -> None:
    message = b"\x01" + HELLO_BYTES.to_bytes(3, "big") + b"x" * HELLO_BYTES
    one_byte_a_record = b"".join(b"\x16\x03\x01\x00\x01" + bytes([byte]) for byte in message)
    assert read_bytewise(one_byte_a_record[: HELLO_BYTES - 1]) is None
    with pytest.raises(HelloError, match="too long"):
        read_bytewise(one_byte_a_record[:HELLO_BYTES])


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_do_more_than_be_refused(data: bytes, size: int) -> None:
    for start in (data, b"\x16\x03\x01" + vector(b"\x01" + vector(data, 3), 2)):
        reader = Hello()
        try:
            for at in range(0, len(start), size):
                reader.feed(start[at : at + size])
        except HelloError:
            continue


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_changed_byte_gives_a_name_or_a_refusal(place: int, value: int) -> None:
    data = bytearray(client_hello())
    data[place % len(data)] = value
    try:
        name = read(bytes(data))
    except HelloError:
        return
    assert name is None or name.isascii()
