"""The rules in force as their owner reads them, and who may do what here by them.

Gathers who is on the tailnet and asks `cmesh.policy` for each answer; decides nothing.
"""

import asyncio
from collections.abc import Sequence

from cmesh.daemon.core import Daemon
from cmesh.daemon.overview import tells
from cmesh.daemon.review_calls import (
    CellView,
    MayView,
    PolicyReview,
    ReviewArguments,
    RuleView,
)
from cmesh.daemon.roots import real_path
from cmesh.errors import CmeshError
from cmesh.model import Identity
from cmesh.node.whois import Peer
from cmesh.policy.audit import decide_answer
from cmesh.policy.rules import Policy
from cmesh.policy.who_may import directories_of, may_here, runners_of
from cmesh.policy.wording import inbound_words, outbound_words
from cmesh.tomltext import rule_lines

__all__ = ["review"]

PEERS_MOST = 20
"""Peers that get a row, those with a trusted key first: each costs a whois and its decisions, a
third of a millisecond each where there are twenty rules."""


async def review(daemon: Daemon, arguments: ReviewArguments) -> PolicyReview:
    """Return the rules, and a row for each peer; a node that is not up has no rows."""
    config = daemon.rules.config()
    policy, broken = config.policy, daemon.rules.error
    directories = directories_of(policy)
    asked = arguments.directory or "".join(directories[:1])
    directory = await asyncio.to_thread(real_path, asked)
    lines = await asyncio.to_thread(_lines, daemon) if broken is None else {}
    runners = runners_of(policy, daemon.runners.names())
    view = PolicyReview(
        file=str(daemon.settings.config_file),
        configured=config.configured,
        sha256=policy.sha256,
        problem=broken.message if broken is not None else "",
        rules=_rules(policy, lines),
        directory=directory,
        directories=list(directories),
        runners=list(runners),
    )
    try:
        daemon.presence.require_up()
        peers = _ranked(daemon, await daemon.presence.node.peers())
    except CmeshError as error:
        return view.model_copy(update={"problem": view.problem or error.message})
    shown = peers[:PEERS_MOST]
    who = await asyncio.gather(*(_identity(daemon, peer) for peer in shown))
    rows = await asyncio.to_thread(_rows, daemon, policy, view, list(zip(shown, who, strict=True)))
    return view.model_copy(update={"peers": rows, "more": len(peers) - len(shown)})


def _rules(policy: Policy, lines: dict[tuple[str, str], int]) -> list[RuleView]:
    told = [("inbound", rule, inbound_words(rule)) for rule in policy.inbound]
    told += [("outbound", rule, outbound_words(rule)) for rule in policy.outbound]
    return [
        RuleView.model_validate(
            {
                "direction": direction,
                "effect": rule.effect,
                "name": rule.name,
                "line": lines.get((direction, rule.name), 0),
                "says": words.says,
                "more": list(words.more),
            }
        )
        for direction, rule, words in told
    ]


def _lines(daemon: Daemon) -> dict[tuple[str, str], int]:
    try:
        return rule_lines(daemon.settings.config_file.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # changed since it was read
        return {}


def _ranked(daemon: Daemon, peers: Sequence[Peer]) -> list[Peer]:
    def rank(peer: Peer) -> tuple[object, ...]:
        trusted = daemon.trust.standing(peer.identity.node_id) == "trusted"
        return (not trusted, not peer.online, peer.identity.name)

    return sorted(peers, key=rank)


async def _identity(daemon: Daemon, peer: Peer) -> Identity | CmeshError:
    try:
        return await daemon.presence.identify(peer.identity.node_id)
    except CmeshError as error:
        return error


def _rows(
    daemon: Daemon,
    policy: Policy,
    view: PolicyReview,
    peers: Sequence[tuple[Peer, Identity | CmeshError]],
) -> list[MayView]:
    reports = {runner: tells(daemon, runner) for runner in view.runners}
    self_id, found = daemon.self_id(), list[MayView]()
    for peer, who in peers:
        known = peer.identity
        row = MayView(
            name=known.name.partition(".")[0],
            node_id=known.node_id,
            user=known.user,
            tags=list(known.tags),
            online=peer.online,
            trust=daemon.trust.standing(known.node_id),
        )
        if isinstance(who, CmeshError):
            found.append(row.model_copy(update={"unknown": who.message}))
            continue
        cells = [
            CellView(
                profile=cell.profile,
                runner=cell.runner,
                effect=cell.decision.effect,
                rule=cell.decision.rule or "",
                reason=cell.decision.reason,
            )
            for cell in may_here(who, view.directory, reports, self_id, policy)
        ]
        decision, scope, _operation = decide_answer(who, self_id, policy)
        sees = scope if decision.effect == "allow" else "nothing"
        more = {"cells": cells, "sees": sees, "sees_rule": decision.rule or ""}
        found.append(row.model_copy(update=more))
    return found
