"""What holds of every policy and every request, not only of those someone thought of."""

from dataclasses import replace
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from cmesh.model import Identity, NodeId, Operation, Profile
from cmesh.policy.decide import (
    Decision,
    InboundRequest,
    OutboundRequest,
    decide_inbound,
    decide_outbound,
    may,
)
from cmesh.policy.explain import explain, for_remote
from cmesh.policy.rules import (
    CAPABILITY_PREFIX,
    FULL_CONSENT,
    RUN_OPERATIONS,
    InboundRule,
    OutboundRule,
    Policy,
    RuleLimits,
    Selector,
)
from cmesh.text import scrub

T = TypeVar("T")

# No deadline: other work on the machine is no fault of the policy.
SOME = settings(max_examples=80, deadline=None)
MORE = settings(max_examples=300, deadline=None)

# Few values of each kind, so that rules and requests meet often.
NODES = st.sampled_from([NodeId("nA"), NodeId("nB"), NodeId("nME")])
USERS = st.sampled_from(["", "a@x", "b@x", "tagged-devices", "tag:t"])
TAGS = st.sampled_from(["tag:t", "tag:u", "a@x"])
RUNNERS = st.sampled_from(["", "claude", "command", "command:x"])
PATHS = st.sampled_from(["", "/", "/a", "/a/b", "/ab", "/a/b/c", "a", "/a/..", "/a/../b"])
OPERATIONS = st.sampled_from(list(Operation))
PROFILES = st.sampled_from(list(Profile))
ARGV = st.sampled_from([(), ("make",), ("make", "test")])
COUNTS = st.integers(0, 3)
MONEY = st.none() | st.sampled_from([0.5, 1.0, float("nan"), float("inf"), -1.0])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
GRANT_LISTS = {
    "operations": st.lists(OPERATIONS.map(str), max_size=3),
    "profiles": st.lists(PROFILES.map(str), max_size=3),
    "runners": st.lists(RUNNERS, max_size=3),
    "paths": st.lists(PATHS, max_size=3),
}
GRANT_VALUES = st.fixed_dictionaries({}, optional=GRANT_LISTS)


def tuples(values: st.SearchStrategy[T], least: int = 0) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(values, min_size=least, max_size=3).map(tuple)


