"""Arguments of the tools, and their schemas in the subset that every client takes.

Field names are those of the operations. Unknown arguments are errors.
"""

from typing import Annotated, Any, cast

from pydantic import Field

from cmesh.daemon.arguments import (
    ASKED_MOST,
    PARAMETERS_MOST,
    PEERS_MOST,
    WAIT_S,
    Arguments,
    CancelArguments,
    CheckPatchArguments,
    Condition,
    DelegateArguments,
    PeerName,
    PeerPlace,
    Prompt,
    ReplyArguments,
    ResultArguments,
    RunnerName,
    TaskArguments,
    TaskRef,
    TasksArguments,
)
from cmesh.daemon.setup_arguments import SetupCheckArguments

__all__ = [
    "Cancel",
    "CheckPatch",
    "Delegate",
    "GetResult",
    "GetTask",
    "ListTasks",
    "Query",
    "Reply",
    "SetupCheck",
    "is_group",
    "portable_schema",
]

DEFAULT_WAIT_S = 20
TaskOrGroup = Annotated[
    str,
    Field(
        min_length=4,
        max_length=36,
        pattern=r"^(g-)?[0-9a-f-]+$",
        description="the id, or the beginning of it; or a group, `g-…`",
    ),
]
SQL_ROWS = 200
FLEET_WAIT_S = 40
RESULT_LIMIT = 9_000


class Delegate(DelegateArguments):
    """Arguments of the tool `delegate`."""

    peer: Annotated[
        str, Field(max_length=253, description="a name or node_id from list_peers; or give `where`")
    ] = ""
    where: list[Condition] = Field(
        default_factory=list[Condition],
        max_length=16,
        description="instead of peer, conditions on `machine` of list_peers: `os=linux`, `docker`, "
        "`python>=3.11`, `memory>=16G`, `gpu`, `label=lab`; the answer says which was chosen, and why",
    )
    peers: list[PeerPlace] = Field(
        default_factory=list[PeerPlace],
        max_length=PEERS_MOST,
        description="instead of peer: a task for each of these, one group; `NAME:/directory` where "
        "a peer has another directory",
    )
    all: bool = Field(
        default=False, description="with where: a task for each peer that matches, one group"
    )
    prompt: Prompt = Field(
        min_length=1,
        max_length=20_000,
        description="the whole task: goal, context, what to report; the worker sees nothing else",
    )
    directory: str = Field(
        min_length=1,
        max_length=4096,
        description="absolute directory on the worker, inside one of the peer's paths",
    )
    runner: RunnerName = Field(
        default="claude",
        description="one of the peer's runners, as list_peers names them: "
        "an agent such as `claude` or `codex`, or `command:NAME`",
    )
    accept: list[str] = Field(
        default_factory=list[str],
        max_length=64,
        description='acceptance command as an argv, such as ["make", "test"], that the worker runs '
        "itself after the task where its rule lists it; empty = none",
    )
    timeout_s: int = Field(
        default=900, ge=1, le=14_400, description="seconds the task may run on the worker"
    )
    turns: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="answers of the worker's model at most; 0 = no limit",
    )
    wait_s: float = Field(
        default=DEFAULT_WAIT_S, ge=0, le=WAIT_S, description="seconds to wait here for its end"
    )
    idempotency_key: str = Field(
        default="", max_length=200, description="repeat a call with the same key to get its task"
    )


class Reply(ReplyArguments):
    """Arguments of the tool `reply_task`."""

    task_id: Annotated[TaskRef, Field(description="the last turn of the conversation")]
    prompt: Prompt = Field(
        min_length=1,
        max_length=20_000,
        description="what to do now; the worker's agent remembers the earlier turns",
    )
    timeout_s: int = Field(
        default=0, ge=0, le=14_400, description="seconds it may run, at most the task's; 0 = those"
    )
    wait_s: float = Field(
        default=DEFAULT_WAIT_S, ge=0, le=WAIT_S, description="seconds to wait here for its end"
    )
    idempotency_key: str = Field(
        default="", max_length=200, description="repeat a call with the same key to get its task"
    )


