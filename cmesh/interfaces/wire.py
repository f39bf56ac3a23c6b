"""What both ends of the control socket agree on: hello, operations, limits, error bodies.

Pure. JSON lines in UTF-8 on a stream. It is no public interface: both ends
come from one installation, and another version is refused at the hello.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cmesh.daemon.operations import (
    ApproveArguments,
    Arguments,
    CancelArguments,
    DelegateArguments,
    ExplainArguments,
    NoArguments,
    ResultArguments,
    SqlArguments,
    TaskArguments,
    TasksArguments,
    TrustArguments,
)
from cmesh.errors import CmeshError, UsageError, by_code
from cmesh.text import one_line

__all__ = [
    "ANSWER_BYTES",
    "CONTROL_VERSION",
    "OPERATIONS",
    "REQUEST_BYTES",
    "Hello",
    "error_body",
    "error_from",
    "usage_error",
]

CONTROL_VERSION = 1

REQUEST_BYTES = 1024 * 1024
"""The longest line a client may send."""

ANSWER_BYTES = 32 * 1024 * 1024
"""The longest line the daemon sends; only `sql` comes near."""

OPERATIONS: Mapping[str, type[Arguments]] = MappingProxyType(
    {
        "status": NoArguments,
        "list_peers": NoArguments,
        "trust_peer": TrustArguments,
        "delegate": DelegateArguments,
        "get_task": TaskArguments,
        "list_tasks": TasksArguments,
        "get_result": ResultArguments,
        "cancel_task": CancelArguments,
        "approve_task": ApproveArguments,
        "sql": SqlArguments,
        "explain": ExplainArguments,
        "login": NoArguments,
        "down": NoArguments,
    }
)
"""Every operation a client may call: the methods of `Operations` and their arguments."""

_SHOWN_PROBLEMS = 3


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
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "exit_status": error.exit_status,
    }


def error_from(body: object) -> CmeshError:
    """Return the error of a body; a code this version does not know keeps its text."""
    fields: dict[str, object] = {}
    if isinstance(body, dict):
        fields = cast("dict[str, object]", body)
    cls = by_code(str(fields.get("code", "")))
    return cls(str(fields.get("message", "the daemon failed")), hint=str(fields.get("hint", "")))


def usage_error(error: ValidationError) -> UsageError:
    """Return the short form of a failed validation: places and reasons, never the values."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    shown: list[str] = []
    for problem in problems[:_SHOWN_PROBLEMS]:
        place = ".".join(str(part) for part in problem["loc"])
        shown.append(f"`{one_line(place, 80)}`: {_decapitalised(problem['msg'])}")
    if len(problems) > _SHOWN_PROBLEMS:
        shown.append(f"and {len(problems) - _SHOWN_PROBLEMS} more")
    return UsageError("; ".join(shown) or "the arguments are not valid")


def _decapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]
