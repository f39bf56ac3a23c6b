"""A tailnet without Go: nodes that pass the node contract (tests/contract/test_node.py).

Each node is a number, its addresses are made of it, and its ports are abstract Unix sockets
(unix(7)) named by tailnet, node and port. So nodes of several processes reach each other, no
port of the machine is used, and nothing outlives the processes. Who is on the tailnet is said
by the test; a copy in another process (`dump`, `load`) does not hear of later changes.
"""

import asyncio
import contextlib
import ipaddress
import itertools
import json
import re
import secrets
import socket
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakSet

from typing_extensions import override

from cmesh.errors import (
    IdentityUnknown,
    KeyExpired,
    NodeClosed,
    NodeError,
    PeerUnreachable,
    UnknownPeer,
)
from cmesh.model import Identity, NodeId
from cmesh.node.ffi import Refused
from cmesh.node.listener import Connection, Listener
from cmesh.node.node import DIAL_LIMIT_S, UP_LIMIT_S, Node, NodeOptions, OnLogin
from cmesh.node.whois import (
    NodeStatus,
    Notification,
    Peer,
    parse_identity,
    parse_notification,
    parse_peers,
    parse_status,
)

__all__ = ["FakeNode", "FakeTailnet"]

SUFFIX = "fake.cmesh.internal"
BACKLOG = 4096
FULL_PAUSE_S = 0.01
FIRST_LOCAL_PORT = 32_768
_V4 = int(ipaddress.IPv4Address("100.64.0.0"))
_V6 = int(ipaddress.IPv6Address("fd7a:115c:a1e0::"))
_UP = 0  # the port that a node holds while it is up


@dataclass(slots=True)
class _Member:
    """A node as the control server knows it; `identity.expired` follows from the expiry."""

    number: int
    identity: Identity
    shared_by: str = ""

    def seen(self, by: "_Member") -> Identity:
        expiry = self.identity.key_expiry
        return replace(
            self.identity,
            shared=bool(self.shared_by or by.shared_by),
            expired=expiry is not None and expiry <= datetime.now(UTC),
        )


class FakeTailnet:
    """Who is on the tailnet; changed with the words of `cmesh.node.testnet.Testnet`."""

    def __init__(self, name: str = "") -> None:
        self.name = name or secrets.token_hex(8)
        self._members: dict[str, _Member] = {}  # by label
        self._by_number: dict[int, _Member] = {}
        self._nodes: WeakSet[FakeNode] = WeakSet()
        self._peers: tuple[_Member | None, str] = (None, "")
        self._names: dict[str, _Member] = {}

    def add(
        self, label: str, user: str, *, tags: Sequence[str] = (), ephemeral: bool = False
    ) -> NodeId:
        """Let a node log in."""
        number = max(self._by_number, default=0) + 1
        addresses = (ipaddress.IPv4Address(_V4 + number), ipaddress.IPv6Address(_V6 + number))
        identity = Identity(
            node_id=NodeId(f"nFAKE{number}"),
            name=f"{label}.{SUFFIX}",
            user="" if tags else user,
            tags=tuple(tags),
            addresses=tuple(map(str, addresses)),
            ephemeral=ephemeral,
        )
        self._keep(label, _Member(number, identity))
        self._tell(peers_changed=[identity.node_id])
        return identity.node_id

    def node(self, label: str, state_dir: Path) -> "FakeNode":
        """Return the node of that label, for its process to start."""
        options = NodeOptions(state_dir=state_dir, hostname=label, allow_testnet=True)
        return FakeNode(options, self)

    def dump(self) -> str:
        """Return what `load` makes a copy of, for another process."""
        members = [
            {"number": m.number, "shared_by": m.shared_by, "identity": _plain(m.identity)}
            for m in self._members.values()
        ]
        return json.dumps({"name": self.name, "members": members})

    @classmethod
    def load(cls, text: str) -> "FakeTailnet":
        """Return a copy; it does not change with the first."""
        raw = json.loads(text)
        made = cls(raw["name"])
        for one in raw["members"]:
            identity = parse_identity(json.dumps(one["identity"]))
            label = identity.name.partition(".")[0]
            made._keep(label, _Member(one["number"], identity, one["shared_by"]))
        return made

    async def set_user(self, node: str, user: str) -> None:
        self._change(node, user=user)

    async def set_tags(self, node: str, tags: Sequence[str]) -> None:
        self._change(node, tags=tuple(tags), user="" if tags else self.member(node).identity.user)

    async def expire(self, node: str, at: datetime | None) -> None:
        self._change(node, key_expiry=at)

    async def set_routes(self, node: str, prefixes: Sequence[str]) -> None:
        self._change(node, router=bool(prefixes))

    async def share(self, node: str, by: str) -> None:
        self.member(node).shared_by = by
        self._change(node)

    async def delete(self, node: str) -> None:
        gone = self._members.pop(node)
        del self._by_number[gone.number]
        self._tell(peers_removed=[gone.identity.node_id])

    def member(self, label: str) -> _Member:
        return self._members[label]

    def by_number(self, number: int) -> _Member | None:
        return self._by_number.get(number)

    def by_name(self, name: str) -> _Member | None:
        """Return the member with this label, name, address or node id."""
        if not self._names:
            for label, member in self._members.items():
                identity = member.identity
                names = (label, identity.name, identity.node_id.lower(), *identity.addresses)
                self._names.update(dict.fromkeys(names, member))
        return self._names.get(name.lower().removesuffix("."))

    def others(self, than: _Member) -> list[_Member]:
        """Return the members but one, by name."""
        members = [member for member in self._members.values() if member is not than]
        return sorted(members, key=lambda member: member.identity.name)

    def peers_text(self, of: _Member) -> str:
        """Return what `cmesh_peers` would say to a node; made anew only after a change."""
        if self._peers[0] is not of:
            more = {"direct": "", "relay": "", "os": "linux", "last_seen": None}
            text = json.dumps(
                [
                    _plain(member.seen(of), whole=False)
                    | {"online": is_up(self.name, member.number)}
                    | more
                    for member in self.others(of)
                ]
            )
            self._peers = (of, text)
        return self._peers[1]

    def joined(self, node: "FakeNode", member: _Member) -> None:
        """Note that a node started in this process."""
        self._nodes.add(node)
        self._tell(peers_changed=[member.identity.node_id])

    def left(self, member: _Member) -> None:
        """Note that a node of this process closed; an ephemeral one is no more."""
        if member.identity.ephemeral and self._members.get(_label(member)) is member:
            del self._members[_label(member)], self._by_number[member.number]
            self._tell(peers_removed=[member.identity.node_id])
        else:
            self._tell(peers_changed=[member.identity.node_id])

    def _keep(self, label: str, member: _Member) -> None:
        self._members[label] = self._by_number[member.number] = member

    def _change(self, node: str, **fields: Any) -> None:
        member = self.member(node)
        member.identity = replace(member.identity, **fields)
        self._tell(peers_changed=[member.identity.node_id])

    def _tell(self, **news: list[NodeId]) -> None:
        self._peers = (None, "")
        self._names = {}
        for node in self._nodes:
            node.tell(news)


