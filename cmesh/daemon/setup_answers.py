"""What the wizard's operations answer.

Names and texts of other machines stand in `peers` and `tailscale`; interfaces fence them.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from cmesh.daemon.answers import View

__all__ = [
    "AgentFactView",
    "NextView",
    "PlanView",
    "SetupChangeView",
    "SetupPeerView",
    "SetupPendingView",
    "SetupRunnerView",
    "SetupStepView",
    "SetupView",
    "SystemTailscaleView",
    "UnitView",
]


class SetupStepView(View):
    """One step of the wizard, and on what it rests that it is done.

    `offered`: it can be taken here, and was not declined.
    """

    name: str
    done: bool
    what: str = ""
    offered: bool = True


class NextView(View):
    """The one call that comes next, and what a person does meanwhile; empty = nothing."""

    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict[str, Any])
    user: str = ""


class AgentFactView(View):
    """A coding agent here: whether cmesh is among its MCP servers."""

    name: str
    state: Literal["ours", "outdated", "foreign", "missing", "unreadable"]
    note: str = ""


class SetupRunnerView(View):
    """An agent here as a worker; `obstacle` says what it lacks."""

    name: str
    program: str = ""
    version: str = ""
    ready: bool = False
    needs_key: bool = False
    obstacle: str = ""


class SetupPeerView(View):
    """Another machine. `asks`, `works`: a rule here lets this one ask it, or work for it."""

    name: str
    node_id: str
    online: bool = False
    is_cmesh: bool | None = None
    linked: bool = False
    trust: Literal["trusted", "waiting", "changed", "unknown"] = "unknown"
    fingerprint: str = ""
    asks: bool = False
    works: bool = False
    may_ask: list[str] = Field(default_factory=list[str])


class SystemTailscaleView(View):
    """A Tailscale of the system's own: neither used nor changed. `peers` are candidates by name."""

    state: str = ""
    name: str = ""
    control_url: str = ""
    readable: bool = False
    peers: list[str] = Field(default_factory=list[str])


class UnitView(View):
    """The unit of a service manager that the terminal writes, or takes away, when it is confirmed.

    `text`: of the file; empty = it is taken away.
    """

    file: str
    text: str = ""


class PlanView(View):
    """A change: what it does to the file, and every side effect.

    `state`: `waiting` for its person; `applied`; `confirmed` = the terminal that confirmed it does
    the rest; `nothing` to change; `dry_run`; `declined`. `plan_id` names it and authorises nothing. `widens`: what is allowed afterwards that was not.
    `notes`: what a part of it met when it was applied.
    """

    plan_id: str = ""
    step: str
    title: str
    state: Literal["waiting", "applied", "confirmed", "nothing", "dry_run", "declined"]
    file: str = ""
    diff: str = ""
    effects: list[str] = Field(default_factory=list[str])
    widens: list[str] = Field(default_factory=list[str])
    unit: UnitView | None = None
    expires_at: datetime | None = None
    notes: list[str] = Field(default_factory=list[str])


class SetupView(View):
    """What this machine is, which steps are done, and the next call."""

    os: str
    arch: str
    host: str
    phase: Literal["setup", "starting", "login", "up", "down", "failed"]
    node: str = ""
    tailnet: str = ""
    testnet: bool = False
    login_url: str = ""
    control_url: str = ""
    fingerprint: str = ""
    config_file: str
    problem: str = ""
    keep_text: str = ""
    sandbox: str = ""
    agents: list[AgentFactView] = Field(default_factory=list[AgentFactView])
    runners: list[SetupRunnerView] = Field(default_factory=list[SetupRunnerView])
    peers: list[SetupPeerView] = Field(default_factory=list[SetupPeerView])
    tailscale: SystemTailscaleView | None = None
    steps: list[SetupStepView] = Field(default_factory=list[SetupStepView])
    waiting: PlanView | None = None
    next: NextView


class SetupChangeView(View):
    """A change that was planned, applied or declined, and the next call."""

    plan: PlanView
    next: NextView


class SetupPendingView(View):
    """The change that waits, for the terminal that shows it; `sha256` covers all that is shown.

    `asked_by`: the agent that planned it, as it calls itself. `by_code`: node id of the machine
    that a code has to prove before the change is applied; empty = none.
    """

    plan: PlanView | None = None
    sha256: str = ""
    asked_by: str = ""
    by_code: str = ""
