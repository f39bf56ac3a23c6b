"""How cmesh leaves a machine: its tasks end, its daemon stops, its node logs out.

Each step has a limit, and none deletes anything.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from cmesh.config import load_config
from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import CancelArguments, TaskArguments, TasksArguments
from cmesh.errors import (
    CmeshError,
    ControlUnreachable,
    DaemonNotRunning,
    DaemonRestarted,
    DaemonTimeout,
    LoginRequired,
    NodeError,
)
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.start import mark_down, wait_gone
from cmesh.locks import holder
from cmesh.model import ENDED, Direction
from cmesh.node.node import Node, NodeOptions
from cmesh.paths import control_socket
from cmesh.setup.service import manager
from cmesh.setup.service.here import surroundings
from cmesh.setup.service.kept import read_kept
from cmesh.store.head import STORE_LOCK

__all__ = ["end_tasks", "log_out", "remove_service", "running_tasks", "stop_daemon"]

STOP_LIMIT_S = 15.0
CANCEL_LIMIT_S = 20.0
HEARD_LIMIT_S = 5.0
_LOOK_S = 0.1
FIRST_LIMIT_S = 3.0
LOGOUT_LIMIT_S = 20.0


async def running_tasks(state: Path) -> int:
    """Return how many unfinished tasks of others this machine has; 0 without a daemon.

    Raises:
        CmeshError: a daemon is there and does not say.
    """
    try:
        async with ControlClient(control_socket(state)) as client:
            view = await client.status()
    except DaemonNotRunning:
        return 0
    return view.running + view.waiting


async def end_tasks(state: Path) -> None:
    """Cancel what runs or waits here for others, and let their callers hear of it.

    A caller that cannot be reached in time learns that the task is lost, when it asks.

    Raises:
        DaemonTimeout: a task is still there after `CANCEL_LIMIT_S`.
    """
    async with ControlClient(control_socket(state)) as client:
        page = await client.list_tasks(TasksArguments(state="open", direction=Direction.IN))
        try:
            async with asyncio.timeout(CANCEL_LIMIT_S):
                for task in page.tasks:
                    await client.cancel_task(CancelArguments(task_id=task.task_id))
                for task in page.tasks:
                    await _until(client, task.task_id, lambda view: view.state in ENDED)
        except TimeoutError:
            raise DaemonTimeout(
                f"a task does not end within {CANCEL_LIMIT_S:g} s", hint="cmesh tasks"
            ) from None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARD_LIMIT_S):
                for task in page.tasks:
                    await _until(client, task.task_id, lambda view: view.receipt == "complete")


async def _until(client: ControlClient, task_id: str, holds: Callable[[TaskView], bool]) -> None:
    # The daemon is another process, so there is no event to wait for.
    while not holds(await client.get_task(TaskArguments(task_id=task_id))):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_S)


async def stop_daemon(state: Path) -> bool:
    """Stop the daemon of a state directory for good; return whether one ran.

    Raises:
        DaemonTimeout: it does not end in time.
    """
    pid = holder(state / "store" / STORE_LOCK) or 0
    mark_down(state)  # so that no agent's relay starts it again meanwhile
    with contextlib.suppress(DaemonNotRunning, DaemonRestarted):
        async with ControlClient(control_socket(state)) as client:
            pid = (await client.status()).pid or pid
            await client.down()
    if pid and not await asyncio.to_thread(wait_gone, pid, STOP_LIMIT_S):
        raise DaemonTimeout(f"the daemon (process {pid}) does not end within {STOP_LIMIT_S:g} s")
    return bool(pid)


def remove_service(state: Path, say: Callable[[str], None]) -> None:
    """Take the unit of the service manager away. Blocks.

    Raises:
        ServiceFailed: it cannot be removed.
    """
    kept = read_kept(state)
    if kept is not None:
        manager.remove(kept, manager.removal_plan(kept), surroundings(state), say)


async def log_out(state: Path, config_file: Path) -> str:
    """End this node's key at the control server; return what was left undone, empty for nothing.

    The daemon must have stopped, and there must be a node. A machine that cannot reach the control server is told so, since
    the tailnet then keeps the node until it is removed there.
    """
    try:
        config = load_config(config_file).node
    except CmeshError as error:
        return f"the node was not logged out: {error.message}"
    options = NodeOptions(
        state_dir=state / "node",
        hostname=config.hostname,
        control_url=config.control_url,
        allow_testnet=config.allow_testnet,
    )
    try:
        async with Node(options) as node:
            if not await _is_logged_in(node):
                return ""
            async with asyncio.timeout(LOGOUT_LIMIT_S):
                await node.logout()
    except (CmeshError, TimeoutError) as error:
        why = error.message if isinstance(error, CmeshError) else ControlUnreachable.code
        return (
            f"the node was not logged out ({why}); "
            f"remove `{config.hostname}` among the machines of your tailnet"
        )
    return ""


async def _is_logged_in(node: Node) -> bool:
    """Wait until a node is up; return False where it has no login that could be ended.

    Raises:
        NodeError: it has one, and is not up in time.
    """
    try:
        await node.up(timeout_s=FIRST_LIMIT_S)
    except LoginRequired:
        return False
    except NodeError:
        # Without its control server a node that never logged in is told by its state alone.
        if (await node.status()).state == "NeedsLogin":
            return False
        await node.up(timeout_s=LOGOUT_LIMIT_S)
    return True
