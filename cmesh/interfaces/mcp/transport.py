"""JSON lines on a pair of asyncio streams as the SDK's message streams, with limits.

INVARIANT: nothing a client sends, and no way it can die, leaves this module
as an exception; one killed agent must not end the daemon.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import mcp_types as types
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.shared._context_streams import (
    ContextReceiveStream,
    ContextSendStream,
    create_context_streams,
)
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from cmesh.interfaces.mcp.relay_wire import LINE_BYTES

__all__ = ["serve_streams"]

READ_BYTES = 64 * 1024
SEND_LIMIT_S = 30.0

_logger = logging.getLogger(__name__)
_Inbound = SessionMessage | Exception


async def serve_streams(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: Server[Any]
) -> None:
    """Run one session until the client goes away or breaks a limit; the caller closes."""
    options = server.create_initialization_options(NotificationOptions(tools_changed=True))
    inbox, messages = create_context_streams[_Inbound](0)
    answers, outbox = create_context_streams[SessionMessage](0)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_receive, reader, writer, inbox)
            group.start_soon(_send, writer, outbox)
            await server.run(messages, answers, options)
            # Not in a `finally`: anyio would take a cancellation from outside for its own.
            group.cancel_scope.cancel()
    except* (OSError, TimeoutError, anyio.BrokenResourceError, anyio.ClosedResourceError) as lost:
        why = [type(error).__name__ for error in lost.exceptions]
        _logger.info("mcp_client_lost", extra={"data": {"why": why}})
    except* Exception:
        _logger.exception("mcp_session_failed")
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        # The SDK's task groups take a cancellation from outside for their own.
        raise asyncio.CancelledError


async def _receive(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    inbox: ContextSendStream[_Inbound],
) -> None:
    async with inbox:
        async for line in _lines(reader):
            if len(line) > LINE_BYTES:
                await _refuse(writer, types.INVALID_REQUEST, "the message is too long")
                return
            try:
                message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValidationError as error:
                kinds = {problem["type"] for problem in error.errors(include_input=False)}
                if "json_invalid" in kinds:
                    await _refuse(writer, types.PARSE_ERROR, "not JSON")
                else:
                    await _refuse(writer, types.INVALID_REQUEST, "not a JSON-RPC 2.0 message")
                continue
            await inbox.send(SessionMessage(message))


async def _send(writer: asyncio.StreamWriter, outbox: ContextReceiveStream[SessionMessage]) -> None:
    async with outbox:
        async for item in outbox:
            text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
            await _write(writer, text)


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield lines of any length; one that passes the limit is yielded as far as it came."""
    rest = bytearray()
    while data := await reader.read(READ_BYTES):
        *lines, tail = data.split(b"\n")
        for line in lines:
            whole = bytes(rest) + line
            rest.clear()
            if whole.strip():
                yield whole
        rest += tail
        if len(rest) > LINE_BYTES:
            yield bytes(rest)
            return


async def _refuse(writer: asyncio.StreamWriter, code: int, what: str) -> None:
    error = {"code": code, "message": what}
    await _write(writer, json.dumps({"jsonrpc": "2.0", "id": None, "error": error}))


async def _write(writer: asyncio.StreamWriter, text: str) -> None:
    writer.write(text.encode() + b"\n")
    async with asyncio.timeout(SEND_LIMIT_S):
        await writer.drain()
