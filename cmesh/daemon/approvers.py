"""The approvals page on the tailnet: who gets it, what it shows, whose word is taken.

Served by this machine's own node while the configuration names approvers. Knows nothing of HTTP:
what serves the connections is handed down by whoever joins the daemon with its interfaces.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cmesh.daemon.answers import TaskView
from cmesh.daemon.approval import APPROVAL
from cmesh.daemon.background import guarded
from cmesh.daemon.core import Daemon
from cmesh.daemon.lookup import Lookup
from cmesh.daemon.views import state_of
from cmesh.errors import CmeshError, LocalProtocolError, PolicyDenied, TaskRefused
from cmesh.model import Direction, Identity, NodeId, TaskId, TaskState
from cmesh.node.listener import Connection, Listener
from cmesh.node.node import Node
from cmesh.policy.approver import no_answer, no_approver
from cmesh.store.records import AuditRecord, TaskRecord
from cmesh.text import one_line

__all__ = ["APPROVAL_REFUSED", "Approvers", "Case", "MakeSite", "Site"]

logger = logging.getLogger(__name__)

APPROVAL_REFUSED = "approval_refused"
"""Kind of audit row: an approver's word on a task that it may not answer for."""

REFUSED_RECORDED = 100
"""Refused words that get a row in one life of the daemon; nobody must fill the audit by them."""

WHOIS_LIMIT_S = 5.0
LOOK_S = 2.0
"""How often the configuration and the node are looked at; neither announces all its changes."""

CASES_MOST = 50


class Site(Protocol):
    """Serves connections of approvers, each as the node that it is of."""

    def take(self, connection: socket.socket, node_id: NodeId) -> None:
        """Serve a connection, which it owns from then on."""
        ...

    async def close(self) -> None:
        """End every connection."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A task that waits; `refused` says why the device that looks may not answer for it."""

    task: TaskView
    refused: str


MakeSite = Callable[["Approvers"], Awaitable[Site]]


