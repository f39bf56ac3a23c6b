"""Reads the server's name out of a TLS ClientHello, as far as a proxy may. Pure.

RFC 8446 sections 4.1.2 and 5.1 (records, the message), RFC 6066 section 3 (server_name). Bytes
go in as they come; nothing is sent, and nothing beyond the hello is looked at.
"""

__all__ = ["HELLO_BYTES", "UNRECOGNIZED_NAME", "Hello", "HelloError"]

HELLO_BYTES = 16 * 1024
"""The longest ClientHello that is read, record headers included; real ones have 0.2 to 2 kB."""

UNRECOGNIZED_NAME = bytes((21, 3, 1, 0, 2, 2, 112))
"""A TLS record with the fatal alert unrecognized_name, what a client is told (RFC 6066)."""

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _HOST_NAME = 0, 0
_ENCRYPTED_CLIENT_HELLO = 0xFE0D
_RECORD_MOST = 2**14
_VERSION_AND_RANDOM = 34


class HelloError(Exception):
    """Raised when bytes are no ClientHello with one readable name; the text says why."""


class Hello:
    """A ClientHello that is being read.

    Attributes:
        name: the server's name, lower case; None while more is needed.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._seen = 0
        self._raw = bytearray()
        self._message = bytearray()

    def feed(self, data: bytes) -> str | None:
        """Take more bytes of the client; return the name once the hello is complete.

        Raises:
            HelloError: it is no ClientHello, has no name or several, hides it, or is too long.
        """
        if self.name is not None:
            return self.name
        self._seen += len(data)
        if self._seen - len(data) >= HELLO_BYTES:
            raise HelloError("the TLS hello is too long")
        self._raw += data
        while self._take_record():
            pass
        if (body := self._body()) is not None:
            self.name = _server_name(_extensions(_Reader(body)))
        elif self._seen >= HELLO_BYTES:
            raise HelloError("the TLS hello is too long")
        return self.name

    def _take_record(self) -> bool:
        """Move the next whole record's content on; False when there is none yet."""
        raw = self._raw
        if raw and raw[0] != _HANDSHAKE:
            raise HelloError("the connection does not begin with a TLS hello")
        if len(raw) >= 2 and raw[1] != 3:
            raise HelloError("the connection does not begin with a TLS hello")
        if len(raw) < 5 or self._body() is not None:
            return False
        length = int.from_bytes(raw[3:5], "big")
        if not 0 < length <= _RECORD_MOST:
            raise HelloError("a TLS record has a length that is not allowed")
        if len(raw) < 5 + length:
            return False
        self._message += raw[5 : 5 + length]
        del raw[: 5 + length]
        if self._message[0] != _CLIENT_HELLO:
            raise HelloError("the connection does not begin with a TLS hello")
        return True

    def _body(self) -> bytes | None:
        message = self._message
        if len(message) < 4:
            return None
        length = int.from_bytes(message[1:4], "big")
        if length > HELLO_BYTES:
            raise HelloError("the TLS hello is too long")
        if len(message) > 4 + length:
            raise HelloError("the TLS hello has bytes after its end")
        return bytes(message[4:]) if len(message) == 4 + length else None


class _Reader:
    """Reads vectors (RFC 8446 section 3.4) out of bytes that somebody else wrote."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise HelloError("the TLS hello is cut short")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))


def _extensions(reader: _Reader) -> dict[int, bytes]:
    reader.take(_VERSION_AND_RANDOM)
    reader.vector(1)  # session id
    reader.vector(2)  # cipher suites
    reader.vector(1)  # compression methods
    inner = _Reader(reader.vector(2) if reader.left else b"")
    if reader.left:
        raise HelloError("the TLS hello has bytes after its end")
    found: dict[int, bytes] = {}
    while inner.left:
        kind = inner.number(2)
        if kind in found:
            raise HelloError("the TLS hello has an extension twice")
        found[kind] = inner.vector(2)
    return found


def _server_name(extensions: dict[int, bytes]) -> str:
    # INVARIANT: a hello inside the hello can ask the same address for any other name.
    if _ENCRYPTED_CLIENT_HELLO in extensions:
        raise HelloError("the TLS hello is encrypted (ECH), so its name cannot be checked")
    if _SERVER_NAME not in extensions:
        raise HelloError("the TLS hello names no server (SNI)")
    outer = _Reader(extensions[_SERVER_NAME])
    names = _Reader(outer.vector(2))
    kind, name = names.number(1), names.vector(2)
    if kind != _HOST_NAME or names.left or outer.left:
        raise HelloError("the TLS hello does not name exactly one server")
    try:
        return name.decode("ascii").lower()
    except UnicodeDecodeError:
        raise HelloError("the TLS hello's name is not ASCII") from None
