"""The worker's places to run, and the queue for them: in turn over peers, not over tasks.

Pure bookkeeping; a peer with a thousand tasks waiting takes no more turns than one with one.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from cmesh.model import NodeId, TaskId

__all__ = ["Places", "Room"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many tasks may run at once: of all peers, and of one."""

    total: int
    per_peer: int


class Places:
    """Who runs and who waits. Each step costs the same, however many wait."""

    def __init__(self) -> None:
        self._running: dict[TaskId, NodeId] = {}
        self._of_peer: Counter[NodeId] = Counter()
        self._owner: dict[TaskId, NodeId] = {}  # of those that wait
        # The peer whose turn is next stands first; within a peer, who came first.
        self._queues: OrderedDict[NodeId, dict[TaskId, None]] = OrderedDict()

    @property
    def running(self) -> int:
        """Tasks that hold a place."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Tasks that wait for a place."""
        return len(self._owner)

    def running_of(self, peer_id: NodeId) -> int:
        """Return how many of a peer's tasks hold a place."""
        return self._of_peer[peer_id]

    def waiting_of(self, peer_id: NodeId) -> int:
        """Return how many of a peer's tasks wait for one."""
        return len(self._queues.get(peer_id, ()))

    def holds(self, task_id: TaskId) -> bool:
        """Say whether a task runs or waits."""
        return task_id in self._running or task_id in self._owner

    def adopt(self, task_id: TaskId, peer_id: NodeId) -> None:
        """Give a place to a task that runs already, whether there is room or not."""
        if task_id not in self._running:
            self._running[task_id] = peer_id
            self._of_peer[peer_id] += 1

    def take(self, task_id: TaskId, peer_id: NodeId, room: Room) -> bool:
        """Give a place when it is this task's turn; otherwise it waits. True = it has one."""
        if task_id in self._running:
            return True
        if task_id not in self._owner:
            self._owner[task_id] = peer_id
            self._queues.setdefault(peer_id, {})[task_id] = None
        if task_id not in self.next(room):
            return False
        self._dequeue(task_id)
        if peer_id in self._queues:
            self._queues.move_to_end(peer_id)
        self.adopt(task_id, peer_id)
        return True

    def leave(self, task_id: TaskId) -> bool:
        """Give a place, or a turn, back; False when the task had neither."""
        peer_id = self._running.pop(task_id, None)
        if peer_id is None:
            return self._dequeue(task_id)
        self._of_peer[peer_id] -= 1
        if not self._of_peer[peer_id]:
            del self._of_peer[peer_id]
        return True

    def next(self, room: Room) -> list[TaskId]:
        """Return whose turn it is: as many as there are free places, first one first."""
        free = room.total - len(self._running)
        found: list[TaskId] = []
        if free <= 0:
            return found
        # Laziness matters: there may be a thousand peers, and at most `free` are looked at.
        turns: Iterator[tuple[NodeId, Iterator[TaskId]]] = (
            (peer_id, islice(queue, room.per_peer - self._of_peer[peer_id]))
            for peer_id, queue in self._queues.items()
            if self._of_peer[peer_id] < room.per_peer
        )
        while len(found) < free:
            again: list[tuple[NodeId, Iterator[TaskId]]] = []
            for peer_id, queue in turns:
                task_id = next(queue, None)
                if task_id is not None:
                    found.append(task_id)
                    again.append((peer_id, queue))
                if len(found) == free:
                    break
            if not again:
                break
            turns = iter(again)
        return found

    def _dequeue(self, task_id: TaskId) -> bool:
        peer_id = self._owner.pop(task_id, None)
        if peer_id is None:
            return False
        queue = self._queues[peer_id]
        del queue[task_id]
        if not queue:
            del self._queues[peer_id]
        return True
