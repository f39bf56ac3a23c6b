"""What the halves of the daemon share, joined once by `Daemon`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from cmesh.clock import Clock
from cmesh.daemon.actor import News
from cmesh.daemon.networks import Networks
from cmesh.daemon.rules import Rules
from cmesh.keys import SigningKey
from cmesh.model import Identity, NodeId, TaskId
from cmesh.protocol.messages import Message
from cmesh.redact import Redactor
from cmesh.runner.confine import Sandboxes
from cmesh.runner.registry import Runners
from cmesh.runner.sessions import Sessions
from cmesh.runner.supervise import Supervisor
from cmesh.store.records import TaskRecord
from cmesh.store.store import Store

__all__ = ["Parts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The joined parts.

    Attributes:
        post: queue a message for a peer; dropped when no link is open, because what is
            owed is worked out anew at the next connect.
        want: keep dialling a peer as long as something is owed.
        identify: ask whois who a node id is now; raises `IdentityUnknown`, `UnknownPeer`.
        self_id: this node's stable id; empty before the node was up.
        news: told after each commit that changed a task.
        redactor: takes secrets out, those that are known now.
        wake: told of an end, or of a task that waits for approval, after its commit.
        ended: told of the end of a task that may have asked for tasks, after its commit.
    """

    store: Store
    supervisor: Supervisor
    sandboxes: Sandboxes
    networks: Networks
    sessions: Sessions
    runners: Callable[[], Runners]
    rules: Rules
    clock: Clock
    key: SigningKey
    tasks_dir: Path
    is_root: bool
    post: Callable[[NodeId, Message], None]
    want: Callable[[NodeId], None]
    identify: Callable[[NodeId], Awaitable[Identity]]
    self_id: Callable[[], NodeId]
    news: News[TaskId]
    wake: Callable[[TaskRecord, str], None]
    redactor: Callable[[], Redactor]
    ended: Callable[[TaskId], None]
