"""Every cell of the policy table, by the code that decides on a connection and on a task.

Who somebody is comes from whois's answer, whether it is trusted from the pins, what it may do
from the rules, and what this machine can hold from its profiles. Nothing here knows a rule.
"""

import asyncio
import json
import tomllib
from collections import Counter
from dataclasses import asdict, replace
from functools import cache
from typing import Any, cast

import pytest

from cmesh.config import SandboxConfig
from cmesh.daemon.trust import Trust
from cmesh.errors import CmeshError, IdentityUnknown, SandboxUnavailable
from cmesh.model import Identity, NodeId, Operation, Profile
from cmesh.node.whois import parse_identity
from cmesh.policy.decide import Decision, InboundRequest, decide_inbound, may
from cmesh.policy.explain import explain, for_remote
from cmesh.policy.parse import parse_policy
from cmesh.policy.rules import Policy
from cmesh.runner.confine import Sandboxes
from cmesh.sandbox.tier import Enforcement
from cmesh.store.records import TrustRecord
from cmesh.store.store import Store
from tests.security.policy_table import (
    CHAINS,
    DIRECTORIES,
    FILES,
    OPERATIONS,
    PEERS,
    PROFILES,
    TIERS,
    Cell,
    cells,
    expected,
    tier_answer,
)

SELF = NodeId("nSELF")
KEY, OTHER_KEY = "A" * 43, "B" * 43


class Pins:
    """As much of a store as trust needs: the pins, and what would have been written."""

    def __init__(self, *records: TrustRecord) -> None:
        self.records = list(records)

    async def trust(self) -> list[TrustRecord]:
        return self.records

    async def commit(self, records: list[object]) -> None:
        assert records


def whois(facts: str) -> str:
    """Return whois's answer in its recorded form."""
    node_id, *words = facts.split(" ")
    if node_id == "garbage":
        return '{"node_id": "nLAPTOP", "expired": "perhaps"}'
    answer: dict[str, Any] = {
        "node_id": node_id,
        "name": f"{node_id.lower()}.tail.example",
        "user": "tagged-devices",
        "tags": [word for word in words if word.startswith("tag:")],
        "addresses": ["100.64.0.7"],
        "key_expiry": None,
        **{flag: flag in words for flag in ("expired", "shared", "router", "ephemeral")},
        "capabilities": {},
    }
    for word in words:
        if "@" in word:
            answer["user"] = word
        if word.startswith("cap="):
            answer["capabilities"] = {"cmesh.dev/cap/build": [json.loads(word[4:])]}
    return json.dumps(answer)


@cache
def identified(kind: str) -> Identity | str:
    """Return who a kind of peer is, or the code with which it is turned away."""
    facts, standing = PEERS[kind]
    try:
        if not facts:
            raise IdentityUnknown("whois did not answer")
        identity = parse_identity(whois(facts))
        asyncio.run(_check(identity, standing))
    except CmeshError as error:
        return error.code
    return identity


async def _check(identity: Identity, standing: str) -> None:
    pinned = {"trusted": [KEY], "another key": [OTHER_KEY], "unpinned": []}[standing]
    rows = [
        TrustRecord(peer_id=identity.node_id, peer=identity.name, key=key, trusted=True, by="owner")
        for key in pinned
    ]
    trust = Trust(cast("Store", Pins(*rows)))
    await trust.load()
    await trust.check(identity, KEY, first_contact=False)


@cache
def policy(file: str) -> Policy:
    return parse_policy(tomllib.loads(FILES[file].text))


def request(cell: Cell, identity: Identity) -> InboundRequest:
    runs = not cell.operation.startswith("sql")
    chain = CHAINS[cell.chain].replace("PEER", identity.node_id).replace("SELF", SELF)
    return InboundRequest(
        identity=identity,
        operation=Operation(cell.operation),
        profile=Profile(cell.profile) if runs else None,
        runner="claude" if runs else "",
        directory=DIRECTORIES[cell.directory] if runs else "",
        accept=("make", "hush") if cell.operation == "accept" else (),
        runtime_s=600,
        output_bytes=1000,
        cost_usd=None,
        running=0,
        today=0,
        reports_cost=True,
        chain=tuple(map(NodeId, chain.split())),
        self_id=SELF,
    )


def decided(cell: Cell) -> Decision | str:
    who = identified(cell.peer)
    return who if isinstance(who, str) else decide_inbound(request(cell, who), policy(cell.file))