class FakeNode(Node):
    """One node, for one event loop. Identities and peers go through the product's parsers.

    Not there: logins, pings, capabilities, relays, and a listener on one address only.
    """

    def __init__(self, options: NodeOptions, tailnet: FakeTailnet) -> None:
        super().__init__(options)
        self._tailnet = tailnet
        self._member = tailnet.member(options.hostname)
        self._beacon: socket.socket | None = None
        self._shut = False
        self._ports = itertools.count(FIRST_LOCAL_PORT)
        self._open: WeakSet[socket.socket] = WeakSet()
        self._listeners: WeakSet[FakeListener] = WeakSet()
        self._dials: set[asyncio.Task[Any]] = set()
        self._watches: set[asyncio.Queue[dict[str, Any] | None]] = set()

    @override
    async def start(self) -> None:
        if self._shut:
            raise NodeClosed("the node is closed")
        if self._beacon is not None:
            return
        self._beacon = _bound(self._tailnet.name, self._member.number, _UP, socket.SOCK_DGRAM)
        self._tailnet.joined(self, self._member)

    @override
    async def up(
        self, *, timeout_s: float = UP_LIMIT_S, on_login: OnLogin | None = None
    ) -> NodeStatus:
        return await self.status()

    @override
    async def close(self) -> None:
        if self._shut:
            return
        self._shut = True
        for listener in self._listeners:
            listener.shut()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for dialling in self._dials:
            dialling.cancel()
        for watch in self._watches:
            watch.put_nowait(None)
        if self._beacon is not None:
            self._beacon.close()
            self._tailnet.left(self._member)

    @override
    async def listen(self, port: int, address: str = "") -> Listener:
        self._require_started()
        _require_port(port)
        assert not address, "the fake listens on all addresses of its node"
        sock = _bound(self._tailnet.name, self._member.number, port, socket.SOCK_STREAM)
        sock.listen(BACKLOG)
        listener = FakeListener(sock, port, self._open)
        self._listeners.add(listener)
        return listener

    @override
    async def dial(self, peer: str, port: int, *, timeout_s: float = DIAL_LIMIT_S) -> socket.socket:
        self._require_started()
        _require_port(port)
        found = self._tailnet.by_name(peer)
        if found is None or found is self._member:
            raise UnknownPeer(f"no peer is called `{peer}`")
        if found.seen(self._member).expired:
            raise KeyExpired(f"the node key of `{peer}` has expired")
        dialling = asyncio.ensure_future(self._connect(found, port))
        self._dials.add(dialling)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait({dialling})
        except TimeoutError as error:
            raise PeerUnreachable(f"`{peer}` does not answer within {timeout_s:g} s") from error
        finally:
            self._dials.discard(dialling)
            dialling.cancel()
        if dialling.cancelled():
            raise NodeClosed("the node is closed")
        return dialling.result()

    @override
    async def whois(self, address: str) -> Identity:
        self._require_started()
        number = _number(address)
        member = None if number is None else self._tailnet.by_number(number)
        if member is None:
            raise IdentityUnknown(f"nobody known has the address `{address}`")
        return parse_identity(json.dumps(_plain(member.seen(self._member))))

    @override
    async def status(self) -> NodeStatus:
        self._require_started()
        own = _plain(self._member.seen(self._member), whole=False)
        more: dict[str, Any] = {
            "state": "Running",
            "login_url": "",
            "health": [],
            "tailnet": "fake",
            "port": 0,
        }
        return parse_status(json.dumps(own | more | {"testnet": True}))

    @override
    async def peers(self) -> tuple[Peer, ...]:
        self._require_started()
        return parse_peers(self._tailnet.peers_text(self._member))

    @override
    async def notifications(self) -> AsyncGenerator[Notification, None]:
        self._require_started()
        news: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._watches.add(news)
        present = [member.identity.node_id for member in self._tailnet.others(self._member)]
        news.put_nowait({"state": "Running", "peers_changed": present})
        try:
            while (one := await news.get()) is not None:
                yield parse_notification(json.dumps(one).encode())
        finally:
            self._watches.discard(news)

    def tell(self, news: dict[str, list[NodeId]]) -> None:
        """Let watches know of changed peers; a node is no peer of its own."""
        own = self._member.identity.node_id
        told = {name: [peer for peer in peers if peer != own] for name, peers in news.items()}
        if any(told.values()):
            for watch in self._watches:
                watch.put_nowait(told)

    async def _connect(self, to: _Member, port: int) -> socket.socket:
        local = next(self._ports)
        sock = _bound(self._tailnet.name, self._member.number, local, socket.SOCK_STREAM)
        try:
            while True:
                try:
                    sock.connect(_path(self._tailnet.name, to.number, port))
                    break
                except BlockingIOError:  # its backlog is full
                    await asyncio.sleep(FULL_PAUSE_S)
                except ConnectionRefusedError as error:
                    if is_up(self._tailnet.name, to.number):
                        raise Refused(f"`{_label(to)}`: connection refused") from error
                    await asyncio.Event().wait()  # nobody answers: the dial's limit ends it
        except BaseException:
            sock.close()
            raise
        self._open.add(sock)
        return sock

    def _require_started(self) -> None:
        if self._shut:
            raise NodeClosed("the node is closed")
        if self._beacon is None:
            raise NodeClosed("the node is not started")


