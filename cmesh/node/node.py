"""A tailnet node inside this process, for asyncio.

The node is not the machine's Tailscale: it has its own key, name and network
stack, and no socket of the host carries its connections. It decides nothing
about who may do what.
"""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cmesh.errors import LoginRequired, NodeClosed, NodeError
from cmesh.model import Identity
from cmesh.node import ffi
from cmesh.node.listener import Listener
from cmesh.node.port import last_port, remember_port
from cmesh.node.statelock import StateLock
from cmesh.node.threads import Threads, outcome, retrieve
from cmesh.node.whois import (
    NodeStatus,
    Notification,
    Peer,
    Ping,
    parse_identity,
    parse_notification,
    parse_peers,
    parse_ping,
    parse_status,
)
from cmesh.paths import ensure_private_dir

__all__ = ["Node", "NodeOptions", "OnLogin"]


OnLogin = Callable[[str], Awaitable[None]]
"""Shown each login URL that arrives while a node comes up."""

UP_LIMIT_S = 60.0
DIAL_LIMIT_S = 10.0
PING_LIMIT_S = 5.0
_REFUSED = "tsnet.Up: backend: "  # how tsnet reports what the control server said
_LINE_LIMIT_BYTES = 8 * 1024 * 1024  # a notification names every peer at most


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """How to make a node.

    Attributes:
        state_dir: holds the node's keys; made with mode 0700; one node each.
        hostname: the name asked for on the tailnet.
        control_url: coordination server; empty = Tailscale's.
        auth_key: joins without a person; only used when there is no login yet.
        ephemeral: the tailnet forgets the node when its process ends.
        tags: ACL tags asked for, for example `tag:worker`.
        log_file: the node's own verbose log, appended; None = discarded.
        allow_testnet: accept a cmesh test tailnet (demo and tests only).
    """

    state_dir: Path
    hostname: str
    control_url: str = ""
    auth_key: str = field(default="", repr=False)
    ephemeral: bool = False
    tags: tuple[str, ...] = ()
    log_file: Path | None = None
    allow_testnet: bool = False


