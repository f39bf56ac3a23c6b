"""One open link to a peer: the session's state machine driven over a websocket.

Frames go out in the order they were given. What messages mean is the daemon's;
a link that breaks loses nothing, because what is owed is worked out anew.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from cmesh.errors import CmeshError, LinkError, by_code
from cmesh.link.tailnet import REFUSED, Wire
from cmesh.model import Identity
from cmesh.protocol.codec import Chunk
from cmesh.protocol.link_messages import Failure, May, Restarting
from cmesh.protocol.messages import Message
from cmesh.protocol.session import Session
from cmesh.protocol.session_events import Got, GotChunk, Introduced, Opened, SessionEvent
from cmesh.rate import Bucket

__all__ = ["Introduce", "Link", "Receiver", "new_pace"]

HANDSHAKE_LIMIT_S = 10.0
GOODBYE_LIMIT_S = 1.0
QUEUE_LIMIT_FRAMES = 4096
QUEUE_LIMIT_BYTES = 16 * 1024 * 1024
"""What may wait for a peer that reads slowly; beyond it the link is given up."""

WORK_LIMIT = 64
"""Messages whose work is unfinished, beyond which nothing more is read."""

FRAMES_PER_S, FRAMES_BURST = 1_000, 1_000
"""What is read of one peer; a faster one waits, and the others do not."""

TEXT_BYTES_A_FRAME, CHUNK_BYTES_A_FRAME = 8 * 1024, 64 * 1024
"""Frames larger than these count as several: a message is parsed, a chunk only stored."""

_ENDED = "the link has ended"

Introduce = Callable[[Identity, Introduced], Awaitable[tuple[May, Sequence[str]]]]
"""Decides on a proven key: returns what the peer may ask and its unacknowledged results.

Raises a `CmeshError` to refuse; its code and message are told to the peer.
"""


class Receiver(Protocol):
    """Takes what comes over an open link; must return soon."""

    def on_message(self, link: "Link", message: Message) -> None:
        """Take a message."""
        ...

    def on_chunk(self, link: "Link", chunk: Chunk) -> None:
        """Take a piece of a kept output."""
        ...


def new_pace() -> Bucket:
    """Return how fast a peer is read, by the running loop's clock."""
    now = asyncio.get_running_loop().time()
    return Bucket(per_s=FRAMES_PER_S, burst=FRAMES_BURST, now=now)


