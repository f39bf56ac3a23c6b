"""What a fleet query answers of each node. Fields are stable, as in `answers`."""

from typing import Literal

from cmesh.daemon.evidence_answers import View

__all__ = ["NodeState", "SqlNodeView"]

NodeState = Literal[
    "answered", "offline", "denied", "too_old", "timed_out", "failed", "over_limit", "bad_answer"
]


class SqlNodeView(View):
    """One node of a fleet query: whether it answered, and if not, why.

    `state`: `failed` = the statement is wrong there; `bad_answer` = what came was no answer and
    was not read. `scope`: `own` = rows of tasks that this node sent there, `all` = every row.
    `rows` and `bytes` are those of its file. `head_seq`, `head_hash`: its audit log as it was when
    the query came, signed by it. `elapsed_ms` is what the query took there by its own word, `ms`
    what all of it took as seen from here.
    """

    node: str
    node_id: str
    state: NodeState
    code: str = ""
    reason: str = ""
    hint: str = ""
    scope: Literal["own", "all", ""] = ""
    rows: int = 0
    bytes: int = 0
    truncated: bool = False
    head_seq: int = 0
    head_hash: str = ""
    elapsed_ms: float = 0
    ms: float = 0
