"""The calls of one control connection: several at once, each answered by a line."""

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping

from pydantic import ValidationError

from cmesh.daemon.answers import View
from cmesh.daemon.arguments import Context
from cmesh.daemon.operations import Operations
from cmesh.errors import CmeshError, DaemonRestarted, DaemonRestarting, QueueFull, UsageError
from cmesh.interfaces.control_lines import SEND_LIMIT_S, json_object, read_line, send_line
from cmesh.interfaces.usage import usage_error
from cmesh.interfaces.wire import ANSWER_BYTES, OPERATIONS, error_body

__all__ = ["CALLS", "Calls"]

CALLS = 64
"""Calls open at once on one connection."""


OWED_BYTES = 2 * ANSWER_BYTES
"""Answers of one connection that wait to be read; beyond it the connection is closed."""


_ENDING = ("down", "hand_over", "setup_confirm")
"""Calls that stop the daemon, or may: they are answered all the same."""


_logger = logging.getLogger(__name__)


class Calls:
    """The calls of one `cli` connection."""

    def __init__(
        self, operations: Operations, context: Context, writer: asyncio.StreamWriter
    ) -> None:
        self._operations = operations
        self._context = context
        self._writer = writer
        self._open: dict[int, asyncio.Task[None]] = {}
        self._closing = False
        self._stopping: set[int] = set()
        self._owed_bytes = 0

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Take requests until the client goes away or breaks the protocol."""
        while True:
            try:
                line = await read_line(reader)
                if not line:
                    return
                request = json_object(line)
            except UsageError as error:
                # After a line that is none, what follows cannot be trusted to be one.
                await self._fail(None, error)
                return
            try:
                self._take(request)
            except CmeshError as error:
                await self._fail(call_number(request.get("id")), error)

    def restart(self) -> None:
        """Answer every open call `daemon_restarted`, except one that is stopping the daemon."""
        self._closing = True
        for number, task in list(self._open.items()):
            if number not in self._stopping:
                task.cancel()

    async def idle(self) -> None:
        """Return when no call is open."""
        if self._open:
            await asyncio.wait(list(self._open.values()))

    async def cancel_all(self) -> None:
        """Cancel every open call; tasks go on."""
        for task in list(self._open.values()):
            task.cancel()
        await self.idle()

    def _take(self, request: Mapping[str, object]) -> None:
        if "cancel" in request:
            # An unknown number is a call that was answered while this was on its way.
            open_call = self._open.get(call_number(request["cancel"]) or 0)
            if open_call is not None:
                open_call.cancel()
            return
        if self._closing:
            raise DaemonRestarting("the daemon is stopping; this call was not begun")
        number = call_number(request.get("id"))
        if number is None or number in self._open:
            raise UsageError("a request needs an unused positive `id`")
        operation = request.get("op")
        if not isinstance(operation, str) or operation not in OPERATIONS:
            raise UsageError("this daemon has no such operation", hint="compare `cmesh version`")
        if len(self._open) >= CALLS:
            raise QueueFull(f"this connection already has {CALLS} open calls")
        if operation in _ENDING:
            self._stopping.add(number)
        task = asyncio.create_task(self._call(number, operation, request.get("arguments", {})))
        self._open[number] = task
        task.add_done_callback(lambda _task: self._open.pop(number, None))

    async def _call(self, number: int, operation: str, raw: object) -> None:
        try:
            arguments = OPERATIONS[operation].model_validate(raw)
            method: Callable[..., Awaitable[View]] = getattr(self._operations, operation)
            view = await method(self._context, arguments)
            text = view.model_dump_json()
            if len(text) > ANSWER_BYTES:
                raise UsageError(
                    f"the answer has {len(text)} bytes, more than a line may have",
                    hint="ask for less at once",
                )
            await self._answer(f'{{"id":{number},"result":{text}}}')
        except asyncio.CancelledError:
            if self._closing:
                await self._fail(number, DaemonRestarted("the daemon stopped during the call"))
        except CmeshError as error:
            await self._fail(number, error)
        except ValidationError as error:
            await self._fail(number, usage_error(error))
        except (ConnectionError, TimeoutError):
            # The client is gone; serve() sees the end of its stream.
            return
        except Exception:
            reference = secrets.token_hex(4)
            data = {"reference": reference, "op": operation}
            _logger.exception("control_call_failed", extra={"data": data})
            await self._fail(
                number,
                CmeshError(
                    f"internal error, reference {reference}",
                    hint=f"search the daemon's log for {reference}",
                ),
            )

    async def _answer(self, text: str) -> None:
        """Send one line; a client that does not read loses its connection, by name.

        Raises:
            ConnectionError: it has lost it.
            TimeoutError: it loses it now.
        """
        size = len(text)
        if self._owed_bytes + size > OWED_BYTES:
            self._give_up(f"{self._owed_bytes} bytes of answers were not read")
            raise ConnectionAbortedError
        self._owed_bytes += size
        try:
            await send_line(self._writer, text)
        except TimeoutError:
            self._give_up(f"nothing was read for {SEND_LIMIT_S:g} s")
            raise
        finally:
            self._owed_bytes -= size

    def _give_up(self, why: str) -> None:
        if not self._writer.is_closing():
            data = {"pid": self._context.pid, "why": why}
            _logger.warning("control_not_reading", extra={"data": data})
        # A close would wait for the client to read what is buffered, as long as it likes.
        self._writer.transport.abort()

    async def _fail(self, number: int | None, error: CmeshError) -> None:
        try:
            await self._answer(json.dumps({"id": number, "error": error_body(error)}))
        except (ConnectionError, TimeoutError):
            _logger.info("control_lost", extra={"data": {"code": error.code}})


def call_number(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 2**53 else None
