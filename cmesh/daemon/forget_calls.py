"""What `forget` and `compact_store` take and answer; what they do is `forgetting`."""

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, Field

from cmesh.daemon.answers import View
from cmesh.daemon.arguments import Arguments, PeerName, TaskRef

__all__ = [
    "CompactView",
    "ForgetArguments",
    "ForgetView",
    "ForgottenTaskView",
]


class ForgetArguments(Arguments):
    """Arguments of `forget`: one task, or every ended one of a peer or from before a time.

    `confirmed` empty = only look; else what the look has answered as `confirm`: only what was
    shown is forgotten.
    """

    task_id: TaskRef | None = None
    peer: PeerName | None = None
    ended_before: AwareDatetime | None = None
    confirmed: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""


class ForgottenTaskView(View):
    """A task whose texts go, or went."""

    task_id: str
    direction: str
    peer: str
    node_id: str
    state: str
    created_at: datetime
    rows: int


class ForgetView(View):
    """What is forgotten, or would be.

    `tasks`: the first of `count`. `open`: tasks that match and are left out, since they have not
    ended or their caller has not acknowledged the end. `confirm`: stands for exactly these tasks.
    `done`: false = only looked at, or still going on in the daemon. `not_compacted`: why erased
    texts are in the file's free blocks still; the daemon tries again.
    """

    tasks: list[ForgottenTaskView]
    count: int
    rows: int
    open: int = 0
    confirm: str = ""
    asked: bool = False
    done: bool = False
    files: int = 0
    file_bytes: int = 0
    compacted: bool = False
    not_compacted: str = ""


class CompactView(View):
    """The database's size before and after; `done` false = it goes on in the daemon."""

    done: bool
    bytes_before: int = 0
    bytes_after: int = 0
