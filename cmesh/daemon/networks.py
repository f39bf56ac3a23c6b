"""The networks of this worker's tasks: granted before a start, taken up again, ended.

Joins the proxy with the store and the tasks' directories. It never starts a task, and never
widens a network: what stands in a task's directory was granted when it started.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cmesh.clock import Clock
from cmesh.daemon.endpoints import Endpoints
from cmesh.model import Profile, TaskId
from cmesh.runner.egress.gateway import LoginReader
from cmesh.runner.egress.network import Network, load, new_token, save, variables
from cmesh.runner.egress.proxy import Proxy
from cmesh.runner.runner import Runner
from cmesh.store.records import AuditRecord
from cmesh.store.store import Store

__all__ = ["Networks", "WayOut"]

logger = logging.getLogger(__name__)

_FILE = "network.json"
_DOOR = Path("net", "daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class WayOut:
    """How one task reaches the proxy.

    Attributes:
        port: on the loopback of the task's own network namespace, or of the machine.
        socket: where its relay hands connections in.
        env: how its program is told; holds the task's credentials.
        argv: more arguments by which its program is told; never a credential.
    """

    port: int
    socket: Path
    env: Mapping[str, str]
    argv: tuple[str, ...] = ()


class Networks:
    """The networks of one worker; used from one event loop.

    Attributes:
        endpoints: where tasks that may delegate ask for tasks.
    """

    def __init__(
        self, store: Store, tasks_dir: Path, clock: Clock, logins: LoginReader | None = None
    ) -> None:
        self._store = store
        self._tasks_dir = tasks_dir
        self._proxy = Proxy(self._audit, clock, read_login=logins)
        self.endpoints = Endpoints(self._audit)

    def grant(
        self,
        task_id: TaskId,
        runner: Runner,
        hosts: Sequence[str] = (),
        *,
        delegates: bool = False,
        confined: bool = True,
    ) -> WayOut | None:
        """Open the network of a task that is about to start; a repeated start gets the same one.

        `hosts` are those that its profile adds to the runner's. None for a task that needs none
        of either, unless it may delegate: then it gets no port. A task that is not `confined`
        needs nothing of cmesh but that.

        Raises:
            RunnerUnavailable: the owner's `base_url` cannot be reached from a sandbox.
            OSError: the disk refuses.
        """
        directory = self._tasks_dir / task_id
        network = load(directory / _FILE)
        if network is not None and confined and not network.gate and runner.gateway(Profile.QUERY):
            network = None  # of an older daemon, whose start came to nothing
        if network is None:
            if confined:
                token = new_token() if delegates else ""
                network = replace(runner.network(hosts), mcp_token=token)
            elif delegates:
                network = self.endpoints.listen(task_id)
            if network is None or network.empty:
                return None
            directory.mkdir(mode=0o700, exist_ok=True)
            save(network, directory / _FILE)
        self._open(task_id, network)
        env = variables(network, runner.manifest.credential, base_url=runner.base_url)
        argv = runner.manifest.options.mcp if network.mcp_token else ()
        return WayOut(port=network.port, socket=directory / _DOOR, env=env, argv=argv)

    def adopt(self, task_id: TaskId) -> None:
        """Serve the network of a task that an earlier daemon started, if it has one."""
        network = load(self._tasks_dir / task_id / _FILE)
        if network is None:
            return
        try:
            self._open(task_id, network)
        except OSError as error:
            # The task runs on without a way out; its program says so.
            data = {"task": task_id, "why": error.strerror}
            logger.warning("network_lost", extra={"data": data})

    async def end(self, task_id: TaskId) -> bool:
        """End a task's network and what is open in it; harmless when it has none.

        Return whether it could ask for tasks until now.
        """
        could_ask = self.endpoints.is_open(task_id)
        await self.endpoints.shut(task_id)
        await self._proxy.shut(task_id)
        return could_ask

    async def close(self) -> None:
        """End all networks; tasks that run on get theirs back from the next daemon."""
        await self.endpoints.close()
        await self._proxy.close()

    def _open(self, task_id: TaskId, network: Network) -> None:
        inside = None
        if network.mcp_token:
            self.endpoints.open(task_id, network)
            inside = partial(self.endpoints.connect, task_id)
        if not network.listens:
            self._proxy.open(task_id, network, self._tasks_dir / task_id / _DOOR, inside)

    async def _audit(self, task_id: TaskId, kind: str, data: Mapping[str, object]) -> None:
        await self._store.commit([AuditRecord(kind=kind, task_id=task_id, data=data)])
