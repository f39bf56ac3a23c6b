"""The operation `ask_proof`: one question to a peer about the logs of both, and its answer."""

from pydantic import Field

from cmesh.daemon.answers import View
from cmesh.daemon.arguments import Arguments, PeerName
from cmesh.model import TaskId
from cmesh.protocol.proof_messages import ASKED_HEADS_MOST, AskedHead, ProofAnswer

__all__ = ["ProofArguments", "ProofView"]


class ProofArguments(Arguments):
    """Arguments of `ask_proof`: `rows` asks for those, `task_id` for an end, else for a page.

    Attributes:
        after: the page begins after this row of the peer's.
    """

    peer: PeerName
    after: int = Field(default=0, ge=0, le=2**53)
    rows: tuple[AskedHead, ...] = Field(default=(), max_length=ASKED_HEADS_MOST)
    task_id: TaskId | None = None


class ProofView(View):
    """What a peer answered, and who it is by the tailnet and by the key it has proved."""

    node_id: str
    name: str
    key: str
    answer: ProofAnswer
