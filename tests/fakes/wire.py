"""A link's websocket without a network: two ends in memory, in order, until it is broken."""

import asyncio
from collections.abc import AsyncIterator

from cmesh.errors import LinkError

__all__ = ["MemoryWire", "wire_pair"]

END = object()


class MemoryWire:
    """One end; does what `cmesh.link.tailnet.Wire` does.

    Attributes:
        stuck: the other side does not read, so that sending waits.
        closed: code and reason of a close by this end.
    """

    def __init__(self) -> None:
        self.stuck: asyncio.Event | None = None
        self.closed: tuple[int, str] | None = None
        self.sent: list[str | bytes] = []
        self._inbox: asyncio.Queue[object] = asyncio.Queue()
        self._other: MemoryWire | None = None
        self._broken = False

    @property
    def unread(self) -> int:
        """Frames that have come and were not read yet."""
        return self._inbox.qsize()

    def join(self, other: "MemoryWire") -> None:
        self._other, other._other = other, self

    async def send(self, frame: str | bytes) -> None:
        if self.stuck is not None:
            await self.stuck.wait()
        if self._broken or self._other is None:
            raise LinkError("the link broke")
        self.sent.append(frame)
        self._other._inbox.put_nowait(frame)

    async def receive(self, limit_s: float) -> str | bytes:
        async with asyncio.timeout(limit_s):
            frame = await self._inbox.get()
        if not isinstance(frame, str | bytes):
            raise LinkError("the link broke")
        return frame

    async def frames(self) -> AsyncIterator[str | bytes]:
        while isinstance(frame := await self._inbox.get(), str | bytes):
            yield frame
        if self.closed is None and self._other is not None and self._other.closed is None:
            raise LinkError("the link broke")

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed = self.closed or (code, reason)
        self.abort()

    def abort(self) -> None:
        """Break both directions; what was sent before still arrives."""
        for end in (self, self._other):
            if end is not None and not end._broken:
                end._broken = True
                end._inbox.put_nowait(END)

    def lose(self) -> None:
        """Break both directions, and lose what is on its way."""
        for end in (self, self._other):
            while end is not None and not end._inbox.empty():
                end._inbox.get_nowait()
            if end is not None:
                end._broken = True
                end._inbox.put_nowait(END)


def wire_pair() -> tuple[MemoryWire, MemoryWire]:
    a, b = MemoryWire(), MemoryWire()
    a.join(b)
    return a, b
