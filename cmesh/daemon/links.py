"""Links to peers: accepted, dialled while something is owed, dropped when rights end.

At most one a peer; a newer one replaces an older. Messages go to the caller's or
the worker's side; nothing about tasks is known here.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cmesh import __version__
from cmesh.clock import Clock
from cmesh.daemon.presence import Presence
from cmesh.errors import CmeshError, KeyExpired, PeerUnreachable
from cmesh.keys import SigningKey, verify
from cmesh.link.link import Link
from cmesh.link.tailnet import GOING_AWAY, PORT, REFUSED, RESTART, LinkServer, Wire, dial
from cmesh.model import Identity, NodeId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.handshake import Side as SessionSide
from cmesh.protocol.messages import Failure, Grants, May, Message, Restarting
from cmesh.protocol.session import Introduced, Local, Session

__all__ = ["Contact", "Links", "Side"]

logger = logging.getLogger(__name__)

DIAL_LIMIT_S = 3.0
BACKOFF_FIRST_S = 0.3
BACKOFF_MOST_S = 30.0
BRIEF_MOST = 8
STEADY_S = 5.0
"""A link that lived shorter counts as a failed attempt, so that nobody redials in a loop."""
NONCE_BYTES = 24
CROSSING_S = 3.0
"""Two links of opposite directions within this time were dialled past each other."""

GOODBYE_LIMIT_S = 1.0


class Side(Protocol):
    """What links need of the rest of the daemon."""

    async def greet(self, identity: Identity, introduced: Introduced) -> tuple[May, Sequence[str]]:
        """Decide on a proven key; raises a `CmeshError` to refuse."""
        ...

    def owes(self, peer_id: NodeId) -> bool:
        """Whether a link to a peer would bring something forward."""
        ...

    async def connected(self, link: Link) -> None:
        """A link is open."""
        ...

    def disconnected(self, link: Link) -> None:
        """A link has ended."""
        ...

    def take(self, link: Link, message: Message) -> None:
        """Take a message that is about tasks."""
        ...

    def take_chunk(self, link: Link, chunk: Chunk) -> None:
        """Take a piece of an output."""
        ...


@dataclass(slots=True)
class Contact:
    """What is known of reaching a peer.

    Attributes:
        error: why the last attempt failed; None after a success.
        may: what the peer said this node may ask of it.
        at: when it was last heard.
        brief: links in a row that ended before they were steady.
    """

    error: CmeshError | None = None
    may: May = field(default_factory=May)
    software: str = ""
    at: datetime | None = None
    brief: int = 0


class Links:
    """All links of this node."""

    def __init__(
        self,
        presence: Presence,
        side: Side,
        *,
        key: SigningKey,
        incarnation: str,
        clock: Clock,
    ) -> None:
        self._presence = presence
        self._side = side
        self._key = key
        self._incarnation = incarnation
        self._clock = clock
        self._open: dict[NodeId, Link] = {}
        self._contacts: dict[NodeId, Contact] = {}
        self._dialling: dict[NodeId, asyncio.Task[None]] = {}
        self._nudges: dict[NodeId, asyncio.Event] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._server: LinkServer | None = None
        self._attempts: dict[NodeId, asyncio.Event] = {}
        self._closed = False

    async def start(self) -> None:
        """Accept links; the node is up."""
        listener = await self._presence.node.listen(PORT)
        self._server = LinkServer(listener, self._admit, self._accepted)
        await self._server.start()

    async def close(self, *, restarting: bool = False) -> None:
        """Stop accepting and dialling, and end every link."""
        self._closed = True
        for task in self._dialling.values():
            task.cancel()
        await asyncio.gather(*self._dialling.values(), return_exceptions=True)
        code = RESTART if restarting else GOING_AWAY
        links = list(self._open.values())
        await asyncio.gather(*(_goodbye(link, code, restarting=restarting) for link in links))
        if self._server is not None:
            await self._server.close(code)
        for task in list(self._running):
            await asyncio.wait({task})

    def get(self, peer_id: NodeId) -> Link | None:
        """Return the open link to a peer."""
        return self._open.get(peer_id)

    def all(self) -> tuple[Link, ...]:
        """Return the open links."""
        return tuple(self._open.values())

    def contact(self, peer_id: NodeId) -> Contact:
        """Return what is known of reaching a peer."""
        return self._contacts.setdefault(peer_id, Contact())

    def dialling(self, peer_id: NodeId) -> bool:
        """Whether this node is trying to reach a peer."""
        return peer_id in self._dialling

    def post(self, peer_id: NodeId, message: Message) -> None:
        """Queue a message; dropped without a link, since each connect works out what is owed."""
        link = self._open.get(peer_id)
        if link is not None:
            link.post(message)

    def ensure(self, peer_id: NodeId) -> None:
        """Keep dialling a peer, as `want`, without cutting a pause short."""
        if peer_id not in self._dialling:
            self.want(peer_id)

    def want(self, peer_id: NodeId, *, unasked: bool = False) -> None:
        """Keep dialling a peer while something is owed; at once if it was waiting.

        With `unasked`, dial once although nothing is owed: the peer may wait for it.
        """
        if peer_id in self._open or self._closed:
            return
        if peer_id not in self._dialling:
            self._nudges[peer_id] = asyncio.Event()
            task = asyncio.create_task(self._dial(peer_id, unasked=unasked))
            self._dialling[peer_id] = task
            task.add_done_callback(lambda _: self._dialling.pop(peer_id, None))
        else:
            self._nudges[peer_id].set()

    async def attempt(self, peer_id: NodeId, limit_s: float) -> None:
        """Wait until a link is open or an attempt has failed; at most `limit_s`."""
        tried = self._attempts.setdefault(peer_id, asyncio.Event())
        tried.clear()
        self.contact(peer_id).brief = 0  # somebody asks now
        self.want(peer_id)
        if peer_id in self._open:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await tried.wait()

    async def drop(self, peer_id: NodeId, why: CmeshError) -> None:
        """End the link to a peer that may not have one any more."""
        link = self._open.get(peer_id)
        if link is not None:
            with contextlib.suppress(CmeshError):
                link.post(Failure(code=why.code, reason=why.message[:2_000]))
            await link.close(REFUSED, why.code)

    def on_message(self, link: Link, message: Message) -> None:
        """Take a message of an open link."""
        contact = self.contact(link.identity.node_id)
        contact.at = self._clock.now()
        if isinstance(message, Grants):
            contact.may = message.may
        self._side.take(link, message)

    def on_chunk(self, link: Link, chunk: Chunk) -> None:
        """Take a chunk of an open link."""
        self._side.take_chunk(link, chunk)

    async def _admit(self, remote: str) -> Identity:
        identity = await self._presence.node.whois(remote)
        if identity.expired:
            raise KeyExpired(f"the node key of `{identity.name}` has expired")
        return identity

    async def _accepted(self, wire: Wire, identity: Identity) -> None:
        link = Link(wire, self._session("acceptor", identity), identity)
        if await self._opened(link):
            await self._run(link)

    async def _dial(self, peer_id: NodeId, *, unasked: bool) -> None:
        brief = self.contact(peer_id).brief
        pause = min(BACKOFF_FIRST_S * 2**brief, BACKOFF_MOST_S)
        if brief:
            await self._pause(peer_id, pause)
        while (unasked or self._side.owes(peer_id)) and peer_id not in self._open:
            unasked = False
            try:
                link = await self._dial_once(peer_id)
            except CmeshError as error:
                self._failed(peer_id, error)
            except Exception as error:  # the edge of one attempt: the next one must come
                logger.exception("dial_failed", extra={"data": {"peer": peer_id}})
                self._failed(peer_id, PeerUnreachable(f"`{peer_id}`: {error}"))
            else:
                if await self._opened(link):
                    self._keep(self._run(link))
                    return
            await self._pause(peer_id, pause)
            pause = min(pause * 2, BACKOFF_MOST_S)

    async def _dial_once(self, peer_id: NodeId) -> Link:
        peer = await self._presence.peer(peer_id)
        if not peer.identity.addresses:
            raise PeerUnreachable(f"`{peer.identity.name}` has no tailnet address")
        address = peer.identity.addresses[0]
        # The netmap's entry has no capabilities; whois has all there is to say.
        identity = await self._presence.node.whois(address)
        if identity.expired:
            raise KeyExpired(f"the node key of `{identity.name}` has expired")
        name = identity.name.partition(".")[0]
        wire = await dial(self._presence.node, address, name=name, limit_s=DIAL_LIMIT_S)
        return Link(wire, self._session("dialler", identity), identity)

    async def _pause(self, peer_id: NodeId, seconds: float) -> None:
        nudge = self._nudges[peer_id]
        nudge.clear()
        with contextlib.suppress(TimeoutError):
            # Jitter, so that two nodes that lost each other do not keep colliding.
            async with asyncio.timeout(seconds * random.uniform(0.5, 1.5)):  # noqa: S311
                await nudge.wait()

    async def _opened(self, link: Link) -> bool:
        """Do the handshake; True when the link is open and is the one to this peer."""
        peer_id = link.identity.node_id
        try:
            opened = await link.open(self._side.greet)
        except CmeshError as error:
            self._failed(peer_id, error)
            await link.close(REFUSED, error.code)
            return False
        except BaseException:
            link.abort()
            raise
        replaced = self._open.get(peer_id)
        if self._closed or (replaced is not None and self._stands(replaced, link)):
            await link.close(GOING_AWAY, "crossed")
            return False
        self._open[peer_id] = link
        link.opened_at = self._clock.monotonic()
        contact = self.contact(peer_id)
        contact.error, contact.may, contact.at = None, opened.may, self._clock.now()
        contact.software = opened.software
        if replaced is not None:
            self._side.disconnected(replaced)
            # Not waited for: what is replaced may be dead, and this one has work to do.
            self._keep(replaced.close(GOING_AWAY, "replaced"))
        logger.info("link_up", extra={"data": {"peer": link.identity.name, "id": peer_id}})
        return True

    async def _run(self, link: Link) -> None:
        """Carry an open link to its end."""
        peer_id = link.identity.node_id
        contact, began = self.contact(peer_id), self._clock.monotonic()
        try:
            await self._side.connected(link)
            self._tried(peer_id)
            await link.run(self)
        except CmeshError as error:
            if self._open.get(peer_id) is link:
                contact.error = error
            data = {"peer": peer_id, "code": error.code, "why": error.message}
            logger.warning("link_lost", extra={"data": data})
        except Exception:  # the edge of one link: it must not end the others
            logger.exception("link_failed", extra={"data": {"peer": peer_id}})
        finally:
            link.abort()
            if self._open.get(peer_id) is link:
                steady = self._clock.monotonic() - began >= STEADY_S
                contact.brief = 0 if steady else min(contact.brief + 1, BRIEF_MOST)
                del self._open[peer_id]
                self._side.disconnected(link)
            logger.info("link_down", extra={"data": {"peer": peer_id}})
        if self._side.owes(peer_id) and not self._closed:
            self.want(peer_id)

    def _stands(self, old: Link, new: Link) -> bool:
        """Whether an open link stands against a new one, because both sides dialled at once.

        Both keep the one that the smaller node id has dialled. Would each keep the newer
        one, each would close what the other keeps.
        """
        crossing = self._clock.monotonic() - old.opened_at < CROSSING_S
        mine_counts = self._presence.node_id < old.identity.node_id
        return crossing and old.dialled != new.dialled and old.dialled == mine_counts

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _failed(self, peer_id: NodeId, error: CmeshError) -> None:
        contact = self.contact(peer_id)
        if contact.error is None or contact.error.code != error.code:
            data = {"peer": peer_id, "code": error.code, "why": error.message}
            logger.warning("no_link", extra={"data": data})
        contact.error = error
        self._tried(peer_id)

    def _tried(self, peer_id: NodeId) -> None:
        self._attempts.setdefault(peer_id, asyncio.Event()).set()

    def _session(self, side: SessionSide, identity: Identity) -> Session:
        local = Local(
            node_id=self._presence.node_id,
            incarnation=self._incarnation,
            software=f"cmesh/{__version__}",
            key=self._key.public,
        )
        return Session(
            side,
            local,
            identity.node_id,
            nonce=secrets.token_urlsafe(NONCE_BYTES),
            sign=self._key.sign,
            verify=verify,
        )


async def _goodbye(link: Link, code: int, *, restarting: bool) -> None:
    """End a link; a peer that does not read is not waited for long."""
    with contextlib.suppress(CmeshError, TimeoutError):
        async with asyncio.timeout(GOODBYE_LIMIT_S):
            if restarting:
                await link.send(Restarting())
    await link.close(code)