SELECTORS = st.one_of(
    st.just(Selector(kind="any", value="")),
    NODES.map(lambda value: Selector(kind="node", value=value)),
    USERS.map(lambda value: Selector(kind="user", value=value)),
    st.sampled_from(["t", "u"]).map(lambda value: Selector(kind="tag", value=value)),
    st.sampled_from(["g", "h"]).map(lambda value: Selector(kind="grant", value=value)),
)
IDENTITIES = st.builds(
    Identity,
    node_id=NODES,
    name=st.text(max_size=10),
    user=USERS | st.text(max_size=5),
    tags=tuples(TAGS),
    expired=st.sampled_from([False, False, False, True]),
    shared=st.booleans(),
    router=st.booleans(),
    ephemeral=st.booleans(),
    capabilities=st.dictionaries(
        st.sampled_from([CAPABILITY_PREFIX + "g", CAPABILITY_PREFIX + "h", "other"]),
        tuples(GRANT_VALUES | JSON),
        max_size=2,
    ),
)
LIMITS = st.builds(
    RuleLimits,
    runtime_s=st.none() | st.integers(1, 100),
    concurrent=st.none() | st.integers(1, 3),
    per_day=st.none() | st.integers(1, 3),
    cost_usd=st.none() | st.sampled_from([0.5, 2.0]),
    output_bytes=st.none() | st.integers(0, 100),
)
INBOUND_ALLOW = st.builds(
    InboundRule,
    name=st.sampled_from(["p", "q", "r"]),
    effect=st.just("allow"),
    peers=tuples(SELECTORS, 1),
    operations=tuples(OPERATIONS, 1),
    profiles=tuples(PROFILES),
    runners=tuples(RUNNERS),
    paths=tuples(PATHS),
    accept=tuples(ARGV),
    approval=st.sampled_from(["never", "ask"]),
    on_revoke=st.sampled_from(["end", "stay"]),
    router=st.booleans(),
    shared=st.booleans(),
    limits=LIMITS,
    consent=st.sampled_from(["", FULL_CONSENT]),
)
INBOUND_DENY = st.builds(
    InboundRule,
    name=st.sampled_from(["x", "y"]),
    effect=st.just("deny"),
    peers=tuples(SELECTORS, 1),
    operations=tuples(OPERATIONS),
    profiles=tuples(PROFILES),
    runners=tuples(RUNNERS),
    paths=tuples(PATHS),
)
OUTBOUND_ALLOW = st.builds(
    OutboundRule,
    name=st.sampled_from(["p", "q", "r"]),
    effect=st.just("allow"),
    peers=tuples(SELECTORS, 1),
    profiles=tuples(PROFILES),
    runners=tuples(RUNNERS),
    repos=tuples(PATHS),
    send_changes=st.booleans(),
    prompt_bytes=st.none() | COUNTS,
)
OUTBOUND_DENY = st.builds(
    OutboundRule,
    name=st.just("x"),
    effect=st.just("deny"),
    peers=tuples(SELECTORS, 1),
    profiles=tuples(PROFILES),
    runners=tuples(RUNNERS),
    repos=tuples(PATHS),
)
ASKS = st.builds(
    InboundRequest,
    identity=IDENTITIES,
    operation=OPERATIONS,
    profile=st.none() | PROFILES,
    runner=RUNNERS | st.text(max_size=5),
    directory=PATHS | st.text(max_size=8),
    accept=ARGV,
    runtime_s=st.integers(-1, 200),
    output_bytes=st.integers(-1, 200),
    cost_usd=MONEY,
    running=COUNTS,
    today=COUNTS,
    reports_cost=st.booleans(),
    chain=tuples(NODES),
    self_id=NODES,
)
SENDS = st.builds(
    OutboundRequest,
    identity=IDENTITIES,
    profile=PROFILES,
    runner=RUNNERS,
    project=PATHS | st.text(max_size=8),
    prompt_bytes=COUNTS,
    sends_changes=st.booleans(),
    chain=tuples(NODES),
    self_id=NODES,
)
INBOUND_RULES = st.lists(INBOUND_ALLOW | INBOUND_DENY, max_size=5, unique_by=lambda rule: rule.name)
OUTBOUND_RULES = st.lists(
    OUTBOUND_ALLOW | OUTBOUND_DENY, max_size=5, unique_by=lambda rule: rule.name
)


@st.composite
def fitting(draw: st.DrawFn) -> tuple[InboundRequest, InboundRule]:
    """A request and a rule made for it, so that properties of `allow` are not vacuous."""
    request = draw(ASKS)
    identity = replace(request.identity, expired=False, shared=False, router=False)
    request = replace(
        request,
        identity=identity,
        chain=(),
        self_id=NodeId("nSELF"),
        profile=draw(PROFILES),
        runner="claude",
        directory=draw(st.sampled_from(["/", "/a", "/a/b"])),
        accept=("make",),
        reports_cost=True,
    )
    rule = InboundRule(
        name="fits",
        effect="allow",
        peers=(Selector(kind="node", value=identity.node_id),),
        operations=(request.operation,),
        profiles=(request.profile or Profile.QUERY,),
        runners=("claude",),
        paths=("/",),
        accept=(("make",),),
        consent=FULL_CONSENT,
    )
    return request, rule


def rank(decision: Decision) -> int:
    return ["deny", "ask", "allow"].index(decision.effect)


@SOME
@given(fitting(), st.lists(INBOUND_ALLOW, max_size=3))
def test_a_rule_made_for_a_request_allows_it(
    pair: tuple[InboundRequest, InboundRule], others: list[InboundRule]
) -> None:
    request, rule = pair
    assert decide_inbound(request, Policy.of(inbound=(*others, rule))).effect == "allow"


