"""A request that one rule allows, and builders that change one thing about either."""

from dataclasses import replace
from typing import Any

from cmesh.model import Identity, NodeId, Operation, Profile
from cmesh.policy.decide import InboundRequest, OutboundRequest
from cmesh.policy.rules import (
    CAPABILITY_PREFIX,
    InboundRule,
    OutboundRule,
    Policy,
    Selector,
)

LAPTOP = NodeId("nLAPTOP")
WORKER = NodeId("nWORKER")
THIRD = NodeId("nTHIRD")
ALICE = "alice@example.com"

ANY = Selector(kind="any", value="")


def node(value: str = LAPTOP) -> Selector:
    return Selector(kind="node", value=value)


def user(value: str = ALICE) -> Selector:
    return Selector(kind="user", value=value)


def tag(value: str = "laptop") -> Selector:
    return Selector(kind="tag", value=value)


def grant(value: str = "build") -> Selector:
    return Selector(kind="grant", value=value)


def who(**changes: Any) -> Identity:
    return replace(Identity(node_id=LAPTOP, name="laptop.tail.example", user=ALICE), **changes)


def granted(*values: object, name: str = "build", **changes: Any) -> Identity:
    return who(capabilities={CAPABILITY_PREFIX + name: values}, **changes)


def asks(**changes: Any) -> InboundRequest:
    request = InboundRequest(
        identity=who(),
        operation=Operation.TASK,
        profile=Profile.QUERY,
        runner="claude",
        directory="/srv/myapp",
        accept=(),
        runtime_s=600,
        output_bytes=1_000_000,
        cost_usd=None,
        running=0,
        today=0,
        reports_cost=True,
        chain=(),
        self_id=WORKER,
    )
    return replace(request, **changes)


def allow(**changes: Any) -> InboundRule:
    rule = InboundRule(
        name="laptop may ask",
        effect="allow",
        peers=(node(),),
        operations=(Operation.TASK,),
        profiles=(Profile.QUERY,),
        runners=("claude",),
        paths=("/srv/myapp",),
    )
    return replace(rule, **changes)


def deny(**changes: Any) -> InboundRule:
    return replace(InboundRule(name="never", effect="deny", peers=(ANY,)), **changes)


def sends(**changes: Any) -> OutboundRequest:
    request = OutboundRequest(
        identity=who(node_id=WORKER, name="worker.tail.example"),
        profile=Profile.QUERY,
        runner="claude",
        project="/home/alice/src/myapp",
        prompt_bytes=100,
        sends_changes=False,
        chain=(),
        self_id=LAPTOP,
    )
    return replace(request, **changes)


def out_allow(**changes: Any) -> OutboundRule:
    rule = OutboundRule(
        name="ask the worker", effect="allow", peers=(node(WORKER),), profiles=(Profile.QUERY,)
    )
    return replace(rule, **changes)


def out_deny(**changes: Any) -> OutboundRule:
    return replace(OutboundRule(name="never", effect="deny", peers=(ANY,)), **changes)


def inbound(*rules: InboundRule) -> Policy:
    return Policy.of(inbound=rules)


def outbound(*rules: OutboundRule) -> Policy:
    return Policy.of(outbound=rules)
