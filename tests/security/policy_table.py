"""The policy table: what each rule file must answer to everything anybody can ask.

An own, small reading of the policy language, which shares nothing with `cmesh.policy`: each
dimension says by itself which of its values a file lets through, a cell is let through when
all of them do, and what stands before the rules is written down as an order of refusals.
Every name that the other side must not learn holds the word `hush`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product

from cmesh.policy.rules import FULL_CONSENT

__all__ = ["CHAINS", "DIRECTORIES", "FILES", "OPERATIONS", "PEERS", "PROFILES", "TIERS"]
__all__ += ["Cell", "File", "cells", "expected", "tier_answer"]

STEP = int(os.environ.get("CMESH_TABLE_STEP", "1"))
ROOT = "/srv/hush/app"

PEERS = {
    # kind: (what whois says, how the cmesh key stands)
    "unknown": ("nSTRANGER mallory@example.com", "trusted"),
    "user": ("nLAPTOP alice@example.com", "trusted"),
    "tagged": ("nTAGGED tag:laptop", "trusted"),
    "shared": ("nSHARED alice@example.com shared", "trusted"),
    "router": ("nROUTER alice@example.com router", "trusted"),
    "shared router": ("nBOTH alice@example.com shared router", "trusted"),
    "ephemeral": ("nBRIEF alice@example.com ephemeral", "trusted"),
    "expired": ("nOLD alice@example.com expired", "trusted"),
    "granted": ("nGRANTED bob@example.com cap={}", "trusted"),
    "granted a part": (
        f'nPART bob@example.com cap={{"operations":["task"],"paths":["{ROOT}/sub"]}}',
        "trusted",
    ),
    "granted wrongly": ('nTYPO bob@example.com cap={"path":["/"]}', "trusted"),
    "first contact": ("nNEW alice@example.com", "unpinned"),
    "ephemeral first": ("nFLASH alice@example.com ephemeral", "unpinned"),
    "new key": ("nLAPTOP alice@example.com", "another key"),
    "whois error": ("", "trusted"),
    "whois garbage": ("garbage", "trusted"),
}
BEFORE_RULES = {
    "first contact": "peer_untrusted",
    "ephemeral first": "peer_untrusted",
    "new key": "peer_untrusted",
    "whois error": "identity_unknown",
    "whois garbage": "identity_unknown",
    "expired": "key_expired",
}
"""Kinds of peer that no rule can help, whatever they ask."""

OPERATIONS = ("task", "follow_up", "accept", "artifact", "delegate", "sql_own", "sql_all")
PROFILES = ("query", "edit", "build", "full")
DIRECTORIES = {
    "root": ROOT,
    "below": f"{ROOT}/sub/x",
    "denied": f"{ROOT}/keys",
    "beside": f"{ROOT}-old",
    "above": "/srv/hush",
    "elsewhere": "/etc",
    "dot dot": f"{ROOT}/sub/../../..",
    "relative": "sub",
    "none": "",
}
CHAINS = {
    "direct": "",
    "direct, named": "PEER",
    "through one": "nFIRST PEER",
    "through three": "nFIRST nSECOND nTHIRD PEER",
    "too long": "nFIRST nSECOND nTHIRD nFOURTH PEER",
    "circle here": "SELF PEER",
    "circle there": "PEER nFIRST PEER",
}
CIRCLES = {"too long", "circle here", "circle there"}
FAR = {"through one", "through three"}
TIERS = (3, 2, 1, 0)

ABOUT_RUNS = {"task", "follow_up", "accept", "artifact", "delegate"}
IN_ROOT = {"root", "below", "denied"}


@dataclass(frozen=True, kw_only=True)
class File:
    """A rule file, and what it lets through by each dimension.

    Attributes:
        peers, operations, profiles, directories: values that pass.
        denied: directories that a deny rule takes away again.
        far: whether callers further away pass.
        answer: what a cell gets that passes everywhere.
    """

    text: str
    peers: str = ""
    operations: str = ""
    profiles: str = ""
    directories: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    far: bool = False
    answer: str = "allow"


def rule(peers: str, operations: str, profiles: str, *more: str) -> str:
    """Return an allow rule in TOML."""

    def listed(names: str) -> str:
        return "[" + ", ".join(f'"{name}"' for name in names.split()) + "]"

    lines = [
        "[[inbound.allow]]",
        'name = "hush allow"',
        f"peers = {listed(peers)}",
        f"operations = {listed(operations)}",
    ]
    if profiles:
        lines += [f"profiles = {listed(profiles)}", 'runners = ["claude"]', f'paths = ["{ROOT}"]']
    if "accept" in operations:
        lines.append('accept = ["make hush"]')
    return "\n".join([*lines, *more, ""])


DENY = '[[inbound.deny]]\nname = "hush deny"\n'
KEYS = f'{DENY}peers = ["*"]\npaths = ["{ROOT}/keys"]\n'
RUNS = "task follow_up accept artifact delegate"

FILES = {
    "empty": File(text=""),
    "deny rules only": File(text=KEYS),
    "outbound rules only": File(
        text='[[outbound.allow]]\nname = "hush"\npeers = ["*"]\nprofiles = ["query"]\n'
    ),
    "a user": File(
        text=rule("user:alice@example.com", "task", "query"),
        peers="user, ephemeral",
        operations="task",
        profiles="query",
        directories=frozenset(IN_ROOT),
    ),
    "a tag": File(
        text=rule("tag:laptop", "task follow_up", "query edit"),
        peers="tagged",
        operations="task follow_up",
        profiles="query edit",
        directories=frozenset(IN_ROOT),
    ),
    "anybody, but not the keys": File(
        text=rule("*", RUNS, "query edit build") + KEYS,
        peers="unknown, user, tagged, ephemeral, granted, granted a part, granted wrongly",
        operations=RUNS,
        profiles="query edit build",
        # `above` reaches into what is denied, but no rule allows it in the first place.
        directories=frozenset(IN_ROOT),
        denied=frozenset({"denied", "root"}),
        far=True,
    ),
    "a node by id, whatever it is": File(
        text=rule(
            "node:nSHARED node:nROUTER node:nBOTH node:nOLD",
            "task",
            "query",
            "shared = true",
            "router = true",
        ),
        peers="shared, router, shared router",
        operations="task",
        profiles="query",
        directories=frozenset(IN_ROOT),
    ),
    "shared nodes by id only": File(
        text=rule("node:nSHARED node:nBOTH user:alice@example.com", "task", "query", "shared=true"),
        peers="shared, user, ephemeral",
        operations="task",
        profiles="query",
        directories=frozenset(IN_ROOT),
    ),
    "a grant": File(
        text=rule("grant:build", "task follow_up", "query"),
        peers="granted, granted a part",
        operations="task follow_up",
        profiles="query",
        directories=frozenset(IN_ROOT),
    ),
    "asks first": File(
        text=rule("user:alice@example.com", RUNS, "query", 'approval = "ask"'),
        peers="user, ephemeral",
        operations=RUNS,
        profiles="query",
        directories=frozenset(IN_ROOT),
        far=True,
        answer="ask",
    ),
    "full": File(
        text=rule("user:alice@example.com", "task", "full", f'consent = "{FULL_CONSENT}"'),
        peers="user, ephemeral",
        operations="task",
        profiles="full",
        directories=frozenset(IN_ROOT),
    ),
    "narrowed": File(
        text='[profiles.hush-docs]\nbase = "query"\nread = ["docs"]\n'
        + rule("user:alice@example.com", "task", "hush-docs"),
        peers="user, ephemeral",
        operations="task",
        profiles="query",
        directories=frozenset(IN_ROOT),
    ),
    "sql": File(
        text=rule("user:alice@example.com", "sql_own", ""),
        peers="user, ephemeral",
        operations="sql_own",
    ),
    "sql, but not for the laptop": File(
        text=rule("user:alice@example.com", "sql_own sql_all", "")
        + f'{DENY}peers = ["node:nLAPTOP"]\noperations = ["sql_all"]\n',
        peers="user, ephemeral",
        operations="sql_own sql_all",
    ),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One question; each field is a value of its dimension."""

    file: str
    peer: str
    operation: str
    profile: str
    directory: str
    chain: str


