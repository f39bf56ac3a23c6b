"""The daemon's process: joins the daemon with the ways in, and ends it well.

The only place that knows both the daemon and its interfaces. Started clean by
`cmesh.interfaces.start`; its environment is all it inherits.
"""

import asyncio
import logging
import os
import signal
import sys
from importlib import import_module

from cmesh.clock import SystemClock
from cmesh.config import environment, on_testnet
from cmesh.daemon.app import App
from cmesh.daemon.core import Daemon, Settings
from cmesh.daemon.operations import Context
from cmesh.errors import CmeshError
from cmesh.interfaces.control import ControlServer
from cmesh.interfaces.start import report_failure
from cmesh.logs import configure
from cmesh.node.testnet import allow_loopback_only
from cmesh.paths import config_file, control_socket, state_dir

__all__ = ["main"]

logger = logging.getLogger(__name__)

CLOSE_LIMIT_S = 20.0


def main() -> int:
    """Serve until told to stop; return the exit status."""
    os.umask(0o077)
    configure(sys.stderr)
    try:
        asyncio.run(_serve())
    except CmeshError as error:
        report_failure(error, sys.stderr)
        return error.exit_status
    return 0


async def _serve() -> None:
    settings = Settings(
        state_dir=state_dir(),
        config_file=config_file(),
        environment=environment(),
        clock=SystemClock(),
    )
    if on_testnet():
        # A test tailnet lives on loopback: the node then needs, and uses, nothing else.
        allow_loopback_only()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    daemon = await Daemon.open(settings)
    try:
        app = App(daemon, stop.set)

        async def on_mcp(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: Context
        ) -> None:
            # The SDK is half of a daemon's memory, and no agent may ever connect. The relay
            # has answered the handshake and `tools/list` already, so nobody waits for it.
            server = await asyncio.to_thread(import_module, "cmesh.interfaces.mcp.server")
            await server.serve_mcp(reader, writer, context, app)

        socket = control_socket(settings.state_dir)
        async with ControlServer(socket, app, on_mcp=on_mcp):
            logger.info("ready", extra={"data": {"pid": os.getpid()}})
            await stop.wait()
    finally:
        await _close(daemon)


async def _close(daemon: Daemon) -> None:
    try:
        async with asyncio.timeout(CLOSE_LIMIT_S):
            await daemon.close()
    except TimeoutError:
        logger.error("close_timed_out")  # noqa: TRY400 - what hangs is not in this traceback
    logger.info("stopped")
