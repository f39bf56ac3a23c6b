"""What is written down of one connection of a task, and what a refused one is told.

The owner's audit has all of a refusal, the task one sentence of it.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from cmesh.errors import CmeshError
from cmesh.text import one_line

__all__ = ["BAD_GATEWAY", "UNAVAILABLE", "Record", "Refused", "Trail"]

logger = logging.getLogger(__name__)

CONNECTION, CONNECTION_ENDED = "connection", "connection_ended"
"""Kinds of audit rows: what was decided, before a byte went out; how much it was, at the end."""

UNAVAILABLE = "503 Service Unavailable"
BAD_GATEWAY = "502 Bad Gateway"

Record = Callable[[str, Mapping[str, object]], Awaitable[None]]
"""Makes one audit row of a kind durable; raises CmeshError when it cannot."""


class Refused(Exception):
    """Raised when a connection is not to be; says why to the task, and more to the owner.

    Attributes:
        code: a word for the audit.
        reason: for the task: lower case, nothing that it may not know.
        detail: for the owner only.
        status: of the HTTP answer.
    """

    def __init__(
        self, code: str, reason: str, *, detail: str = "", status: str = "403 Forbidden"
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.detail = detail
        self.status = status

    def answer(self) -> bytes:
        """Return an HTTP answer (RFC 9112) that says why."""
        body = f"cmesh: {self.reason}\n".encode()
        challenge = 'Proxy-Authenticate: Basic realm="cmesh"\r\n' if "407" in self.status else ""
        head = (
            f"HTTP/1.1 {self.status}\r\n{challenge}Content-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True, kw_only=True)
class Trail:
    """What is known of a connection so far; writes its audit rows.

    Attributes:
        record: makes a row durable.
        address: the one tried last, or that forbids the name.
        bytes_out: from the task; `bytes_in` to it.
        status: of the model's answer to a request; None = there is no such thing.
        end: why the bytes ended.
    """

    record: Record
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    host: str = ""
    port: int = 0
    address: str = ""
    bytes_out: int = 0
    bytes_in: int = 0
    status: int | None = None
    end: str = "closed"

    async def allowed(self, code: str) -> None:
        """Record the yes.

        Raises:
            Refused: it cannot be recorded, so it is a no.
        """
        try:
            await self.record(CONNECTION, self._row("allowed", code))
        except CmeshError as error:
            why = "the connection cannot be recorded"
            detail = error.code
            raise Refused("not_recorded", why, detail=detail, status=UNAVAILABLE) from None

    async def refused(self, why: Refused) -> None:
        """Record a no in full."""
        row = self._row("refused", why.code, why.reason, why.detail)
        await self._record_quietly(CONNECTION, row)

    async def ended(self, seconds: float) -> None:
        """Record how much it was."""
        row: dict[str, object] = {
            "connection": self.id,
            "bytes_out": self.bytes_out,
            "bytes_in": self.bytes_in,
            "seconds": round(seconds, 3),
            "end": self.end,
        }
        if self.status is not None:
            row["status"] = self.status
        await self._record_quietly(CONNECTION_ENDED, row)

    def _row(
        self, verdict: str, code: str, reason: str = "", detail: str = ""
    ) -> dict[str, object]:
        return {
            "connection": self.id,
            "host": self.host,
            "address": self.address,
            "port": self.port,
            "verdict": verdict,
            "code": code,
            "reason": reason,
            "detail": one_line(detail),
        }

    async def _record_quietly(self, kind: str, row: Mapping[str, object]) -> None:
        """Record what cannot be undone; a store that refuses is named in the log."""
        try:
            await self.record(kind, row)
        except CmeshError as error:
            logger.warning("connection_unrecorded", extra={"data": {"code": error.code}})
