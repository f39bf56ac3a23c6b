"""The states of a task on each side: who decides one, and the evidence it rests on.

Data only, beside the rows of `cmesh.protocol.table`: the daemon writes these words, `cmesh
show` prints them, and the docs' table is made from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from cmesh.model import TaskState
from cmesh.protocol.facts import ACCEPTED, INTENT, QUEUED, RUNNING, SENT, UNKNOWN, WAITING

__all__ = ["STATES", "WITNESS", "State"]


@dataclass(frozen=True, slots=True)
class State:
    """One state of one side.

    Attributes:
        decides: whose act makes it so. A caller decides alone only what was never sent.
        witness: what it rests on. Where a result came, the result's own words are written.
    """

    side: Literal["caller", "worker"]
    name: str
    decides: Literal["caller", "worker", "owner", "shim"]
    witness: str


_C, _W = "caller", "worker"
_RECORDED = "the shim recorded how the program ended"

STATES: Final[tuple[State, ...]] = (
    State(_C, QUEUED, "caller", "this node committed the row"),
    State(_C, SENT, "caller", "this node committed that it may have been sent"),
    State(_C, ACCEPTED, "worker", "worker: committed the row"),
    State(_C, UNKNOWN, "worker", "worker: its store has less of it than was told"),
    State(_C, TaskState.CANCELLED, "caller", "it was never sent"),
    State(_C, TaskState.EXPIRED, "caller", "it was not sent before its time was over"),
    State(_C, TaskState.DENIED, "worker", "worker: committed the refusal"),
    State(_W, ACCEPTED, "worker", "the worker committed the row"),
    State(_W, WAITING, "owner", "the worker committed the row; its owner must approve it"),
    State(_W, INTENT, "worker", "the worker committed to start it"),
    State(_W, RUNNING, "shim", "the shim recorded the agent's process"),
    State(_W, TaskState.SUCCEEDED, "shim", _RECORDED),
    State(_W, TaskState.FAILED, "shim", _RECORDED),
    State(_W, TaskState.TIMED_OUT, "shim", _RECORDED),
    State(_W, TaskState.CANCELLED, "worker", "the worker committed it before anything was started"),
    State(
        _W,
        TaskState.INTERRUPTED,
        "worker",
        "the shim ended without a result; zero processes counted",
    ),
    State(_W, TaskState.DENIED, "worker", "the worker committed the refusal"),
    State(
        _W, TaskState.EXPIRED, "worker", "the worker committed it; its time was over before a start"
    ),
)

WITNESS: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {(state.side, str(state.name)): state.witness for state in STATES}
)
"""By side and state; a caller's other ends rest on the worker's result, as `worker: ...`."""
