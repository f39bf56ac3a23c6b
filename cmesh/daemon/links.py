"""Links to peers: accepted, dialled while something is owed, dropped when rights end.

At most one a peer; a newer one replaces an older. Messages go to the caller's or
the worker's side; nothing about tasks is known here.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable, Coroutine

from cmesh import __version__
from cmesh.clock import Clock
from cmesh.daemon.contacts import BACKOFF_MOST_S, Contact, Contacts
from cmesh.daemon.presence import Presence
from cmesh.daemon.side import Side
from cmesh.daemon.summaries import of_link
from cmesh.errors import CmeshError, KeyExpired, PeerUnreachable
from cmesh.keys import SigningKey, verify
from cmesh.link.link import Link
from cmesh.link.tailnet import GOING_AWAY, PORT, REFUSED, RESTART, LinkServer, Wire, dial
from cmesh.model import Identity, NodeId
from cmesh.node.node import Node
from cmesh.protocol.codec import Chunk
from cmesh.protocol.handshake import Local
from cmesh.protocol.handshake import Side as SessionSide
from cmesh.protocol.link_messages import Failure, Grants, Restarting, Seen
from cmesh.protocol.messages import Message
from cmesh.protocol.session import Session

__all__ = ["Links"]

logger = logging.getLogger(__name__)

DIAL_LIMIT_S = 3.0
BACKOFF_FIRST_S = 0.3
BRIEF_MOST = 8
STEADY_S = 5.0
"""A link that lived shorter counts as a failed attempt, so that nobody redials in a loop."""
NONCE_BYTES = 24
CROSSING_S = 3.0
"""Two links of opposite directions within this time were dialled past each other."""

RESTART_PAUSE_S = 0.3


class Links:
    """All links of this node."""

    def __init__(
        self,
        presence: Presence,
        side: Side,
        *,
        key: SigningKey,
        incarnation: Callable[[], str],
        seen: Callable[[NodeId], Seen | None],
        clock: Clock,
    ) -> None:
        """Make them; `seen` gives the newest audit head of a peer that this node holds."""
        self._presence = presence
        self._side = side
        self._key = key
        self._incarnation = incarnation
        self._seen = seen
        self._clock = clock
        self._open: dict[NodeId, Link] = {}
        self._contacts = Contacts(clock)
        self._dialling: dict[NodeId, asyncio.Task[None]] = {}
        self._nudges: dict[NodeId, asyncio.Event] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._server: LinkServer | None = None
        self._node: Node | None = None
        self._closed = False

    @property
    def started(self) -> bool:
        """Links are accepted, by this node or an earlier one of this daemon."""
        return self._node is not None

    async def start(self) -> None:
        """Accept links, the node is up; again when it is not the node of the last time."""
        node = self._presence.node
        if self._node is node or self._closed:
            return
        self._node = node
        if self._server is not None:
            await self._server.close(GOING_AWAY)
        listener = await node.listen(PORT)
        self._server = LinkServer(listener, self._admit, self._accepted, self._side.pair)
        await self._server.start()

    async def close(self, *, restarting: bool = False) -> None:
        """Stop accepting and dialling, and end every link."""
        self._closed = True
        for task in self._dialling.values():
            task.cancel()
        await asyncio.gather(*self._dialling.values(), return_exceptions=True)
        code = RESTART if restarting else GOING_AWAY
        links = list(self._open.values())
        await asyncio.gather(*(link.goodbye(code, restarting=restarting) for link in links))
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
        return self._contacts.of(peer_id)

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

    async def attempt(self, peer_id: NodeId, limit_s: float, *, unasked: bool = False) -> None:
        """Wait until a link is open or an attempt has failed; at most `limit_s`.

        A peer that may be there all the same is waited for over failed attempts. With `unasked`
        one is made although nothing is owed.
        """
        tried = self._contacts.begin(peer_id)
        self.contact(peer_id).brief = 0  # somebody asks now
        self.want(peer_id, unasked=unasked)
        if peer_id in self._open:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await tried.wait()
                while peer_id not in self._open and await self._may_be_there(peer_id):
                    tried.clear()
                    await tried.wait()

    async def _may_be_there(self, peer_id: NodeId) -> bool:
        """Say whether a peer that did not answer may answer the next attempt.

        One that said it restarts, and one that the tailnet calls online: a handshake that was
        lost is repeated after 5 s only (WireGuard's whitepaper, section 6.1).
        """
        if self._contacts.restarting(peer_id):
            return True
        if not isinstance(self.contact(peer_id).error, PeerUnreachable):
            return False
        with contextlib.suppress(CmeshError):
            return (await self._presence.peer(peer_id)).online
        return False

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
        if isinstance(message, Failure) and not message.about:
            contact.refused = True
        if isinstance(message, Restarting):
            self._contacts.will_restart(link.identity.node_id)
            return
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
        contact = self.contact(peer_id)
        pause = min(BACKOFF_FIRST_S * 2**contact.brief, BACKOFF_MOST_S)
        if contact.brief:
            await self._pause(peer_id, min(pause, contact.pause_most_s))
        while (unasked or self._side.owes(peer_id)) and peer_id not in self._open:
            unasked = False
            try:
                link = await self._dial_once(peer_id)
            except CmeshError as error:
                self._contacts.failed(peer_id, error)
            except Exception as error:  # the edge of one attempt: the next one must come
                logger.exception("dial_failed", extra={"data": {"peer": peer_id}})
                self._contacts.failed(peer_id, PeerUnreachable(f"`{peer_id}`: {error}"))
            else:
                if await self._opened(link):
                    self._keep(self._run(link))
                    return
            if self._contacts.restarting(peer_id):
                await self._pause(peer_id, RESTART_PAUSE_S)
                continue
            await self._pause(peer_id, min(pause, contact.pause_most_s))
            pause = min(pause * 2, BACKOFF_MOST_S)

    async def dial_to_pair(self, peer_id: NodeId) -> tuple[Wire, Identity]:
        """Open a connection that is about a pairing; the caller closes it.

        Raises:
            NodeError: the peer cannot be reached.
            LinkError: it runs no cmesh, or one that cannot pair.
        """
        return await self._reach(peer_id, pairing=True)

    async def _dial_once(self, peer_id: NodeId) -> Link:
        wire, identity = await self._reach(peer_id)
        return Link(wire, self._session("dialler", identity), identity)

    async def _reach(self, peer_id: NodeId, *, pairing: bool = False) -> tuple[Wire, Identity]:
        peer = await self._presence.peer(peer_id)
        if not peer.identity.addresses:
            raise PeerUnreachable(f"`{peer.identity.name}` has no tailnet address")
        address = peer.identity.addresses[0]
        # The netmap's entry has no capabilities; whois has all there is to say.
        identity = await self._presence.node.whois(address)
        if identity.expired:
            raise KeyExpired(f"the node key of `{identity.name}` has expired")
        name = identity.label
        node = self._presence.node
        wire = await dial(node, address, name=name, limit_s=DIAL_LIMIT_S, pairing=pairing)
        return wire, identity

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
            self._contacts.failed(peer_id, error, refused=link.refused_by_peer)
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
        contact.software, contact.restarting_until = opened.software, 0.0
        contact.refused = False
        if replaced is not None:
            self._side.disconnected(replaced)
            # Not waited for: what is replaced may be dead, and this one has work to do.
            self._keep(replaced.close(GOING_AWAY, "replaced"))
        logger.info("link_up", extra={"data": {"peer": link.identity.name, "id": peer_id}})
        return True

    async def _run(self, link: Link) -> None:
        """Carry an open link to its end."""
        peer_id = link.identity.node_id
        contact, began, code = self.contact(peer_id), self._clock.monotonic(), ""
        try:
            await self._side.connected(link)
            self._contacts.tried(peer_id)
            await link.run(self, self._contacts.pace(peer_id))
        except CmeshError as error:
            if self._open.get(peer_id) is link:
                contact.error = error
            code = error.code
            data = {"peer": peer_id, "code": code, "why": error.message}
            logger.warning("link_lost", extra={"data": data})
        except Exception:  # the edge of one link: it must not end the others
            code = "internal"
            logger.exception("link_failed", extra={"data": {"peer": peer_id}})
        finally:
            link.abort()
            lived = self._clock.monotonic() - began
            if self._open.get(peer_id) is link:
                steady = lived >= STEADY_S or self._contacts.restarting(peer_id)
                contact.brief = 0 if steady else min(contact.brief + 1, BRIEF_MOST)
                del self._open[peer_id]
                self._side.disconnected(link)
            logger.info("link_down", extra={"data": of_link(link, lasted_s=lived, code=code)})
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

    def _session(self, side: SessionSide, identity: Identity) -> Session:
        local = Local(
            node_id=self._presence.node_id,
            incarnation=self._incarnation(),
            software=f"cmesh/{__version__}",
            key=self._key.public,
            seen=self._seen(identity.node_id),
        )
        return Session(
            side,
            local,
            identity.node_id,
            nonce=secrets.token_urlsafe(NONCE_BYTES),
            sign=self._key.sign,
            verify=verify,
        )