def answer(decision: Decision | str) -> str:
    if isinstance(decision, str):
        return decision
    return decision.code if decision.effect == "deny" else decision.effect


def unlike(file: str) -> list[str]:
    """Return the cells that are not as the table has them, and texts that tell too much."""
    found: list[str] = []
    for cell in cells(file):
        decision, wanted = decided(cell), expected(cell)
        if answer(decision) != wanted:
            found.append(f"{cell}: wanted {wanted}, got {answer(decision)}")
        elif isinstance(decision, Decision):
            found += [f"{cell}: {what}" for what in told_too_much(cell, decision)]
    return found


def told_too_much(cell: Cell, decision: Decision) -> list[str]:
    """Say what a decision tells to the wrong side, or leaves out for the right one."""
    remote = for_remote(decision)
    found: list[str] = []
    if decision.effect == "deny":
        if "hush" in str(remote) or remote.rule is not None or remote.profile is not None:
            found.append(f"the other side is told {remote}")
        if any(item.rule or item.wanted or item.got for item in remote.failed):
            found.append(f"the other side is told {remote.failed}")
        if not (remote.reason and remote.change and remote.code):
            found.append("the other side is told no reason or no change")
        if not (decision.reason and decision.change and decision.code):
            found.append("the owner is told no reason or no change")
        allows = any(rule.effect == "allow" for rule in policy(cell.file).inbound)
        if allows and decision.rule is None and not decision.failed:
            found.append("the owner is told no failing condition")
    elif "hush" in str(replace(remote, rule=None, reason="")) or remote.profile is not None:
        found.append(f"the other side is told {remote}")
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_cell_is_answered_as_the_table_says(file: str) -> None:
    wrong = unlike(file)
    assert not wrong, "\n".join([f"{len(wrong)} cells", *wrong[:20]])


def test_the_empty_policy_gives_nobody_anything() -> None:
    answers = Counter(answer(decided(cell)) for cell in cells("empty"))
    assert set(answers) == {"policy_denied", "key_expired", "peer_untrusted", "identity_unknown"}
    for kind in PEERS:
        who = identified(kind)
        if isinstance(who, Identity):
            assert asdict(may(who, policy("empty")))["operations"] == ()


def test_the_table_has_each_answer_and_no_file_allows_most() -> None:
    every = Counter(expected(cell) for file in FILES for cell in cells(file))
    kinds = {"allow", "ask", "policy_denied", "key_expired", "peer_untrusted", "identity_unknown"}
    assert set(every) == kinds
    per_file = len(PEERS) * len(OPERATIONS) * len(PROFILES) * len(DIRECTORIES) * len(CHAINS)
    assert sum(every.values()) == len(FILES) * per_file
    assert every["allow"] + every["ask"] < every.total() / 50
    for file in set(FILES) - {"empty", "deny rules only", "outbound rules only"}:
        assert any(expected(cell) in {"allow", "ask"} for cell in cells(file)), file


FOUND = {
    3: Enforcement(landlock_abi=7, bwrap=True, seccomp=True, netns=True),
    2: Enforcement(landlock_abi=7, seccomp=True, why="no bubblewrap"),
    1: Enforcement(bwrap=True, seccomp=True, netns=True, why="no Landlock"),
    0: Enforcement(why="nothing"),
}


@pytest.mark.parametrize("accepts_tier2", [False, True])
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_tier_does_not_hold_is_refused_after_policy_has_allowed_it(
    profile: str, tier: int, accepts_tier2: bool
) -> None:
    assert FOUND[tier].tier == tier
    sandboxes = Sandboxes((), lambda: FOUND[tier])
    config = SandboxConfig(accept_tier2_network=accepts_tier2)
    try:
        asyncio.run(sandboxes.require(Profile(profile), DIRECTORIES["root"], config))
        told = "runs"
    except SandboxUnavailable as error:
        told = error.code
    assert told == tier_answer(profile, tier, accepts_tier2=accepts_tier2)


def test_a_denial_says_to_its_owner_which_condition_failed_and_what_would_change_it() -> None:
    cell = Cell("a user", "user", "task", "query", "elsewhere", "direct")
    decision = decided(cell)
    assert isinstance(decision, Decision)
    who = identified("user")
    assert isinstance(who, Identity)
    lines = "\n".join(explain(decision, request(cell, who)))
    for part in ("hush allow", "path: wanted /srv/hush/app, got /etc", 'paths = ["/srv/hush/app"'):
        assert part in lines
    remote = for_remote(decision)
    assert remote.reason == "the other node's policy denies it (path)"
