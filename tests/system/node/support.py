"""What the node tests share besides fixtures."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from cmesh.node.node import Node

__all__ = ["ALICE", "EVENT_LIMIT_S", "Eventually", "MakeNode", "T", "Until"]

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]

T = TypeVar("T")
EVENT_LIMIT_S = 20.0
ALICE = "alice@example.com"


class MakeNode(Protocol):
    async def __call__(
        self, name: str, *, user: str = ALICE, tags: tuple[str, ...] = (), ephemeral: bool = False
    ) -> Node: ...


class Until(Protocol):
    async def __call__(self, node: Node, check: Callable[[], Awaitable[T | None]]) -> T: ...
