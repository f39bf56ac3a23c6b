"""What `review_policy` takes and answers: the rules in force, and who may do what by them.

Fields are stable; new ones may be added. For this machine's owner: nothing of it is hidden.
"""

from typing import Literal

from pydantic import Field

from cmesh.daemon.answers import View
from cmesh.daemon.arguments import Arguments
from cmesh.model import Profile

__all__ = [
    "CellView",
    "MayView",
    "PolicyReview",
    "ReviewArguments",
    "RuleView",
]

Effect = Literal["allow", "ask", "deny"]


class ReviewArguments(Arguments):
    """Arguments of `review_policy`; empty = the first directory that a rule opens."""

    directory: str = Field(default="", max_length=4096)


class RuleView(View):
    """A rule of `config.toml`, in words; `line` 0 = not known."""

    direction: Literal["inbound", "outbound"]
    effect: Literal["allow", "deny"]
    name: str
    line: int = 0
    says: str
    more: list[str] = Field(default_factory=list[str])


class CellView(View):
    """What the rules say to a task of one profile by one runner; `rule` empty = none decided it."""

    profile: Profile
    runner: str
    effect: Effect
    rule: str = ""
    reason: str = ""


class MayView(View):
    """A peer, and what it may do here.

    `trust`: of its key, without which nothing is done for it whatever the rules say. `unknown`:
    whois does not answer for it, so there are no cells and everything is denied. `sees`: what a
    query of the audit answers it with, by `sees_rule`.
    """

    name: str
    node_id: str
    user: str = ""
    tags: list[str] = Field(default_factory=list[str])
    online: bool = False
    trust: Literal["trusted", "waiting", "changed", "unknown"] = "unknown"
    unknown: str = ""
    cells: list[CellView] = Field(default_factory=list[CellView])
    sees: Literal["nothing", "own", "all"] = "nothing"
    sees_rule: str = ""


class PolicyReview(View):
    """The rules in force and who may do what by them.

    `problem`: why no rule is in force, or why peers cannot be named; empty = nothing. `directory`
    is what the cells are about, with its links resolved; `directories` are those that rules open.
    `runners`: those that a rule opens to somebody. `more`: peers that are left out, those whose
    key is trusted come first.
    """

    file: str
    configured: bool = True
    sha256: str = ""
    problem: str = ""
    rules: list[RuleView] = Field(default_factory=list[RuleView])
    directory: str = ""
    directories: list[str] = Field(default_factory=list[str])
    runners: list[str] = Field(default_factory=list[str])
    peers: list[MayView] = Field(default_factory=list[MayView])
    more: int = 0
