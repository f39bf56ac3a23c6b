"""The daemon's node on the tailnet: coming up, logging in, staying current.

Owns the `Node`; tells the others when peers change. Who may do what is not
decided here.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from cmesh.config import NodeConfig
from cmesh.daemon.control_log import ControlLog
from cmesh.daemon.netmap import Netmap
from cmesh.errors import (
    CmeshError,
    ControlUnreachable,
    KeyExpired,
    LoginRequired,
    NodeClosed,
    UnknownPeer,
)
from cmesh.model import Identity, NodeId
from cmesh.node.node import Node, NodeOptions
from cmesh.node.whois import NodeStatus, Peer
from cmesh.paths import require_private_file

__all__ = ["Phase", "Presence"]

logger = logging.getLogger(__name__)

Phase = Literal["setup", "starting", "login", "up", "down", "failed"]

NODE_LOG = "node.log"
LOGIN_URL_LIMIT_S = 15.0
KEY_LIMIT_S = 3.0
"""How long a login by an auth key may take before a page is asked for instead."""

UP_AGAIN_AFTER_S = 5.0
RISING_LIMIT_S = 15.0
"""How long a call that needs the node waits for it, since a daemon answers before its node is up.

With the contact of a worker, and the time a relay may have held the call, less than a call may
take.
"""

TROUBLE_LOOK_S = 1.0
"""How often a wait for the node looks whether the control server keeps it out."""

UP_PATIENCE_S = 24 * 3600.0  # a login URL waits for a person

OnPeers = Callable[[Sequence[NodeId]], None]
"""Told the node ids whose properties changed or that left."""


@dataclass(slots=True)
class _Seen:
    phase: Phase = "starting"
    login_url: str = ""
    error: CmeshError | None = None
    status: NodeStatus | None = None
    key_expiry: datetime | None = None


class Presence:
    """The node's life inside the daemon.

    Attributes:
        node: the node; calls before `up` raise `NodeClosed`.
        begun: `start` was called.
        changed: set again at each change of phase, for waiters.
    """

    def __init__(
        self,
        config: NodeConfig,
        state_dir: Path,
        *,
        on_peers: OnPeers,
        on_up: Callable[[], None],
        on_phase: Callable[[], None] = lambda: None,
    ) -> None:
        """Make it; `on_up` is told each time the node has come up, `on_phase` of each phase."""
        self.node = Node(_options(config, state_dir))
        self.begun = False
        self.changed = asyncio.Event()
        self._state_dir = state_dir
        self._control = ControlLog(state_dir / NODE_LOG, config.control_url)
        self._key_file = config.auth_key_file
        self._seen = _Seen()
        self._on_peers = on_peers
        self._on_up = on_up
        self._on_phase = on_phase
        self._tasks: list[asyncio.Task[None]] = []
        self._up = asyncio.Event()
        self._reopening = asyncio.Lock()
        self._netmap = Netmap(self._peers)

    @property
    def phase(self) -> Phase:
        """Where the node is on its way; `login` waits for a person at `login_url`."""
        return self._seen.phase

    @property
    def login_url(self) -> str:
        """Where a person logs this node in; empty when no login is pending."""
        return self._seen.login_url

    @property
    def error(self) -> CmeshError | None:
        """Why the node is not up, when that is known."""
        return self._seen.error

    @property
    def trouble(self) -> str:
        """Why the node is not up, in words for its owner, as far as that is known."""
        if self.phase == "login":
            return self._no_key()
        error = self._control_trouble() or self.error
        return error.message if error is not None and self.phase != "up" else ""

    @property
    def status(self) -> NodeStatus | None:
        """The node's own state as last seen; None before it was up."""
        return self._seen.status

    @property
    def node_id(self) -> NodeId:
        """This node's stable id; empty before it was up."""
        return self._seen.status.node_id if self._seen.status else NodeId("")

    async def start(self, config: NodeConfig) -> None:
        """Start the node as configured now; coming up goes on in the background.

        Raises:
            NodeError: the state directory is in use, or the node cannot start.
        """
        self.begun = True
        self._control = ControlLog(self._state_dir / NODE_LOG, config.control_url)
        self._key_file = config.auth_key_file
        self.node = Node(_options(config, self._state_dir))
        await self.node.start()
        self._begin()

    async def close(self) -> None:
        """Leave the tailnet."""
        self._set("down")
        await self._leave()

    async def wait_up(self) -> None:
        """Wait until the node has been up once; no limit of its own."""
        await self._up.wait()

    async def rising(self, limit_s: float = RISING_LIMIT_S) -> None:
        """Wait while a started node is on its way up; at most `limit_s`.

        Returns at once when waiting cannot help: it is up, waits for a person, or is known to
        be kept out. What became of it is `require_up`'s to say.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._rises():
                    self.changed.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(TROUBLE_LOOK_S):
                            await self.changed.wait()

    async def login(self) -> None:
        """Begin a login and wait until its URL is known, or the node is up.

        Raises:
            ControlUnreachable: the control server does not answer.
            LoginRequired: it gave no URL in time.
        """
        if self._current():
            return
        if not self.login_url:
            await self.node.login()
        # A node that has an auth key offers it again and gets no page, though it may be used up.
        # Before the node was ever up the key is good, and kept, unless the tailnet has refused it.
        refused = isinstance(self.error, LoginRequired)
        used = bool(self.node.options.auth_key) and (refused or self._up.is_set())
        if used and not await self._answered(KEY_LIMIT_S):
            await self._reopen()
        if not await self._answered(LOGIN_URL_LIMIT_S):
            raise self._control_trouble() or LoginRequired(
                f"`{self._control.server}` gave no login URL within {LOGIN_URL_LIMIT_S:g} s",
                hint=f"the node's log says more: {self._control.log}",
            )

    async def _answered(self, limit_s: float) -> bool:
        """Wait until there is a login URL or the node is up; False when neither came in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not self.login_url and not self._current():
                    self.changed.clear()
                    await self.changed.wait()
                return True
        return False

    async def _reopen(self) -> None:
        """Open the node again without its auth key; its links end, and resume once it is up."""
        async with self._reopening:
            if not self.node.options.auth_key or self._current():
                return
            logger.info("node_reopened")
            await self._leave()
            self.node = Node(replace(self.node.options, auth_key=""))
            await self.node.start()
            self._begin()

    async def refresh(self) -> None:
        """Ask the node for its own state: a key expires without a notice."""
        if self._up.is_set() and self.phase != "down":
            self._seen.status = await self.node.status()

    async def peer(self, name: str) -> Peer:
        """Find a peer by host label, MagicDNS name, address or node id.

        Raises:
            UnknownPeer: nobody has that name, or several have; the hint has names.
            KeyExpired: this node's own key has expired.
            LoginRequired, NodeClosed: the node is not up.
        """
        self.require_up()
        return await self._netmap.peer(name, self.status)

    async def identify(self, peer_id: NodeId) -> Identity:
        """Ask whois who a node id is now.

        Raises:
            UnknownPeer, IdentityUnknown: nobody known.
            NodeError: this node is not up, so it cannot tell.
        """
        self.require_up()
        for peer in await self._netmap.named(peer_id):
            if peer.identity.node_id == peer_id and peer.identity.addresses:
                identity = await self.node.whois(peer.identity.addresses[0])
                if identity.node_id == peer_id:  # else its address is another node's by now
                    return identity
        raise UnknownPeer(f"node `{peer_id}` is not on the tailnet any more")

    def require_up(self) -> None:
        """Raise what keeps the node from its work, if anything does."""
        if self.phase == "up":
            if self.status is not None and self.status.expired:
                raise KeyExpired("this node's key has expired", hint="run `cmesh login`")
            return
        if self.phase == "login":
            raise LoginRequired(f"this node must be logged in: open `{self.login_url}`")
        if self.error is not None:
            raise self.error
        if not self.begun:
            raise NodeClosed(
                "this machine is not configured, so no node runs", hint="run `cmesh up`"
            )
        raise self._control_trouble() or NodeClosed(
            f"the node is not on the tailnet yet ({self.phase})",
            hint="wait a moment, then `cmesh status`",
        )

    def _no_key(self) -> str:
        """Say that the file that should log this node in is not there; empty = it is, or none is set."""
        file = self._key_file
        if file is None or file.exists():
            return ""
        return f"the auth key file `{file}` is not there"

    def _refused(self, error: LoginRequired) -> LoginRequired:
        """Return why the tailnet did not take the node, with the next step where it had a key."""
        if not self.node.options.auth_key:
            return error
        return LoginRequired(
            error.message,
            hint=f"put a new key into `{self._key_file}`, then `cmesh down` and `cmesh up`;"
            " or log in by a page: `cmesh login`",
        )

    def _rises(self) -> bool:
        """The node was started and nothing is known that would keep it from coming up."""
        starting = self.begun and self.phase == "starting" and self.error is None
        return starting and self._control_trouble() is None

    async def _peers(self) -> tuple[Peer, ...]:
        return await self.node.peers()

    def _control_trouble(self) -> ControlUnreachable | None:
        """Return why the control server keeps the node waiting."""
        waits = self.begun and self.phase in ("starting", "failed")
        return self._control.trouble() if waits else None

    def _begin(self) -> None:
        self._tasks = [asyncio.create_task(self._rise()), asyncio.create_task(self._watch())]

    async def _leave(self) -> None:
        self._netmap.changed()
        for task in self._tasks:
            task.cancel()
        await self.node.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _rise(self) -> None:
        while True:
            try:
                status = await self.node.up(timeout_s=UP_PATIENCE_S, on_login=self._on_login)
            except NodeClosed:
                return
            except LoginRequired as error:
                self._seen.error = self._refused(error)
                self._set("login" if self.login_url else "failed")
            except CmeshError as error:
                self._seen.error = error
                self._set("failed")
                logger.warning("node_not_up", extra={"data": {"why": error.message}})
            else:
                self._now_up(status)
                return
            await asyncio.sleep(UP_AGAIN_AFTER_S)

    async def _on_login(self, url: str) -> None:
        self._seen.login_url = url
        self._set("login")
        logger.info("login_needed")

    async def _watch(self) -> None:
        while self.phase != "down":
            try:
                await self._watch_once()
            except NodeClosed:
                return
            except CmeshError as error:
                logger.warning("watch_failed", extra={"data": {"why": error.message}})
            except Exception:  # who left must be noticed as long as the node runs
                logger.exception("watch_failed")
            await asyncio.sleep(UP_AGAIN_AFTER_S)

    async def _watch_once(self) -> None:
        async with contextlib.aclosing(self.node.notifications()) as news:
            async for one in news:
                self._netmap.changed()
                await self._look_again(one.state, one.login_url)
                changed = (*one.peers_changed, *one.peers_removed)
                if changed:
                    self._on_peers(changed)

    async def _look_again(self, state: str | None, login_url: str | None) -> None:
        if login_url:
            await self._on_login(login_url)
        if not self._up.is_set():
            return
        self._seen.status = await self.node.status()
        if state == "Running":
            self._now_up(self._seen.status)
        elif state == "NeedsLogin":
            self._seen.error = KeyExpired("this node's key has expired", hint="run `cmesh login`")
            self._set("login" if self.login_url else "failed")

    def _now_up(self, status: NodeStatus) -> None:
        again = self.phase == "up"
        self._seen = _Seen(phase="up", status=status)
        self._up.set()
        self._set("up")
        if again:
            return
        self._on_up()
        logger.info("node_up", extra={"data": {"node": status.name, "id": status.node_id}})

    def _current(self) -> bool:
        """The node is up, and its key holds."""
        return self.phase == "up" and not (self.status is not None and self.status.expired)

    def _set(self, phase: Phase) -> None:
        self._seen.phase = phase
        self.changed.set()
        self._on_phase()


def _options(config: NodeConfig, state_dir: Path) -> NodeOptions:
    key = ""
    if config.auth_key_file is not None and config.auth_key_file.exists():
        require_private_file(config.auth_key_file, secret=True)
        key = config.auth_key_file.read_text("utf-8").strip()
    return NodeOptions(
        state_dir=state_dir / "node",
        hostname=config.hostname,
        control_url=config.control_url,
        auth_key=key,
        tags=config.tags,
        log_file=state_dir / NODE_LOG,
        allow_testnet=config.allow_testnet,
    )
