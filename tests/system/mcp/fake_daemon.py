"""A control socket with the MCP server over `FakeOperations`: what the relay meets, as a process.

Prints `ready` when it listens; with any argument it begins with one task. Each line on stdin is `METHOD JSON-ARGUMENTS`: a call of the fake.
"""

import asyncio
import json
import sys
from pathlib import Path

from cmesh.daemon.arguments import Context, DelegateArguments
from cmesh.interfaces.control import ControlServer
from cmesh.interfaces.mcp.server import serve_mcp
from cmesh.paths import control_socket, state_dir
from tests.fakes.operations import FakeOperations

__all__ = ["main"]


async def main() -> None:
    operations = FakeOperations()
    if sys.argv[1:]:
        task = DelegateArguments(peer="worker", prompt="why?", directory="/srv/app")
        await operations.delegate(Context(session="before"), task)

    async def on_mcp(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: Context
    ) -> None:
        await serve_mcp(reader, writer, context, operations)

    path = control_socket(state_dir())
    # A killed predecessor leaves its socket behind, as a real daemon's start does away with.
    Path(path).unlink(missing_ok=True)
    async with ControlServer(path, operations, on_mcp=on_mcp):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        commands = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        while line := await commands.readline():
            method, arguments = line.decode().split(" ", 1)
            getattr(operations, method)(**json.loads(arguments))
            sys.stdout.write("done\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