def cells(file: str) -> Iterator[Cell]:
    """Yield every question to one file; `CMESH_TABLE_STEP` = N keeps each Nth (mutation testing)."""
    every = product(PEERS, OPERATIONS, PROFILES, DIRECTORIES, CHAINS)
    for values in islice(every, 0, None, STEP):
        yield Cell(file, *values)


def expected(cell: Cell) -> str:
    """Return what the rules must answer, by the table."""
    file = FILES[cell.file]
    if cell.peer in BEFORE_RULES:
        return BEFORE_RULES[cell.peer]
    if cell.chain in CIRCLES:
        return "policy_denied"
    passes = [
        cell.peer in file.peers.split(", "),
        cell.operation in file.operations.split(),
        cell.chain not in FAR or file.far,
    ]
    if cell.operation in ABOUT_RUNS:
        passes += [
            cell.profile in file.profiles.split(),
            cell.directory in file.directories - file.denied,
        ]
    passes.append(_exception(cell))
    if not all(passes):
        return "policy_denied"
    # An output belongs to a run that was approved already.
    return "allow" if cell.operation == "artifact" else file.answer


def _exception(cell: Cell) -> bool:
    """Return False for what a file takes away from single values."""
    if cell.file == "a grant" and cell.peer == "granted a part":
        return cell.operation == "task" and cell.directory == "below"
    if cell.file == "sql, but not for the laptop":
        return not (cell.peer == "user" and cell.operation == "sql_all")
    if cell.file == "shared nodes by id only":
        return cell.peer in {"shared", "user", "ephemeral"}
    return True


def tier_answer(profile: str, tier: int, *, accepts_tier2: bool) -> str:
    """Return what a machine of a tier must answer to an allowed run.

    Tier 2 has no network namespace, so its owner must accept it; what writes needs mounts of its
    own besides, which tier 3 has.
    """
    reads = tier in {3, 1} or (tier == 2 and accepts_tier2)
    runs = profile == "full" or (reads if profile == "query" else tier == 3)
    return "runs" if runs else "sandbox_unavailable"