class GetTask(TaskArguments):
    """Arguments of the tool `get_task`."""

    task_id: TaskOrGroup
    wait_s: float = Field(
        default=DEFAULT_WAIT_S, ge=0, le=WAIT_S, description="seconds to wait for news"
    )
    after_event: int = Field(default=0, ge=0, description="events up to this number are known")


class ListTasks(TasksArguments):
    """Arguments of the tool `list_tasks`."""

    mine: bool = Field(default=True, description="only tasks of this agent session")
    limit: int = Field(default=20, ge=1, le=50)


class Cancel(CancelArguments):
    """Arguments of the tool `cancel_task`."""

    task_id: TaskOrGroup


class GetResult(ResultArguments):
    """Arguments of the tool `get_result`."""

    task_id: TaskOrGroup
    offset: int = Field(default=0, ge=0, description="character to begin at")
    limit: int = Field(default=8_000, ge=1, le=RESULT_LIMIT, description="characters at most")


class CheckPatch(CheckPatchArguments):
    """Arguments of the tool `check_patch`."""

    task_id: Annotated[TaskRef, Field(description="the id, or the beginning of it")]


class Query(Arguments):
    """Arguments of the tool `query`; parameters are text, as mixed types are not portable."""

    sql: str = Field(min_length=1, max_length=65_536, description="one SELECT (DuckDB dialect)")
    parameters: list[str] = Field(
        default_factory=list[str],
        max_length=PARAMETERS_MOST,
        description="values for `?`, in order, as text",
    )
    named: dict[str, str] = Field(
        default_factory=dict[str, str],
        max_length=PARAMETERS_MOST,
        description="instead: values for `$name`, by name, as text",
    )
    limit: int = Field(default=50, ge=1, le=SQL_ROWS, description="rows at most, of each node")
    peers: list[PeerName] = Field(
        default_factory=list[PeerName],
        max_length=ASKED_MOST,
        description="also run it on these peers; `all` alone = every trusted one",
    )
    local: bool = Field(default=True, description="with peers: this machine runs it too")
    timeout_s: float = Field(
        default=20, gt=0, le=FLEET_WAIT_S, description="with peers: how long each is waited for"
    )


class SetupCheck(SetupCheckArguments):
    """Arguments of the tool `setup_check`."""


def is_group(reference: str) -> bool:
    """Say whether a reference names a group and not a task."""
    return reference.startswith("g-")


def portable_schema(model: type[Arguments]) -> dict[str, Any]:
    """Return the model's JSON Schema in the subset that every client takes.

    No references, no unions with null, one enum for a union of enums, no titles.
    """
    schema = model.model_json_schema()
    definitions = cast("dict[str, dict[str, Any]]", schema.pop("$defs", {}))
    schema.pop("description", None)
    schema["properties"] = {
        name: _portable(field, definitions) for name, field in schema.get("properties", {}).items()
    }
    schema.pop("title", None)
    return schema


def _portable(field: dict[str, Any], definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    field = _resolved(field, definitions)
    options = [_resolved(option, definitions) for option in field.pop("anyOf", [])]
    options = [option for option in options if option.get("type") != "null"]
    if options:
        values = [value for option in options for value in _values(option)]
        field = {"type": "string", "enum": values} | field
    if field.get("default", ...) is None:
        del field["default"]
    if isinstance(field.get("items"), dict):
        field["items"] = _portable(field["items"], definitions)
    field.pop("title", None)
    return field


def _resolved(field: dict[str, Any], definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    reference = cast("str | None", field.get("$ref"))
    if reference is None:
        return dict(field)
    target = definitions[reference.rsplit("/", 1)[-1]]
    rest = {key: value for key, value in field.items() if key != "$ref"}
    return {key: value for key, value in target.items() if key != "description"} | rest


def _values(option: dict[str, Any]) -> list[str]:
    return cast("list[str]", option["enum"] if "enum" in option else [option["const"]])
