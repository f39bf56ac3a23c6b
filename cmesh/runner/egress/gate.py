"""What of a task's request to its model goes on, and what is refused. Pure.

The head of each request is made anew from what is let through: a method and path that the
manifest names, named headers, one credential. Strict: what could be read in two ways is refused.
Holds a task's own credential, never the owner's key.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cmesh.runner.egress.trail import Refused

__all__ = ["UNAUTHORIZED", "Forward", "Gate", "Header", "answer_headers", "judge"]

Header = tuple[bytes, bytes]
"""Name in lower case, and value."""

TARGET_BYTES = 1024

BAD_REQUEST = "400 Bad Request"
UNAUTHORIZED = "401 Unauthorized"
UPGRADE_REFUSED = "426 Upgrade Required"

_PART = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_TARGET = re.compile(r"(/[A-Za-z0-9_.:/-]*)(?:\?([A-Za-z0-9_.=&-]*))?")
_CREDENTIAL = re.compile(rb"auth|key|token|secret|cookie|credential|passw|signature")
"""A header so named is never the task's to send, whatever pattern it fits."""

_PASSED = frozenset(
    b"accept accept-encoding accept-language content-encoding content-length content-type"
    b" user-agent".split()
)
# Those of one connection only (RFC 9110 section 7.6.1); a cookie, which would be the owner's
# session; and what speaks of a host that is not the relay.
_NOT_ANSWERED = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade"
    b" proxy-authenticate proxy-authentication-info set-cookie set-cookie2 alt-svc"
    b" strict-transport-security clear-site-data".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The one model of a task, and what may be asked of it.

    Attributes:
        host, port: of the model's API; `secure` = by TLS, with a certificate for `host`.
        own: the owner named it, so that it may be at any address.
        path: what every path begins with, without a slash at its end.
        header, scheme, routes, query, headers: as in `cmesh.runner.egress.credentials.Gateway`.
        token: the task's own credential.
        key_file: of the owner's key, which is read when it is needed.
        account: it is the login of an account instead.
    """

    host: str
    port: int
    secure: bool
    own: bool
    path: str
    header: str
    scheme: str
    routes: tuple[str, ...]
    query: tuple[str, ...]
    headers: tuple[str, ...]
    token: str = field(repr=False)
    key_file: str
    account: bool = False

    @property
    def authority(self) -> bytes:
        """What `Host` says to the API."""
        standard = self.port == (443 if self.secure else 80)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if standard else f"{host}:{self.port}").encode()

    def credential(self, key: str) -> Header:
        """Return the header that carries a key."""
        return self.header.encode(), f"{self.scheme} {key}".strip().encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What of a request goes on; its headers hold neither host nor credential."""

    method: bytes
    target: bytes
    headers: tuple[Header, ...]

    @property
    def size(self) -> int:
        """Bytes of the task in its request's head; names and values, not what holds them."""
        return len(self.target) + sum(len(name) + len(value) for name, value in self.headers)


def judge(
    gate: Gate, method: bytes, target: bytes, headers: Sequence[Header], *, port: int
) -> Forward:
    """Return what of a request goes on; `port` is the one that the task was told.

    Raises:
        Refused: it may not; says why to the task.
    """
    named: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        named.setdefault(name, []).append(value)
    _require_one_reading(named, port)
    _require_credential(gate, named)
    if b"upgrade" in named:
        # Codex tries a websocket first, and goes on by HTTP when it is told so.
        raise Refused("upgrade_refused", "ask by plain HTTP", status=UPGRADE_REFUSED)
    _require_route(gate, method, target)
    patterns = [one.encode() for one in gate.headers]
    passed = [(name, value) for name, value in headers if _passes(name, patterns)]
    if b"transfer-encoding" in named:  # how the body is framed on the way is ours to say
        passed.append((b"transfer-encoding", b"chunked"))
    return Forward(method=method, target=target, headers=tuple(passed))


def answer_headers(headers: Sequence[Header]) -> list[Header]:
    """Return what the task sees of an answer's headers."""
    named = {
        word.strip().lower()
        for name, value in headers
        if name == b"connection"
        for word in value.split(b",")
    }
    dropped = _NOT_ANSWERED | named
    return [(name, value) for name, value in headers if name not in dropped]


def _require_one_reading(named: Mapping[bytes, list[bytes]], port: int) -> None:
    """Refuse what two programs on the way could read in two ways (RFC 9112 section 11.2)."""
    if b"content-length" in named and b"transfer-encoding" in named:
        raise Refused("bad_request", "the request has two lengths", status=BAD_REQUEST)
    doubled = any(len(named.get(name, ())) > 1 for name in (b"content-length", b"host"))
    if doubled or len(named.get(b"transfer-encoding", ())) > 1:
        raise Refused("bad_request", "a header stands there twice", status=BAD_REQUEST)
    here = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}
    if named.get(b"host", [b""])[0].lower() not in here:
        why = f"the gateway is at 127.0.0.1:{port}, and `Host` must say so"
        raise Refused("host_refused", why)


def _require_credential(gate: Gate, named: Mapping[bytes, list[bytes]]) -> None:
    _name, expected = gate.credential(gate.token)
    shown = named.get(gate.header.encode(), [])
    if not shown:
        why = "the gateway needs this task's own credential"
        raise Refused("no_token", why, status=UNAUTHORIZED)
    if len(shown) > 1 or not hmac.compare_digest(shown[0], expected):
        why = "that is not this task's own credential"
        raise Refused("wrong_token", why, status=UNAUTHORIZED)


def _require_route(gate: Gate, method: bytes, target: bytes) -> None:
    text = target.decode("latin-1")
    found = _TARGET.fullmatch(text) if len(target) <= TARGET_BYTES else None
    if found is None:
        # INVARIANT: no `%`, no backslash, no `//host`, no absolute form: one reading only.
        raise Refused("bad_request", "the path has no plain form", status=BAD_REQUEST)
    path, query = found[1], found[2] or ""
    asked = f"{method.decode('latin-1')} {path.removeprefix(gate.path)}"
    if not path.startswith(f"{gate.path}/"):
        raise Refused("route_refused", "the key is not for this path", detail=asked)
    if not any(_route(route).fullmatch(asked) for route in gate.routes):
        why = "the key is not for this method and path"
        raise Refused("route_refused", why, detail=asked)
    names = [pair.partition("=")[0] for pair in query.split("&")] if query else []
    if not set(names) <= set(gate.query) or len(set(names)) < len(names):
        why = "the key is not for a path with these parameters"
        raise Refused("route_refused", why, detail=f"{asked}?{query}")


def _route(route: str) -> re.Pattern[str]:
    return re.compile(_PART.join(re.escape(part) for part in route.split("*")))


def _passes(name: bytes, patterns: Sequence[bytes]) -> bool:
    if name in _PASSED:
        return True
    if _CREDENTIAL.search(name):
        return False
    return any(name.startswith(one[:-1]) if one.endswith(b"*") else name == one for one in patterns)