class FakeListener(Listener):
    """A port of a fake node."""

    def __init__(self, sock: socket.socket, port: int, taken: "WeakSet[socket.socket]") -> None:
        super().__init__(sock.detach(), port)
        self._taken = taken
        self._shut = False

    @override
    def accept_nowait(self) -> Connection:
        if self.fileno() < 0:
            raise NodeClosed("the listener is closed")
        with self._borrowed() as listening:
            try:
                sock, remote = listening.accept()
            except BlockingIOError as error:
                if self._shut:
                    raise NodeClosed("the node is closed") from error
                raise
        sock.setblocking(False)
        self._taken.add(sock)
        number, port = map(int, re.findall(rb"\d+", remote)[-2:])
        return Connection(sock, f"{ipaddress.IPv4Address(_V4 + number)}:{port}")

    def shut(self) -> None:
        """End every accept, and what nobody has accepted yet."""
        if self.fileno() < 0:
            return
        self._shut = True
        with self._borrowed() as listening, contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
            while True:
                listening.accept()[0].close()

    @contextlib.contextmanager
    def _borrowed(self) -> Any:
        listening = socket.socket(fileno=self.fileno())
        try:
            yield listening
        finally:
            listening.detach()


def is_up(tailnet: str, number: int) -> bool:
    """Say whether a node runs, in this process or in another."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(_path(tailnet, number, _UP)) == 0


def _path(tailnet: str, number: int, port: int) -> str:
    return f"\0cmesh-fake/{tailnet}/{number}:{port}"


def _bound(tailnet: str, number: int, port: int, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.setblocking(False)
    try:
        sock.bind(_path(tailnet, number, port))
    except OSError as error:
        sock.close()
        raise NodeError(f"port {port} of node {number} is in use") from error
    return sock


def _require_port(port: int) -> None:
    if not 0 < port < 65536:
        raise NodeError(f"`{port}` is no port")


def _number(address: str) -> int | None:
    """Return whose address this is, `ip` or `ip:port`; None = nobody's."""
    host, port = address, "0"
    if address.startswith("["):
        host, _, port = address[1:].rpartition("]:")
    elif address.count(":") == 1:
        host, _, port = address.partition(":")
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(host)
        if port.isdecimal() and int(port) < 65536:
            return int(ip) - (_V4 if ip.version == 4 else _V6)
    return None


def _label(member: _Member) -> str:
    return member.identity.name.partition(".")[0]


def _plain(identity: Identity, *, whole: bool = True) -> dict[str, Any]:
    """Return what the native node says of an identity; `whole` as whois does."""
    plain = asdict(identity)
    plain["key_expiry"] = identity.key_expiry.isoformat() if identity.key_expiry else None
    if not whole:
        del plain["capabilities"], plain["ephemeral"]
    return plain