class Approvers:
    """Serves the page, and takes the words given on it. Event loop only."""

    def __init__(self, daemon: Daemon, make: MakeSite) -> None:
        self._daemon = daemon
        self._lookup = Lookup(daemon)
        self._make = make
        self._site: Site | None = None
        self._making = asyncio.Lock()
        self._listening: tuple[Listener, Node] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused = 0

    async def run(self) -> None:
        """Listen whenever there are approvers and the node is up, until cancelled."""
        try:
            while True:
                await self._settle()
                await asyncio.sleep(LOOK_S)
        finally:
            self._hush()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._site is not None:
                await self._site.close()

    @property
    def names(self) -> frozenset[str]:
        """What a browser may call this node: its name, its first label, its addresses."""
        status = self._daemon.presence.status
        if status is None:
            return frozenset()
        addresses = [f"[{one}]" if ":" in one else one for one in status.addresses]
        return frozenset({status.name.lower(), status.name.lower().partition(".")[0], *addresses})

    @property
    def label(self) -> str:
        """This node's name up to its first dot."""
        status = self._daemon.presence.status
        return status.name.partition(".")[0] if status is not None else ""

    @property
    def port(self) -> int:
        """The port that is listened on, or would be."""
        return self._daemon.rules.config().approvals.port

    async def waiting(self, node_id: NodeId) -> Sequence[Case]:
        """Return what waits for the owner, for a device that may look.

        Raises:
            PolicyDenied: it is no approver any more.
        """
        identity = await self._approver(node_id)
        found = await self._daemon.store.tasks(
            direction=Direction.IN, states=(TaskState.WAITING_APPROVAL,), session=None,
            limit=CASES_MOST,
        )  # fmt: skip
        cases: list[Case] = []
        for task in found:
            view = await self._lookup.view(task)
            will_run = await self._daemon.worker.will_run(task)
            shown = view.model_copy(update={"will_run": will_run})
            cases.append(Case(task=shown, refused=self._no_answer(identity, task.record)))
        return cases

    async def answer(self, node_id: NodeId, case: Case, *, yes: bool, reason: str) -> None:
        """Take a device's word on a task, as it was shown; audited with who gave it.

        Raises:
            PolicyDenied: it is no approver, or may not answer for this task.
            TaskRefused: the task waits no more.
        """
        identity = await self._approver(node_id)
        task = await self._lookup.task(case.task.task_id)
        record = task.record
        if state_of(task) is not TaskState.WAITING_APPROVAL or record.direction is not Direction.IN:
            raise TaskRefused("the task does not wait for approval any more")
        refused = self._no_answer(identity, record)
        if refused:
            await self._record_refusal(identity, record.task_id, refused)
            raise PolicyDenied(f"this device may not answer: {refused}")
        try:
            await self._daemon.worker.approve(task, yes=yes, reason=reason)
        except LocalProtocolError as error:
            raise TaskRefused("the task does not wait for approval any more") from error
        data = {"answer": "approved" if yes else "denied", "program": _called(identity)}
        row = AuditRecord(kind=APPROVAL, task_id=record.task_id, data=data | _who(identity))
        await guarded(self._daemon.store.commit([row]))  # the answer stands without it
        self._daemon.links.want(record.peer_id)

    async def became(self, task_id: str) -> TaskView:
        """Return a task as it is now.

        Raises:
            TaskNotFound: there is none.
        """
        return await self._lookup.view(await self._lookup.task(task_id))

    async def _approver(self, node_id: NodeId) -> Identity:
        """Ask whois anew: a connection outlives a change of the configuration, and a key."""
        identity = await self._daemon.presence.identify(node_id)
        refused = no_approver(identity, self._daemon.rules.config().approvals.approvers)
        if refused or self._daemon.rules.error is not None:
            raise PolicyDenied(f"this device may not answer: {refused or 'no rule is in force'}")
        return identity

    def _no_answer(self, identity: Identity, record: TaskRecord) -> str:
        approvers = self._daemon.rules.config().approvals.approvers
        return no_answer(identity, approvers, record.peer_id, record.spec.origin)

    async def _record_refusal(self, identity: Identity, task_id: TaskId, why: str) -> None:
        self._refused += 1
        if self._refused <= REFUSED_RECORDED:
            data = {"why": why} | _who(identity)
            row = AuditRecord(kind=APPROVAL_REFUSED, task_id=task_id, data=data)
            await guarded(self._daemon.store.commit([row]))

    async def _settle(self) -> None:
        """Listen, or stop, as things are now."""
        presence, rules = self._daemon.presence, self._daemon.rules
        wanted = rules.config().approvals
        serves = bool(wanted.approvers) and rules.error is None and presence.phase == "up"
        if self._listening is not None:
            listener, node = self._listening
            same = node is presence.node and listener.port == wanted.port
            if serves and same and listener.fileno() >= 0:
                return
            self._hush()
        if not serves:
            return
        try:
            listener = await presence.node.listen(wanted.port)
        except CmeshError as error:  # looked at again; the owner sees it in the log
            logger.warning("approvals_not_served", extra={"data": {"why": error.message}})
            return
        self._listening = listener, presence.node
        logger.info("approvals_served", extra={"data": {"port": wanted.port}})
        self._spawn(self._accept(listener))

    def _hush(self) -> None:
        if self._listening is not None:
            self._listening[0].close()
            self._listening = None

    async def _accept(self, listener: Listener) -> None:
        async for connection in listener:
            self._spawn(self._one(connection))

    async def _one(self, connection: Connection) -> None:
        # INVARIANT: whois comes before a byte is read; who is no approver gets no answer at all.
        try:
            async with asyncio.timeout(WHOIS_LIMIT_S):
                identity = await self._daemon.presence.node.whois(connection.remote)
            approvers = self._daemon.rules.config().approvals.approvers
            refused = no_approver(identity, approvers)
            if refused:
                raise PolicyDenied(refused)
            (await self._made()).take(connection.sock, identity.node_id)
        except (CmeshError, TimeoutError) as error:
            code = error.code if isinstance(error, CmeshError) else "timeout"
            data = {"remote": connection.remote, "code": code, "why": str(error)}
            logger.warning("approver_refused", extra={"data": data})
            connection.sock.close()
        except BaseException:
            connection.sock.close()
            raise

    async def _made(self) -> Site:
        async with self._making:
            if self._site is None:
                self._site = await self._make(self)
            return self._site

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _who(identity: Identity) -> dict[str, object]:
    return {
        "node_id": identity.node_id,
        "node": one_line(identity.name),
        "user": one_line(identity.user),
    }


def _called(identity: Identity) -> str:
    """Return what stands for a program in the audit: the device, and whose it is."""
    name = one_line(identity.name.partition(".")[0], 63)
    return f"approvals page, {name} of {one_line(identity.user or 'nobody', 100)}"
