"""Queries asked of peers: sent, their files taken in piece by piece, checked, handed on unread.

INVARIANT: nothing here looks into a peer's file. Its size, its hash and whose log it names are
checked; what is in it is for the confined process alone.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cmesh.daemon.arriving import Arriving
from cmesh.daemon.turns import Turns
from cmesh.errors import CmeshError, LinkError, RemoteProtocolError, by_code
from cmesh.keys import verify
from cmesh.link.link import Link
from cmesh.model import TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.link_messages import Failure
from cmesh.protocol.messages import SQL_BYTES, Sql, SqlAnswer, SqlCancel, SqlFile
from cmesh.protocol.receipts import head_bytes
from cmesh.text import one_line

__all__ = ["FleetAsks", "Taken"]

REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A whole file of a peer, at `path`, which is the receiver's to remove; not looked into."""

    path: Path
    file: SqlFile
    truncated: bool


class _Coming(Arriving):
    what = "a peer's answer"


@dataclass(slots=True, kw_only=True)
class _Open:
    link: Link
    message: Sql
    directory: Path
    done: asyncio.Future[Taken]
    answer: SqlAnswer | None = None
    coming: _Coming | None = None


class FleetAsks:
    """The open queries of this node."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._open: dict[str, _Open] = {}

    async def ask(self, link: Link, message: Sql, directory: Path) -> Taken:
        """Ask the peer of a link; waits without limit. Cancelled, the peer is told to end it.

        Args:
            link: open, to a peer that takes `sql`.
            message: the query, under an id that nothing else has.
            directory: where the file is put, under a name that begins with `incoming-`.

        Raises:
            LinkError: the link ended before the answer was here.
            RemoteProtocolError: what came was no answer, or not signed by the peer.
            DiskFull: there is no room for it here.
            CmeshError: the peer's refusal, by its code, or `CmeshError` itself for one not known.
        """
        done: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        entry = _Open(link=link, message=message, directory=directory, done=done)
        self._open[message.query_id] = entry
        taken: Taken | None = None
        try:
            link.post(message)
            if link.ended:
                raise LinkError("the link has ended")
            taken = await done
            return taken
        except asyncio.CancelledError:
            link.post(SqlCancel(query_id=message.query_id))
            raise
        finally:
            del self._open[message.query_id]
            if entry.coming is not None and taken is None:  # also one that came in this moment
                entry.coming.close()

    def take(self, link: Link, message: SqlAnswer) -> None:
        """Take a peer's word on a query; about one of somebody else it says nothing."""
        if self._of(link, message.query_id) is not None:
            work = partial(self._answered, link, message)
            self._turns.add(message.query_id, link, work)

    def take_chunk(self, link: Link, chunk: Chunk) -> bool:
        """Take a piece of a file; False when it is none of an open query."""
        if self._of(link, chunk.task_id) is None:
            return False
        self._turns.add(chunk.task_id, link, partial(self._came, link, chunk))
        return True

    def failed(self, link: Link, message: Failure) -> bool:
        """Take a refusal of the message itself; False when it is about something else."""
        entry = self._of(link, message.about)
        if entry is None:
            return False
        _fail(entry, _refused(message.code, message.reason, ""))
        return True

    def disconnected(self, link: Link) -> None:
        """A link ended: what was asked over it is not answered any more."""
        for entry in self._open.values():
            if entry.link is link:
                _fail(entry, LinkError("the link ended before the answer was here"))

    def _of(self, link: Link, query_id: str) -> _Open | None:
        entry = self._open.get(query_id)
        return entry if entry is not None and entry.link is link and not entry.done.done() else None

    async def _answered(self, link: Link, message: SqlAnswer) -> None:
        entry = self._of(link, message.query_id)
        if entry is None:
            return
        if message.code or message.file is None:
            code = message.code or "remote_protocol_error"
            _fail(entry, _refused(code, message.reason, message.change))
            return
        try:
            _check(link, entry, message.file)
            entry.coming = _Coming(
                TaskId(message.query_id),
                message.file.sha256,
                message.file.bytes,
                entry.message.bytes or SQL_BYTES,
                entry.directory,
            )
        except CmeshError as error:
            _fail(entry, error)
            raise
        entry.answer = message

    async def _came(self, link: Link, chunk: Chunk) -> None:
        entry = self._of(link, chunk.task_id)
        if entry is None:
            return
        try:
            if entry.coming is None or entry.answer is None or entry.answer.file is None:
                raise RemoteProtocolError("the peer sent bytes of an answer before the answer")
            if entry.coming.add(chunk):
                taken = Taken(
                    path=entry.coming.close_whole(),
                    file=entry.answer.file,
                    truncated=entry.answer.truncated,
                )
                entry.done.set_result(taken)
        except CmeshError as error:
            _fail(entry, error)
            raise


def _check(link: Link, entry: _Open, file: SqlFile) -> None:
    if entry.answer is not None:
        raise RemoteProtocolError("the peer answered a query twice")
    if file.rows > entry.message.limit:
        raise RemoteProtocolError("the peer answered with more rows than were asked for")
    signed = head_bytes(link.identity.node_id, file.head_seq, file.head_hash)
    if not verify(link.opened.key, signed, file.signature):
        raise RemoteProtocolError("the head of the peer's log is not signed by it")


def _fail(entry: _Open, error: CmeshError) -> None:
    if not entry.done.done():
        entry.done.set_exception(error)


def _refused(code: str, reason: str, change: str) -> CmeshError:
    """Return a peer's refusal as an error of that code; its words are capped and scrubbed."""
    known = by_code(code)
    said = one_line(reason, REASON_CHARACTERS) or "the peer did not say why"
    return known(said, hint=one_line(change, REASON_CHARACTERS))
