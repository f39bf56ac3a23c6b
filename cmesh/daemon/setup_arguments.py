"""What the wizard's operations take."""

from typing import Annotated, Literal

from pydantic import Field

from cmesh.daemon.arguments import WAIT_S, Arguments

__all__ = [
    "SetupCheckArguments",
    "SetupConfirmArguments",
    "SetupStepArguments",
    "SetupUndoArguments",
]

_Line = Annotated[str, Field(max_length=2048, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Name = Annotated[str, Field(max_length=80, pattern=r"^[A-Za-z0-9:._-]*$")]
_KeepText = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,4}d|forever)?$")]
_PlanId = Annotated[str, Field(pattern=r"^s-[0-9a-f]{8}$")]


class SetupCheckArguments(Arguments):
    """Arguments of `setup_check`: waits up to `wait_s` for something to change."""

    wait_s: float = Field(
        default=0, ge=0, le=WAIT_S, description="seconds to wait for the user, or another machine"
    )


class SetupStepArguments(Arguments):
    """Arguments of `setup_step`: a step, and what is wished of it; empty = its default."""

    step: Literal["machine", "agents", "peer", "pair", "service"] = Field(
        description="machine = name, tailnet, how long texts are kept; agents = register cmesh "
        "with the coding agents here; pair = ask another machine, or work for it, once a code that "
        "the user carries over has proved its key; peer = the same, the user compares fingerprints; "
        "service = systemd keeps cmesh running without a session"
    )
    name: _Line = Field(default="", description="machine: this machine's name on the tailnet")
    control_url: _Line = Field(
        default="", description="machine: a control server such as Headscale; empty = Tailscale"
    )
    auth_key_file: _Line = Field(
        default="", description="machine: file with an auth key, for a machine without a person"
    )
    keep_text: _KeepText = Field(
        default="", description="machine: how long prompts and outputs are kept: 30d, forever"
    )
    agents: list[_Name] = Field(
        default_factory=list[str],
        max_length=16,
        description="agents: those to register, as setup_check names them; empty = all; "
        '["none"] = none, and do not ask again',
    )
    peer: _Line = Field(default="", description="pair, peer: a name or node_id from setup_check")
    allow: Literal["ask", "work", "both"] | None = Field(
        default=None,
        description="pair, peer: ask = agents here may ask it; work = it may ask this machine; both",
    )
    directory: _Line = Field(
        default="", description="pair, peer, work: the one directory here that it may ask about"
    )
    runners: list[_Name] = Field(
        default_factory=list[str],
        max_length=16,
        description="pair, peer, work: runners here that may work for it; empty = all that are ready",
    )
    repository: _Line = Field(
        default="", description="pair, peer, ask: the directory here from which it may be asked"
    )
    dry_run: bool = Field(default=False, description="show the change, let nothing wait")


class SetupUndoArguments(Arguments):
    """Arguments of `setup_undo`: the newest applied change, or the newest of one step."""

    step: Literal["machine", "agents", "peer", "pair", "service"] | None = Field(
        default=None, description="the step to take back; empty = the newest change"
    )


class SetupConfirmArguments(Arguments):
    """Arguments of `setup_confirm`: a person's word on the change that was shown, by its digest.

    `by_form`: an agent's program says that a person gave it there.
    """

    plan_id: _PlanId
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    accept: bool
    by_form: bool = False
