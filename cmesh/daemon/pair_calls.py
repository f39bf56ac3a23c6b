"""What the operations of a pairing take and answer; what they do is `pairings` and `pair_rules`.

A code stands in an answer of the control socket alone: no MCP tool leads there.
"""

from typing import Annotated, Literal

from pydantic import Field

from cmesh.daemon.answers import View
from cmesh.daemon.arguments import WAIT_S, Arguments, PeerName, RunnerName
from cmesh.daemon.pair_attempt import Phase

__all__ = [
    "PairArguments",
    "PairRuleView",
    "PairRulesArguments",
    "PairRulesView",
    "PairView",
    "UnpairArguments",
]


class PairArguments(Arguments):
    """Arguments of `pair`.

    `peer` empty = who has asked for it last. `step`: `begin` starts a pairing or takes up the one
    that is under way; `look` waits up to `wait_s` for a change, or not when what is known of it, phase
    and tries, is not so any more; `code` tries a typed code; `offer` asks the other machine whether
    its owner has said by now what may be asked there; `stop` ends it. `directory`, `runners`: of `begin`, what the peer is to be allowed
    here, see `PairRulesArguments`: where that cannot be, nothing is begun.
    """

    peer: Annotated[str, Field(max_length=253)] = ""
    step: Literal["begin", "look", "code", "offer", "stop"] = "begin"
    directory: Annotated[str, Field(max_length=4096)] = ""
    runners: Annotated[list[RunnerName], Field(max_length=32)] = Field(default_factory=list[str])
    code: Annotated[str, Field(max_length=64)] = ""
    known_phase: Phase | None = None
    known_tries: int | None = None
    wait_s: Annotated[float, Field(ge=0, le=WAIT_S)] = 0


class PairView(View):
    """A pairing as it stands here.

    `phase`: `looking` = the other machine is being asked; `showing` = `code` is to be typed there;
    `typing` = its code is to be typed here; `confirmed` = a person has confirmed both keys;
    `ended`, and why in `reason`. `note`: why the other machine cannot be asked at the
    moment. `gives_nothing`: the other machine's owner has said that this one may ask for nothing
    there. `shared`, `router`: the peer is a node of another tailnet, or routes subnets.
    `cannot_work`: why a task of the peer could not run here, whatever is allowed.
    """

    peer: str
    node_id: str
    user: str = ""
    phase: Phase
    code: str = ""
    tries_left: int = 0
    expires_s: float = 0.0
    fingerprint: str = Field(default="", description="of the peer's key, once it is confirmed")
    own_fingerprint: str = ""
    reason: str = ""
    note: str = ""
    gives_nothing: bool = False
    shared: bool = False
    router: bool = False
    cannot_work: str = ""


class PairRulesArguments(Arguments):
    """Arguments of `pair_rules`: what a paired peer may ask here, and whether it may be asked.

    `directory`: the one that the peer may ask about; empty = it may ask for nothing. `runners`:
    who may work for it; empty = every one that can here. `ask`: this machine may ask the peer.
    `shared`, `router`: that the person was told this of the peer, see `PairView`: a rule for such a
    peer says so, and is not written unseen. `write` false only shows the rules.
    """

    peer: PeerName
    directory: Annotated[str, Field(max_length=4096)] = ""
    runners: Annotated[list[RunnerName], Field(max_length=32)] = Field(default_factory=list[str])
    ask: bool = False
    shared: bool = False
    router: bool = False
    write: bool = False


class PairRuleView(View):
    """One rule of a pairing.

    `state`: `new`; `written`; `there` = `allowed_by`, a rule in force, says it already; `removed`;
    `gone` = it was not there any more; `changed` since it was written, so that it is left as it is.
    """

    direction: Literal["inbound", "outbound"]
    name: str
    text: str = ""
    state: Literal["new", "written", "there", "removed", "gone", "changed"] = "new"
    allowed_by: str = ""


class PairRulesView(View):
    """The rules of a pairing, in `file`."""

    peer: str
    node_id: str
    file: str
    rules: list[PairRuleView] = Field(default_factory=list[PairRuleView])


class UnpairArguments(Arguments):
    """Arguments of `unpair`: takes out the rules that a pairing has written, and nothing else."""

    peer: PeerName
    write: bool = False