@SOME
@given(ASKS, INBOUND_RULES)
def test_inbound_decisions_are_total_and_name_their_reason(
    request: InboundRequest, rules: list[InboundRule]
) -> None:
    decision = decide_inbound(request, Policy.of(inbound=tuple(rules)))
    allowed = decision.effect != "deny"
    assert allowed == (decision.code == "") == (decision.limits is not None)
    assert allowed or (decision.change and decision.reason)
    if allowed:
        assert decision.rule in {rule.name for rule in rules if rule.effect == "allow"}
        assert not request.identity.expired
    assert all(scrub(line) == line for line in explain(decision, request))
    assert for_remote(decision).effect == decision.effect
    may(request.identity, Policy.of(inbound=tuple(rules)))


@SOME
@given(SENDS, OUTBOUND_RULES)
def test_outbound_decisions_are_total_and_name_their_reason(
    request: OutboundRequest, rules: list[OutboundRule]
) -> None:
    decision = decide_outbound(request, Policy.of(outbound=tuple(rules)))
    assert decision.effect in {"allow", "deny"}
    assert (decision.effect == "allow") == (decision.code == "")
    assert decision.effect == "allow" or (decision.change and decision.reason)
    assert all(scrub(line) == line for line in explain(decision, request))


@SOME
@given(fitting(), INBOUND_RULES, INBOUND_DENY)
def test_a_deny_rule_never_allows_more(
    pair: tuple[InboundRequest, InboundRule], rules: list[InboundRule], deny: InboundRule
) -> None:
    request, rule = pair
    before = decide_inbound(request, Policy.of(inbound=(rule, *rules)))
    after = decide_inbound(request, Policy.of(inbound=(rule, *rules, deny)))
    assert rank(after) <= rank(before)
    if after.effect != "deny":
        assert after == before


@SOME
@given(SENDS, OUTBOUND_RULES, OUTBOUND_DENY)
def test_an_outbound_deny_rule_never_allows_more(
    request: OutboundRequest, rules: list[OutboundRule], deny: OutboundRule
) -> None:
    before = decide_outbound(request, Policy.of(outbound=tuple(rules)))
    assert rank(decide_outbound(request, Policy.of(outbound=(*rules, deny)))) <= rank(before)


@SOME
@given(ASKS, INBOUND_RULES, INBOUND_ALLOW)
def test_an_allow_rule_never_allows_less(
    request: InboundRequest, rules: list[InboundRule], allow: InboundRule
) -> None:
    before = decide_inbound(request, Policy.of(inbound=tuple(rules)))
    assert rank(decide_inbound(request, Policy.of(inbound=(*rules, allow)))) >= rank(before)


@SOME
@given(ASKS | fitting().map(lambda pair: pair[0]), INBOUND_RULES, st.data())
def test_the_order_of_rules_does_not_show_in_the_decision(
    request: InboundRequest, rules: list[InboundRule], data: st.DataObject
) -> None:
    one = Policy.of(inbound=tuple(rules))
    two = Policy.of(inbound=tuple(data.draw(st.permutations(rules))))
    assert one.sha256 == two.sha256
    assert decide_inbound(request, one) == decide_inbound(request, two)


@SOME
@given(SENDS, OUTBOUND_RULES, st.data())
def test_the_order_of_outbound_rules_does_not_show_either(
    request: OutboundRequest, rules: list[OutboundRule], data: st.DataObject
) -> None:
    shuffled = tuple(data.draw(st.permutations(rules)))
    one = decide_outbound(request, Policy.of(outbound=tuple(rules)))
    assert one == decide_outbound(request, Policy.of(outbound=shuffled))


@st.composite
def narrowed(draw: st.DrawFn) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """The values of a grant, and fewer or narrower ones."""
    values: list[object] = []
    fewer: list[object] = []
    for value in draw(st.lists(GRANT_VALUES, max_size=3)):
        values.append(value)
        fate = draw(st.sampled_from(["keep", "drop", "malform", "shorten", "add"]))
        if fate == "malform":
            fewer.append(draw(st.sampled_from([None, [], "query", {"profile": ["query"]}])))
        elif fate == "shorten":
            fewer.append({key: items[1:] for key, items in value.items()})
        elif fate == "add":
            fewer.append(draw(GRANT_VALUES) | value)
        elif fate == "keep":
            fewer.append(value)
    return tuple(values), tuple(fewer)


