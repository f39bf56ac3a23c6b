"""What the daemon answers about runners: as each acts here, and what a check of one found.

Fields are stable; new ones may be added. How they are filled: `runner_views`.
"""

from datetime import datetime
from typing import Literal

from pydantic import Field

from cmesh.daemon.answers import View

__all__ = [
    "AccountView",
    "CheckItem",
    "CheckView",
    "LiveRunView",
    "LoginView",
    "ManifestView",
    "NewRunnerView",
    "RunnerView",
    "RunnersView",
    "SelfTestView",
]


class SelfTestView(View):
    """What is known of a program by its self-test on this machine.

    `state`: `none` = this runner has none; `pending` = not run yet for the program as it is now;
    `passed`; `failed`, with the traps that worked in `sprung`; `unable`, and why in `reason`.
    `running`: it is being run just now. `at`: when the verdict was made.
    """

    state: Literal["none", "pending", "passed", "failed", "unable"] = "none"
    sprung: list[str] = Field(default_factory=list[str])
    reason: str = ""
    at: str = ""
    running: bool = False


class ManifestView(View):
    """Whose a runner's manifest is.

    `file`: the owner's; empty = it comes with cmesh. `replaces`: that file stands in the place of
    one that comes with cmesh. `problem`: why it is not in force, so that its runner is not there.
    """

    file: str = ""
    replaces: bool = False
    problem: str = ""


class AccountView(View):
    """How a runner's own login is started, at its owner's terminal.

    `argv` and `env` start it; `home` is a private directory to be made for it. `prints`: it prints
    a token at its end, which is to stand in the file `printed` there.
    """

    argv: list[str]
    env: dict[str, str] = Field(default_factory=dict[str, str])
    home: str
    prints: bool = False


class LoginView(View):
    """What became of a login.

    `expires_at`: when its owner must log in again, if that is known; `renews`: the daemon renews it until then. `note`: why it does not count now.
    """

    name: str
    kept: bool
    deleted: bool = False
    file: str = ""
    expires_at: datetime | None = None
    renews: bool = False
    note: str = ""


class RunnerView(View):
    """One runner as it acts on this machine.

    `wanted`: the configuration or a rule names it. `profiles`: those that it would run in now;
    `refused`: why it does not run in those with a sandbox. `reason` and `hint`: why it is not
    available at all. `argv`: by profile; values of a task stand as `{name}`. `env`: names of
    variables beside PATH, LANG, HOME and TMPDIR. `tried`: the versions of the manifest.
    `login`: `key`, or `account` with `expires_at`, when its owner must log in again, and `renews`;
    empty = none is there. `account`: how it is logged in with one; None = it cannot be.
    `credential`: `none`; `gateway` = the daemon adds the key, and a task in a sandbox never holds
    it; `exposed` = a task can read it, as every task of `full` can. `takes_key`: it needs a key of
    its own.
    """

    name: str
    wanted: bool = False
    available: bool = False
    program: str = ""
    version: str = ""
    tried: str = ""
    credential: str = ""
    takes_key: bool = False
    login: Literal["", "key", "account"] = ""
    expires_at: datetime | None = None
    renews: bool = False
    account: AccountView | None = None
    profiles: list[str] = Field(default_factory=list[str])
    refused: str = ""
    reason: str = ""
    hint: str = ""
    argv: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])
    hosts: list[str] = Field(default_factory=list[str])
    base_url: str = ""
    env: list[str] = Field(default_factory=list[str])
    follow_up: bool = False
    reports_cost: bool = False
    reports: list[str] = Field(default_factory=list[str])
    self_test: SelfTestView = SelfTestView()
    manifest: ManifestView = ManifestView()


class RunnersView(View):
    """Every runner that this machine knows."""

    runners: list[RunnerView] = Field(default_factory=list[RunnerView])


class CheckItem(View):
    """One thing that was looked at; `next` is the next step when it is not as it should be."""

    what: Literal["manifest", "program", "key", "login", "version", "sandbox", "self-test"]
    ok: bool
    found: str = ""
    next: str = ""


class CheckView(View):
    """What a check of one runner found; `ok` = it can run tasks in a sandbox."""

    name: str
    ok: bool
    items: list[CheckItem] = Field(default_factory=list[CheckItem])
    self_test: SelfTestView = SelfTestView()


class NewRunnerView(View):
    """A manifest that was written for the owner to edit.

    `program`: what it would start here; empty = that is not on this machine. `copied`: it is the
    one that comes with cmesh, and now stands in its place. `next`: what to do, in this order.
    """

    name: str
    file: str
    program: str = ""
    copied: bool = False
    next: list[str] = Field(default_factory=list[str])


class LiveRunView(View):
    """What a live run of a runner brought back; `text` and `error` are the agent's words.

    `ok`: it ended well, and its last line is the word that it was asked for. `profile`: `query`, or `full` without a sandbox. `credential`: as in
    `RunnerView`, for this run. `seconds`: from its start to its end. `tokens_in`, `tokens_out`,
    `cost_usd`: as far as the agent says.
    """

    name: str
    ok: bool
    profile: str
    version: str = ""
    credential: str = ""
    enforcement: str = ""
    text: str = ""
    error: str = ""
    seconds: float = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: float | None = None
