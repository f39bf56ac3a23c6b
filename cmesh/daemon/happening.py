"""What the parts of the worker's side tell one task, and how a task asks for a place to run."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from cmesh.daemon.admission import Admission
from cmesh.model import NodeId, TaskId
from cmesh.protocol.happenings import WorkerEvent
from cmesh.store.records import ReceiptRecord, TaskRecord, TaskSnapshot

__all__ = ["Happening", "Place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something that happens to a task, and what came with it.

    Attributes:
        event: a `Looked` only asks for a look; what is seen is gathered then.
        record: the task's own row, for an id that may be unknown here.
        same_hash: a submit's payload is the known one.
        code, reason: why, for what the worker decides itself.
        receipt: the caller's signature, for a `result_ack`.
        reply_to: the node to answer.
    """

    event: WorkerEvent
    record: TaskRecord | None = None
    admission: Admission | None = None
    same_hash: bool = True
    code: str = ""
    reason: str = ""
    receipt: ReceiptRecord | None = None
    reply_to: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """How a task gets and gives back one of the worker's places to run.

    Attributes:
        take: True when the task has a place now.
        leave: gives the place, or the turn in the queue, back.
        ready: True when all that its caller sends apart from it is here; asks for it otherwise.
        bundle: the commits that came with it, as a file; None = none were asked for.
        readmit: decides anew whether a task may run.
    """

    take: Callable[[TaskId], bool]
    leave: Callable[[TaskId], None]
    ready: Callable[[TaskRecord], Awaitable[bool]]
    bundle: Callable[[TaskId], Path | None]
    readmit: Callable[[TaskSnapshot], Awaitable[Admission]]
