"""What a client of the proxy asks for: the head of an HTTP CONNECT request. Pure.

RFC 9110 section 9.3.6 (CONNECT), 11.7 (proxy authentication), RFC 7617 (Basic). Strict: what
could be read in two ways is refused. Never compares a token, and no text here repeats one.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field

__all__ = [
    "CONNECT",
    "HEAD_BYTES",
    "HEAD_END",
    "LINE_END",
    "Connect",
    "RequestError",
    "asks_for",
    "is_name",
    "parse_head",
]

CONNECT = b"CONNECT "
LINE_END = b"\r\n"
HEAD_END = b"\r\n\r\n"
HEAD_BYTES = 8 * 1024
"""The longest head of a request, its empty line included."""

_NAME_MOST = 253
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"({_LABEL}\.)+[a-z]({_LABEL.removeprefix('[a-z0-9]')})")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
_VISIBLE = re.compile(r"[\t\x20-\x7e]*")


class RequestError(Exception):
    """Raised when bytes are no CONNECT request; the text says why, without quoting any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A CONNECT request.

    Attributes:
        host: a DNS name in lower case, never an address.
        token: the password of its credentials; None when it came without any.
    """

    host: str
    port: int
    token: str | None = field(repr=False)


def parse_head(head: bytes) -> Connect:
    """Read a whole head, up to and with its empty line.

    Raises:
        RequestError: it is not a CONNECT for a name and a port in the form of the RFCs.
    """
    if not head.endswith(HEAD_END) or len(head) > HEAD_BYTES:
        raise RequestError("the request's head has no end")
    try:
        text = head.removesuffix(HEAD_END).decode("ascii")
    except UnicodeDecodeError:
        raise RequestError("the request's head is not ASCII") from None
    first, *rest = text.split("\r\n")
    if not all(_VISIBLE.fullmatch(line) for line in (first, *rest)):
        raise RequestError("the request's head has control characters")
    match first.split(" "):
        case ["CONNECT", target, "HTTP/1.1" | "HTTP/1.0"]:
            host, port = _authority(target)
        case _:
            raise RequestError("the request is no CONNECT of HTTP/1.1")
    return Connect(host=host, port=port, token=_token(rest))


def asks_for(data: bytes, path: str) -> bool:
    """Say whether a request's first line asks for exactly `path`, without a query."""
    line, _, _ = data.partition(LINE_END)
    return line.split(b" ")[1:] in ([path.encode(), b"HTTP/1.1"], [path.encode(), b"HTTP/1.0"])


def is_name(text: str) -> bool:
    """Return whether `text` is a DNS name of two labels or more, in lower case, no address.

    The last label begins with a letter, as no IPv4 address in any spelling does.
    """
    return len(text) <= _NAME_MOST and _NAME.fullmatch(text) is not None


def _authority(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    host = host.lower()
    if not is_name(host):
        raise RequestError("CONNECT takes a host name, not an address")
    if not _PORT.fullmatch(port):
        raise RequestError("CONNECT takes a port number")
    return host, int(port)


def _token(lines: list[str]) -> str | None:
    fields = [_FIELD.fullmatch(line) for line in lines]
    if not all(fields):
        raise RequestError("a header of the request has no valid form")
    values = [one[2] for one in fields if one and one[1].lower() == "proxy-authorization"]
    if not values:
        return None
    scheme, _, encoded = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "basic":
        raise RequestError("the proxy takes one Basic credential")
    try:
        _user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        token = password.decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        raise RequestError("the credential has no valid form") from None
    if not colon:
        raise RequestError("the credential has no valid form")
    return token
