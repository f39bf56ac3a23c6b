"""Calls daemons' operations as their user, for a harness that is another: JSON lines in and out.

Each line on stdin is `[number, state directory, operation, arguments]`; the answers, `[number,
answer]`, come as they are ready. It keeps no connection, so a daemon may die and come back
between two calls.
"""

import asyncio
import json
import sys
from pathlib import Path

from pydantic import ConfigDict

from cmesh.daemon.answers import View
from cmesh.errors import CmeshError
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.wire import OPERATIONS, error_body
from cmesh.paths import control_socket

LINE_BYTES = 16 * 1024 * 1024


class _Raw(View):
    model_config = ConfigDict(extra="allow")


async def _call(state: str, operation: str, arguments: object) -> dict[str, object]:
    try:
        async with ControlClient(control_socket(Path(state)), session="owner") as client:
            parsed = OPERATIONS[operation].model_validate(arguments)
            return {"result": (await client.call(operation, parsed, _Raw)).model_extra}
    except CmeshError as error:
        return {"error": error_body(error)}


async def _answer(line: bytes) -> None:
    number, state, operation, arguments = json.loads(line)
    answer = await _call(state, operation, arguments)
    print(json.dumps([number, answer], default=str), flush=True)


async def _serve() -> None:
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as calls:
        while line := await reader.readline():
            calls.create_task(_answer(line))


if __name__ == "__main__":
    asyncio.run(_serve())
