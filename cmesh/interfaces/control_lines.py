"""Lines of the control protocol: read, understood as JSON objects, sent."""

import asyncio
import json
from typing import cast

from cmesh.errors import UsageError
from cmesh.interfaces.wire import REQUEST_BYTES

__all__ = ["SEND_LIMIT_S", "json_object", "read_line", "send_line"]

SEND_LIMIT_S = 30.0


async def read_line(reader: asyncio.StreamReader) -> bytes:
    """Return one line; empty at the end of the stream, also within a line."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError:
        return b""
    except asyncio.LimitOverrunError as error:
        raise UsageError(f"a line is longer than {REQUEST_BYTES} bytes") from error


def json_object(line: bytes) -> dict[str, object]:
    """Return the object a line holds; raises `UsageError` when it holds none."""
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError("a line is not JSON") from error
    if not isinstance(value, dict):
        raise UsageError("a line is not a JSON object")
    return cast("dict[str, object]", value)


async def send_line(writer: asyncio.StreamWriter, text: str) -> None:
    """Send one line; raises `TimeoutError` when it is not taken in time."""
    # One write call per line, so that lines of several calls do not mix.
    writer.write(text.encode() + b"\n")
    async with asyncio.timeout(SEND_LIMIT_S):
        await writer.drain()
