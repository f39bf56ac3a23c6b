"""The daemon's process: joins the daemon with the ways in, and ends it well.

The only place that knows both the daemon and its interfaces. Started clean by
`cmesh.interfaces.start`; its environment is all it inherits.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from cmesh.clock import SystemClock
from cmesh.config import environment, on_testnet, under_service_manager
from cmesh.daemon.app import App
from cmesh.daemon.approvers import Approvers, Site
from cmesh.daemon.arguments import Context
from cmesh.daemon.children import Children
from cmesh.daemon.core import Daemon
from cmesh.daemon.endpoints import Door, Endpoint
from cmesh.daemon.settings import Settings
from cmesh.errors import CmeshError
from cmesh.interfaces import standby
from cmesh.interfaces.control import RESTART_GRACE_S, ControlServer
from cmesh.interfaces.daemon_log import keep_small, report_failure
from cmesh.interfaces.launch import HANDED_OVER, Kind, end_replacing, record_launch
from cmesh.interfaces.start import is_marked_down
from cmesh.interfaces.traces import close_exporter, open_exporter
from cmesh.logs import LineFormatter, configure
from cmesh.node.testnet import allow_loopback_only
from cmesh.paths import config_file, control_socket, state_dir

__all__ = ["main"]

logger = logging.getLogger(__name__)

CLOSE_LIMIT_S = 20.0
APPROVALS = "cmesh.interfaces.dashboard.tailnet"
"""The module that serves approvers on the tailnet, loaded for the first connection of one."""

TASK_MCP = "cmesh.interfaces.mcp.http"
"""The module that serves tasks that may delegate, loaded for the first call of one."""

DETACHED_GRACE_S = 0.1
"""Nobody restarts such a daemon but who needs it; a first look may just have come too early."""


def main(arguments: Sequence[str] = ()) -> int:
    """Serve until told to stop; return the exit status.

    `--detached` says that nobody watches over this process, `--service` that somebody starts it
    again when it ends with `HANDED_OVER`, as systemd is known to; with `--standby` it waits
    for its word, and with `--agents` is ready for them at once; `--check` only tries whether it could serve.
    """
    os.umask(0o077)
    if "--check" in arguments:
        return standby.check()
    kind = _kind(arguments)
    if kind == "service":
        if is_marked_down(state_dir()):
            return 0  # not every manager can be told to look for the mark itself
        keep_small(state_dir())
    log = configure(sys.stderr)
    agents = "--agents" in arguments
    if "--standby" in arguments and not standby.wait_for_word(agents=agents):
        return 0
    try:
        status = asyncio.run(_Server(kind, log).run())
    except CmeshError as error:
        report_failure(error, sys.stderr)
        return error.exit_status
    logging.shutdown()
    # All is closed. Taking the interpreter and its modules apart would take as long as a whole
    # start, and who replaces this daemon waits for its end.
    os._exit(status)


class _Server:
    """One life of the daemon's process."""

    def __init__(self, kind: Kind, log: LineFormatter) -> None:
        self._kind: Kind = kind
        self._log = log
        self._stop = asyncio.Event()
        self._restarting = False

    async def run(self) -> int:
        """Serve until told to stop; return the exit status."""
        settings = Settings(
            state_dir=state_dir(),
            config_file=config_file(),
            environment=environment(),
            clock=SystemClock(),
        )
        if on_testnet():
            # A test tailnet lives on loopback: the node then needs, and uses, nothing else.
            allow_loopback_only()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

        def opened() -> None:
            # INVARIANT: nothing was taken in before the mark of a replacement is gone, and the
            # one who replaces goes back to the old store only while it is there.
            record_launch(settings.state_dir, self._kind)
            end_replacing(settings.state_dir)

        daemon = await Daemon.open(settings, opened=opened)
        self._log.redactor = daemon.secrets.redactor
        self._log.form = daemon.rules.config().log.format
        exporter = await open_exporter(daemon)
        try:
            await self._serve(daemon)
        finally:
            await self._close(daemon)
            if exporter is not None:
                await close_exporter(exporter)
        return HANDED_OVER if self._restarting and self._kind == "service" else 0

    async def _serve(self, daemon: Daemon) -> None:
        app = App(
            daemon, self._stop.set, self._hand_over, agents=lambda: standby.MCP in sys.modules
        )

        async def on_mcp(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: Context
        ) -> None:
            # The SDK is half of a daemon's memory, and no agent may ever connect. The relay
            # has answered the handshake and `tools/list` already, so nobody waits for it.
            server = await asyncio.to_thread(import_module, standby.MCP)
            with app.wizard.speaking(context.pid):
                await server.serve_mcp(reader, writer, context, app)

        async def endpoint(door: Door) -> Endpoint:
            http = await asyncio.to_thread(import_module, TASK_MCP)
            return await http.open_endpoint(door, Children(daemon, app, door.task_id))

        async def site(approvers: Approvers) -> Site:
            pages = await asyncio.to_thread(import_module, APPROVALS)
            return await pages.open_site(approvers)

        daemon.networks.endpoints.serve_with(endpoint)
        socket = control_socket(daemon.settings.state_dir)
        grace_s = DETACHED_GRACE_S if self._kind == "detached" else RESTART_GRACE_S
        page = asyncio.create_task(Approvers(daemon, site).run())
        try:
            async with ControlServer(socket, app, on_mcp=on_mcp, grace_s=grace_s):
                logger.info("ready", extra={"data": {"pid": os.getpid()}})
                await self._stop.wait()
        finally:
            page.cancel()
            await asyncio.wait([page])

    def _hand_over(self) -> None:
        self._restarting = True
        self._stop.set()

    async def _close(self, daemon: Daemon) -> None:
        try:
            async with asyncio.timeout(CLOSE_LIMIT_S):
                await daemon.close(restarting=self._restarting)
        except TimeoutError:
            logger.error("close_timed_out")  # noqa: TRY400 - what hangs is not in this traceback
        logger.info("stopped")


def _kind(arguments: Sequence[str]) -> Kind:
    if "--detached" in arguments or "--standby" in arguments:
        return "detached"
    served = "--service" in arguments or under_service_manager()
    return "service" if served else "foreground"