@MORE
@given(fitting(), narrowed(), INBOUND_RULES)
def test_narrowing_a_grant_never_widens(
    pair: tuple[InboundRequest, InboundRule],
    values: tuple[tuple[object, ...], tuple[object, ...]],
    rules: list[InboundRule],
) -> None:
    request, rule = pair
    rule = replace(rule, peers=(Selector(kind="grant", value="g"),))
    policy = Policy.of(inbound=(rule, *rules))
    ranks = [
        rank(
            decide_inbound(
                replace(
                    request,
                    identity=replace(
                        request.identity, capabilities={CAPABILITY_PREFIX + "g": value}
                    ),
                ),
                policy,
            )
        )
        for value in values
    ]
    assert ranks[1] <= ranks[0]


COMPONENTS = st.sampled_from(["..", ".", "", "a", "b", "...", "a..", "\0", " "])


@SOME
@given(fitting(), st.lists(COMPONENTS, max_size=4), st.lists(COMPONENTS, max_size=4))
def test_a_path_with_dots_never_matches(
    pair: tuple[InboundRequest, InboundRule], before: list[str], after: list[str]
) -> None:
    request, rule = pair
    directory = "/".join(["", *before, "..", *after])
    decision = decide_inbound(replace(request, directory=directory), Policy.of(inbound=(rule,)))
    assert (decision.effect == "deny") == (request.operation in RUN_OPERATIONS)


@SOME
@given(st.lists(COMPONENTS, min_size=1, max_size=6), st.sampled_from(["/a", "/a/b"]))
def test_what_matches_a_path_stays_below_it_component_by_component(
    components: list[str], root: str
) -> None:
    identity = Identity(node_id=NodeId("nA"), name="a")
    rule = InboundRule(
        name="r",
        effect="allow",
        peers=(Selector(kind="any", value=""),),
        operations=(Operation.TASK,),
        profiles=(Profile.QUERY,),
        runners=("claude",),
        paths=(root,),
    )
    request = InboundRequest(
        identity=identity,
        operation=Operation.TASK,
        profile=Profile.QUERY,
        runner="claude",
        directory="/" + "/".join(components),
        accept=(),
        runtime_s=1,
        output_bytes=1,
        cost_usd=None,
        running=0,
        today=0,
        reports_cost=False,
        chain=(),
        self_id=NodeId("nME"),
    )
    real = [part for part in components if part not in {"", "."}]
    wanted = root.strip("/").split("/")
    below = (
        real[: len(wanted)] == wanted
        and ".." not in real
        and not any("\0" in part for part in real)
    )
    assert (decide_inbound(request, Policy.of(inbound=(rule,))).effect == "allow") == below


@SOME
@given(fitting(), st.sampled_from(["expired", "shared", "router"]))
def test_an_expired_foreign_or_routing_caller_gains_nothing_by_it(
    pair: tuple[InboundRequest, InboundRule], flag: str
) -> None:
    request, rule = pair
    identity = replace(request.identity, **{flag: True})
    decision = decide_inbound(replace(request, identity=identity), Policy.of(inbound=(rule,)))
    assert decision.effect == "deny"


@SOME
@given(IDENTITIES, INBOUND_RULES, ASKS)
def test_what_a_peer_is_told_covers_what_it_is_allowed(
    identity: Identity, rules: list[InboundRule], request: InboundRequest
) -> None:
    policy = Policy.of(inbound=tuple(rules))
    request = replace(request, identity=identity)
    if decide_inbound(request, policy).effect == "deny":
        return
    allowed = may(identity, policy)
    assert request.operation in allowed.operations
    if request.operation in RUN_OPERATIONS:
        assert request.profile in allowed.profiles
        assert request.runner in allowed.runners
