"""What both ends of the control socket agree on: hello, operations, limits, error bodies.

Pure. JSON lines in UTF-8 on a stream. It is no public interface: both ends
come from one installation, and another version is refused at the hello.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from cmesh.daemon.arguments import (
    ApproveArguments,
    Arguments,
    ArtifactArguments,
    CancelArguments,
    CancelGroupArguments,
    CheckPatchArguments,
    CopyArguments,
    DelegateArguments,
    ExplainArguments,
    FanOutArguments,
    GroupArguments,
    LiveRunArguments,
    LoginArguments,
    NewRunnerArguments,
    NoArguments,
    PatchArguments,
    ReleaseArguments,
    ReplyArguments,
    ResultArguments,
    RunnerArguments,
    SqlArguments,
    TaskArguments,
    TasksArguments,
    TrustArguments,
    UntrustArguments,
)
from cmesh.daemon.changes import ChangesArguments
from cmesh.daemon.forget_calls import ForgetArguments
from cmesh.daemon.history_calls import FiguresArguments, FindArguments, RecordArguments
from cmesh.daemon.pair_calls import PairArguments, PairRulesArguments, UnpairArguments
from cmesh.daemon.proof_calls import ProofArguments
from cmesh.daemon.review_calls import ReviewArguments
from cmesh.daemon.setup_arguments import (
    SetupCheckArguments,
    SetupConfirmArguments,
    SetupStepArguments,
    SetupUndoArguments,
)
from cmesh.errors import CmeshError, by_code
from cmesh.text import one_line

__all__ = [
    "ANSWER_BYTES",
    "CONTROL_VERSION",
    "OPERATIONS",
    "REQUEST_BYTES",
    "Hello",
    "error_body",
    "error_from",
]

CONTROL_VERSION = 1

REQUEST_BYTES = 1024 * 1024
"""The longest line a client may send."""

ANSWER_BYTES = 32 * 1024 * 1024
"""The longest line the daemon sends; only `sql` and a patch come near."""

OPERATIONS: Mapping[str, type[Arguments]] = MappingProxyType(
    {
        "status": NoArguments,
        "list_peers": NoArguments,
        "trust_peer": TrustArguments,
        "untrust_peer": UntrustArguments,
        "setup_check": SetupCheckArguments,
        "setup_step": SetupStepArguments,
        "setup_undo": SetupUndoArguments,
        "setup_pending": NoArguments,
        "setup_confirm": SetupConfirmArguments,
        "pair": PairArguments,
        "pair_rules": PairRulesArguments,
        "unpair": UnpairArguments,
        "delegate": DelegateArguments,
        "fan_out": FanOutArguments,
        "get_group": GroupArguments,
        "cancel_group": CancelGroupArguments,
        "reply_task": ReplyArguments,
        "get_task": TaskArguments,
        "list_tasks": TasksArguments,
        "changes": ChangesArguments,
        "find_tasks": FindArguments,
        "get_record": RecordArguments,
        "figures": FiguresArguments,
        "get_result": ResultArguments,
        "get_patch": PatchArguments,
        "get_artifact": ArtifactArguments,
        "check_patch": CheckPatchArguments,
        "cancel_task": CancelArguments,
        "approve_task": ApproveArguments,
        "release": ReleaseArguments,
        "forget": ForgetArguments,
        "compact_store": NoArguments,
        "sql": SqlArguments,
        "explain": ExplainArguments,
        "review_policy": ReviewArguments,
        "list_runners": NoArguments,
        "check_runner": RunnerArguments,
        "new_runner": NewRunnerArguments,
        "keep_login": LoginArguments,
        "drop_login": LoginArguments,
        "test_runner": LiveRunArguments,
        "diagnose": NoArguments,
        "login": NoArguments,
        "down": NoArguments,
        "copy_store": CopyArguments,
        "ask_proof": ProofArguments,
        "hand_over": NoArguments,
    }
)
"""Every operation a client may call: the methods of `Operations` and their arguments."""

MESSAGE_CHARACTERS = 4_000


class Hello(BaseModel):
    """The first line of a connection; the pid in it is only what the client says."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    v: int
    kind: Literal["cli", "mcp"]
    pid: int = 0
    cwd: str = Field(default="", max_length=4096)
    session: str = Field(default="", max_length=128)
    agent: str = Field(default="", max_length=128)


def error_body(error: CmeshError) -> dict[str, object]:
    """Return what stands under `error`, on the socket and in `--json` (there without status)."""
    body: dict[str, object] = {
        "code": error.code,
        "message": one_line(error.message, MESSAGE_CHARACTERS),
        "hint": error.hint,
        "exit_status": error.exit_status,
    }
    if error.retry_after_s is not None:
        body["retry_after_s"] = error.retry_after_s
    return body


def error_from(body: object) -> CmeshError:
    """Return the error of a body; a code this version does not know keeps its text."""
    fields: dict[str, object] = {}
    if isinstance(body, dict):
        fields = cast("dict[str, object]", body)
    cls = by_code(str(fields.get("code", "")))
    after_s = fields.get("retry_after_s")
    return cls(
        str(fields.get("message", "the daemon failed")),
        hint=str(fields.get("hint", "")),
        retry_after_s=after_s if isinstance(after_s, int) else None,
    )
