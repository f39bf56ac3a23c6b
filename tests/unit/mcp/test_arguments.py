"""Tool arguments are those of the operations, in the portable subset of JSON Schema."""

from typing import Any, Literal, cast

import pytest
from pydantic import Field

from cmesh.daemon import arguments as operations
from cmesh.daemon import setup_arguments as setup
from cmesh.daemon.arguments import Arguments
from cmesh.interfaces.mcp.arguments import portable_schema
from cmesh.interfaces.mcp.tools import TOOLS
from cmesh.model import Profile

OPERATION_ARGUMENTS = {
    "list_peers": operations.NoArguments,
    "delegate": operations.DelegateArguments,
    "reply_task": operations.ReplyArguments,
    "get_task": operations.TaskArguments,
    "get_result": operations.ResultArguments,
    "check_patch": operations.CheckPatchArguments,
    "list_tasks": operations.TasksArguments,
    "cancel_task": operations.CancelArguments,
    "query": operations.SqlArguments,
    "cmesh_status": operations.NoArguments,
    "setup_check": setup.SetupCheckArguments,
    "setup_step": setup.SetupStepArguments,
    "setup_undo": setup.SetupUndoArguments,
}


class Odd(Arguments):
    """Everything that has to be made portable."""

    maybe: Profile | None = None
    either: Profile | Literal["any"] = "any"
    several: list[Profile] = Field(default_factory=list[Profile])
    number: int


def test_unions_become_one_enum_and_references_go() -> None:
    properties = portable_schema(Odd)["properties"]
    profiles = [str(profile) for profile in Profile]
    assert properties["maybe"] == {"type": "string", "enum": profiles}
    assert properties["either"] == {"type": "string", "enum": [*profiles, "any"], "default": "any"}
    assert properties["several"]["items"] == {"type": "string", "enum": profiles}
    assert properties["number"] == {"type": "integer"}


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_takes_what_its_operation_takes(name: str) -> None:
    taken = set(TOOLS[name].arguments.model_fields)
    if name == "delegate":  # of one peer or of several: two operations
        taken -= {"peers", "all"}
    if name == "query":  # values in order or by name: the operation has one argument for both
        taken -= {"named"}
    assert taken == set(OPERATION_ARGUMENTS[name].model_fields)


def test_null_is_no_harm_where_a_client_sends_it() -> None:
    value = cast("Any", {"number": 1, "maybe": None})
    assert Odd.model_validate(value).maybe is None