class Node:
    """One tailnet node; an async context manager that starts and closes it.

    Methods raise `NodeClosed` before the start, after the close and in a forked child.
    """

    def __init__(self, options: NodeOptions) -> None:
        self.options = options
        self._handle: ffi.Handle | None = None
        self._lock = StateLock(options.state_dir)
        self._life = threading.Lock()  # a close waits for the start it crosses, and undoes it
        self._ended = False
        self._threads = Threads()
        self._starting = asyncio.Lock()
        self._up: asyncio.Future[None] | None = None
        self._told = ""  # the login URL somebody has been told of
        self._closing: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Lock the state directory and start the node, without waiting for the tailnet.

        Raises:
            NodeError: the directory is in use, or the node cannot start.
            UnsafePermissions: the directory is open to other users.
        """
        async with self._starting:
            await self._threads.run(self._threads.short, self._start)

    async def up(
        self, *, timeout_s: float = UP_LIMIT_S, on_login: OnLogin | None = None
    ) -> NodeStatus:
        """Wait until the node runs on the tailnet.

        With `on_login`, each login URL is shown and the wait goes on; without it, a
        needed login raises, and a later `up` waits for its completion.

        Raises:
            LoginRequired: a person must log the node in, or the login was refused.
            NodeError: not running within `timeout_s`, or a test tailnet that is not allowed.
            NodeClosed: the node was closed meanwhile.
        """
        handle = self._require()
        if self._up is None or self._up.done():
            self._up = asyncio.wrap_future(self._threads.submit(self._threads.waiting, handle.up))
            self._up.add_done_callback(retrieve)
        url = ""
        try:
            async with asyncio.timeout(timeout_s):
                url = await self._await_up(self._up, on_login)
        except TimeoutError as error:
            raise await self._why_not_up(timeout_s) from error
        if url:
            raise LoginRequired(f"this node must be logged in: open `{url}`")
        return await self._admitted()

    async def close(self) -> None:
        """End the node: a pending `up`, its connections and its listeners; idempotent."""
        if self._closing is None:
            self._threads.closing = True
            loop = asyncio.get_running_loop()
            self._closing = loop.run_in_executor(None, self._close)
        await asyncio.shield(self._closing)

    async def listen(self, port: int, address: str = "") -> Listener:
        """Listen on a TCP port of the node's tailnet addresses, or of one of them."""
        _require_port(port)
        host = f"[{address}]" if ":" in address else address
        handle = self._require()
        listening = self._threads.submit(
            self._threads.short, lambda: handle.listen(f"{host}:{port}")
        )
        return Listener(await outcome(listening, os.close), port)

    async def dial(self, peer: str, port: int, *, timeout_s: float = DIAL_LIMIT_S) -> socket.socket:
        """Connect to a known peer, named by address, MagicDNS name, host label or node id.

        Never reaches anything but a peer of the netmap. The caller owns the socket
        (non-blocking, for `asyncio.open_connection(sock=...)`). Cancelling ends the dial.

        Raises:
            UnknownPeer: the netmap has no such peer.
            KeyExpired: the peer's node key has expired.
            PeerUnreachable: no answer within `timeout_s`, or nobody on that port.
        """
        _require_port(port)
        handle = self._require()
        return await self._threads.cancellable(
            lambda op: handle.dial(peer, port, timeout_s, op), socket.socket.close
        )

    async def ping(self, peer: str, *, timeout_s: float = PING_LIMIT_S) -> Ping:
        """Measure a round trip to a peer, and whether it went direct or through a relay.

        Raises:
            UnknownPeer: the netmap has no such peer.
            PeerUnreachable: no answer within `timeout_s`.
        """
        handle = self._require()
        text = await self._threads.cancellable(lambda op: handle.ping(peer, timeout_s, op), len)
        return parse_ping(text)

    async def whois(self, address: str) -> Identity:
        """Ask who has a tailnet address, `ip` or `ip:port`.

        Answers for nodes whose key has expired too: see `Identity.expired`.

        Raises:
            IdentityUnknown: nobody known has it, or the answer cannot be trusted.
        """
        return parse_identity(
            await self._threads.run(self._threads.short, self._require().whois, address)
        )

    async def status(self) -> NodeStatus:
        """Return the node's own state."""
        return parse_status(await self._threads.run(self._threads.short, self._require().status))

    async def peers(self) -> tuple[Peer, ...]:
        """Return the nodes of the netmap, by name, without this one."""
        return parse_peers(await self._threads.run(self._threads.short, self._require().peers))

    async def login(self) -> None:
        """Begin an interactive login; its URL arrives as a notification and in `status`.

        A node started with an auth key offers that key again instead of a URL: to log
        it in by URL, close it and open it without the key.
        """
        await self._threads.run(self._threads.waiting, self._require().login)

    async def logout(self) -> None:
        """End this node's key at the control server; the state directory stays."""
        await self._threads.run(self._threads.waiting, self._require().logout)

    async def notifications(self) -> AsyncGenerator[Notification, None]:
        """Yield changes from now on, the present state first, until the node closes.

        A slow reader gets changes merged, never dropped.
        """
        watching = self._threads.submit(self._threads.short, self._require().watch)
        sock = await outcome(watching, socket.socket.close)
        reader, writer = await asyncio.open_connection(sock=sock, limit=_LINE_LIMIT_BYTES)
        try:
            while line := await reader.readline():
                yield parse_notification(line)
        finally:
            writer.close()

    def _start(self) -> None:
        with self._life:
            if self._ended:
                raise NodeClosed("the node is closed")
            if self._handle is not None:
                return
            ensure_private_dir(self.options.state_dir)
            self._lock.acquire()
            try:
                handle = ffi.Handle()
                try:
                    self._configure(handle)
                    handle.start()
                except BaseException:
                    handle.close()
                    raise
            except BaseException:
                self._lock.release()
                raise
            self._handle = handle
            remember_port(self.options.state_dir, parse_status(handle.status()).port)

    def _configure(self, handle: ffi.Handle) -> None:
        options = self.options
        handle.configure("tailscale_set_dir", str(options.state_dir))
        handle.configure("tailscale_set_hostname", options.hostname)
        handle.configure("tailscale_set_control_url", options.control_url)
        handle.configure("tailscale_set_authkey", options.auth_key)
        handle.configure("tailscale_set_ephemeral", int(options.ephemeral))
        handle.configure("cmesh_set_tags", ",".join(options.tags))
        handle.configure("cmesh_set_port", last_port(options.state_dir))
        if options.log_file is not None:
            with options.log_file.open("ab") as log:  # the native side duplicates it
                handle.configure("tailscale_set_logfd", log.fileno())

    def _close(self) -> None:
        with self._life:
            self._ended = True
            try:
                if self._handle is not None:
                    with contextlib.suppress(NodeClosed):
                        self._handle.close()
            finally:
                self._lock.release()
        self._threads.shutdown()

    def _require(self) -> ffi.Handle:
        if self._closing is not None:
            raise NodeClosed("the node is closed")
        if self._handle is None:
            raise NodeClosed("the node is not started")
        return self._handle

    async def _await_up(self, up: asyncio.Future[None], on_login: OnLogin | None) -> str:
        """Return "" when the node runs, or the URL of a login nobody is told of."""
        news = asyncio.ensure_future(self._login_url(on_login))
        news.add_done_callback(retrieve)
        try:
            await asyncio.wait({up, news}, return_when=asyncio.FIRST_COMPLETED)
            if not up.done():
                return await news
            return _finish_up(up)
        finally:
            news.cancel()
            await asyncio.wait({news})

    async def _login_url(self, on_login: OnLogin | None) -> str:
        async with contextlib.aclosing(self.notifications()) as notifications:
            async for notification in notifications:
                url = notification.login_url
                if not url or url == self._told:
                    continue
                self._told = url
                if on_login is None:
                    return url
                await on_login(url)
        raise NodeClosed("the node was closed")

    async def _why_not_up(self, timeout_s: float) -> NodeError:
        status = await self.status()
        if status.login_url:
            return LoginRequired(f"this node must be logged in: open `{status.login_url}`")
        where = self.options.control_url or "Tailscale's control server"
        return NodeError(
            f"the node is not up after {timeout_s:g} s (state {status.state}, control `{where}`)",
            hint="check the network and the control URL, then retry",
        )

    async def _admitted(self) -> NodeStatus:
        status = await self.status()
        if status.testnet and not self.options.allow_testnet:
            await self.close()
            raise NodeError(
                f"`{self.options.control_url}` is a cmesh test tailnet; it protects nothing",
                hint="use Tailscale, or your own control server; `cmesh demo` uses its own",
            )
        return status


def _require_port(port: int) -> None:
    if not 0 < port < 65536:
        raise NodeError(f"`{port}` is no port")


def _finish_up(up: asyncio.Future[None]) -> str:
    try:
        up.result()
    except NodeClosed:
        raise
    except NodeError as error:
        refused = error.message.partition(_REFUSED)[2]
        if refused:
            raise LoginRequired(f"the tailnet refused the login: {refused}") from error
        raise
    return ""