class Link:
    """One link.

    Attributes:
        identity: who the peer is, from whois (accepted) or the netmap (dialled).
        dialled: this side dialled.
        opened_at: when the handshake was done, by the monotonic clock of who keeps the link.
        refused_by_peer: the peer said in the handshake that it wants no link.
        turned_away: this side ended it over what the peer did, or may not do any more, so what
            it has asked and nobody has begun with is not done.
        frames_in, frames_out, bytes_in, bytes_out: messages and chunks after the handshake;
            characters for messages.
    """

    def __init__(self, wire: Wire, session: Session, identity: Identity) -> None:
        self.identity = identity
        self.dialled = session.side == "dialler"
        self._wire = wire
        self._session = session
        self._queue: asyncio.Queue[tuple[str | bytes, asyncio.Future[None] | None]] = (
            asyncio.Queue()
        )
        self.opened_at = 0.0
        self.refused_by_peer = False
        self.turned_away = False
        self.frames_in = self.frames_out = 0
        self.bytes_in = self.bytes_out = 0
        self._queued_bytes = 0
        self._work: set[asyncio.Future[None]] = set()
        self._closed = False
        self._failure: LinkError | None = None
        self._pause_s = 0.0

    @property
    def opened(self) -> Opened:
        """What the handshake settled; only after `open`."""
        assert self._session.opened is not None
        return self._session.opened

    async def open(self, introduce: Introduce) -> Opened:
        """Do the handshake.

        Raises:
            LinkError: the peer broke it, went away, or was too slow.
            CmeshError: the peer refused (its code), or `introduce` did.
        """
        try:
            async with asyncio.timeout(HANDSHAKE_LIMIT_S):
                return await self._handshake(introduce)
        except TimeoutError as error:
            raise LinkError("the peer did not finish the handshake in time") from error

    async def run(self, receiver: Receiver, pace: Bucket | None = None) -> None:
        """Carry messages until the link ends; `pace` is the peer's, whatever link it comes by.

        Raises:
            LinkError: it did not end by a close of either side, or by `refuse`.
        """
        writer = asyncio.create_task(self._write())
        loop = asyncio.get_running_loop()
        pace = new_pace() if pace is None else pace
        try:
            async for frame in self._wire.frames():
                self.frames_in += 1
                self.bytes_in += len(frame)
                pause_s = pace.spend(_weight(frame), loop.time())
                for event in await self._receive(frame):
                    self._deliver(receiver, event)
                pause_s, self._pause_s = max(pause_s, self._pause_s), 0.0
                if pause_s:
                    await asyncio.sleep(pause_s)
                while len(self._work) >= WORK_LIMIT:
                    await asyncio.wait(self._work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._closed = True
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self._drop_queue()
            if self._failure is not None:
                raise self._failure

    def hold(self, work: asyncio.Future[None]) -> None:
        """Count work that a message has caused: a peer cannot send faster than it is done."""
        self._work.add(work)
        work.add_done_callback(self._work.discard)

    def slow(self, pause_s: float) -> None:
        """Read nothing more for a moment: the peer asks too much."""
        self._pause_s = max(self._pause_s, pause_s)

    async def flushed(self) -> None:
        """Wait until everything posted so far has gone out, or the link has ended."""
        await self._queue.join()

    def abort(self) -> None:
        """End the link without a word; harmless when it has ended."""
        self._closed = True
        self._wire.abort()

    def post(self, message: Message) -> None:
        """Queue a message; silently dropped when the link is ending."""
        if not self._ending:
            self._put(self._session.send(message), None)

    def post_grants(self, may: May, released: Sequence[str] = ()) -> None:
        """Queue what the peer may ask from now on, and tasks of which something was released."""
        if not self._ending:
            self._put(self._session.grants(may, released=released), None)

    async def send(self, frame: Message | bytes) -> None:
        """Send a message or an encoded chunk, and wait until the network has taken it.

        Raises:
            LinkError: the link ended first.
        """
        if self._ending:
            raise LinkError(_ENDED)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(frame if isinstance(frame, bytes) else self._session.send(frame), done)
        await done

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the link; with `REFUSED` the peer is turned away."""
        self.turned_away = self.turned_away or code == REFUSED
        await self._wire.close(code, reason)

    async def goodbye(self, code: int, *, restarting: bool) -> None:
        """End it after what was posted; a peer that does not read is not waited for long."""
        with contextlib.suppress(LinkError, TimeoutError):
            async with asyncio.timeout(GOODBYE_LIMIT_S):
                if restarting:
                    self.post(Restarting())
                await self.flushed()
        await self.close(code)

    async def refuse(self, error: LinkError) -> None:
        """End the link over what the peer did; it is told, and `run` raises `error`."""
        if self._failure is not None:
            return
        self._failure = error
        self.turned_away = True
        with contextlib.suppress(LinkError):
            await self._wire.send(self._session.refuse(error.code, error.message))
        await self._wire.close(REFUSED, error.code)

    @property
    def ended(self) -> bool:
        """Nothing is sent any more."""
        return self._closed

    @property
    def _ending(self) -> bool:
        return self._closed or self._session.closed

    async def _handshake(self, introduce: Introduce) -> Opened:
        for frame in self._session.initial():
            await self._wire.send(frame)
        while True:
            for event in await self._receive(await self._wire.receive(HANDSHAKE_LIMIT_S)):
                if isinstance(event, Opened):
                    return event
                if isinstance(event, Introduced):
                    await self._introduced(event, introduce)
                    if self._session.opened is not None:
                        return self._session.opened
                if isinstance(event, Got) and isinstance(event.message, Failure):
                    self.refused_by_peer = True
                    raise _refused_by_peer(event.message)

    async def _introduced(self, event: Introduced, introduce: Introduce) -> None:
        try:
            may, unacknowledged = await introduce(self.identity, event)
        except CmeshError as error:
            await self._wire.send(self._session.refuse(error.code, error.message))
            await self._wire.close(REFUSED, error.code)
            raise
        answer = self._session.grants if self.dialled else self._session.welcome
        await self._wire.send(answer(may, unacknowledged))

    async def _receive(self, frame: str | bytes) -> list[SessionEvent]:
        try:
            if isinstance(frame, bytes):
                return self._session.receive_binary(frame)
            return self._session.receive_text(frame)
        except LinkError as error:
            self.turned_away = True
            await self._flush()
            await self._wire.close(REFUSED, error.code)
            raise
        finally:
            await self._flush()

    async def _flush(self) -> None:
        for frame in self._session.outgoing():
            await self._wire.send(frame)

    def _deliver(self, receiver: Receiver, event: SessionEvent) -> None:
        if isinstance(event, Got):
            receiver.on_message(self, event.message)
        elif isinstance(event, GotChunk):
            receiver.on_chunk(self, event.chunk)

    async def _write(self) -> None:
        while True:
            frame, done = await self._queue.get()
            self._queued_bytes -= len(frame)
            try:
                await self._wire.send(frame)
            except LinkError as error:
                self._closed = True
                _settle(done, error)
                return
            except BaseException:  # cancelled: nobody else knows of this frame any more
                _settle(done, LinkError(_ENDED))
                raise
            finally:
                self._queue.task_done()
            self.frames_out += 1
            self.bytes_out += len(frame)
            _settle(done, None)

    def _put(self, frame: str | bytes, done: asyncio.Future[None] | None) -> None:
        full = self._queue.qsize() >= QUEUE_LIMIT_FRAMES or self._queued_bytes > QUEUE_LIMIT_BYTES
        if full:
            self._failure = self._failure or LinkError("the peer reads too slowly")
            self.abort()
        if self._closed:
            _settle(done, LinkError(_ENDED))
            return
        self._queued_bytes += len(frame)
        self._queue.put_nowait((frame, done))

    def _drop_queue(self) -> None:
        while not self._queue.empty():
            _, done = self._queue.get_nowait()
            self._queue.task_done()
            _settle(done, LinkError(_ENDED))


def _weight(frame: str | bytes) -> int:
    return 1 + len(frame) // (
        CHUNK_BYTES_A_FRAME if isinstance(frame, bytes) else TEXT_BYTES_A_FRAME
    )


def _settle(done: asyncio.Future[None] | None, error: LinkError | None) -> None:
    if done is None or done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _refused_by_peer(failure: Failure) -> CmeshError:
    """Return a refusal in this node's own words: a peer's sentence would pass for them."""
    known = _REFUSALS.get(failure.code)
    if known is not None:
        return by_code(failure.code)(known)
    return LinkError("the peer refuses links with this node", hint="look at its log and policy")


_REFUSALS = {
    # One sentence for all three: which it is says something of the other side's pins.
    "peer_untrusted": "the other machine does not trust this node's key: a first contact,"
    " another cmesh key than before, or the trust was taken back",
    "key_expired": "the peer says that a node key has expired",
    "identity_unknown": "the peer's whois does not know this node",
    "policy_denied": "the peer's policy allows no link",
    "remote_protocol_error": "the peer says that this node broke the link protocol",
    "version_mismatch": "the peer shares no protocol version with this node",
}
