"""Whether one configuration allows, or exposes, more than another. Pure.

Coarse on purpose: what is not seen to be narrower counts as wider, and needs a person.
"""

from dataclasses import asdict

from cmesh.config import Config
from cmesh.policy.rules import InboundRule, OutboundRule, Policy

__all__ = ["widenings"]

_TABLES = (
    "node",
    "worker",
    "runners",
    "commands",
    "sandbox",
    "store",
    "wake",
    "approvals",
    "log",
    "trace",
)


def widenings(before: Config, after: Config) -> tuple[str, ...]:
    """Return what is wider afterwards, or may be, in one clause each; empty = nothing is."""
    found = [
        f"[{table}] changes" for table in _TABLES if getattr(before, table) != getattr(after, table)
    ]
    return (*_rules(before.policy, after.policy), *found)


def _rules(before: Policy, after: Policy) -> list[str]:
    found: list[str] = []
    for direction in ("inbound", "outbound"):
        old: tuple[InboundRule | OutboundRule, ...] = getattr(before, direction)
        new: tuple[InboundRule | OutboundRule, ...] = getattr(after, direction)
        had, has = [asdict(rule) for rule in old], [asdict(rule) for rule in new]
        found += [
            f"the {direction} rule `{rule.name}` allows something"
            for rule in new
            if rule.effect == "allow" and asdict(rule) not in had
        ]
        found += [
            f"the {direction} rule `{rule.name}` forbids nothing any more"
            for rule in old
            if rule.effect == "deny" and asdict(rule) not in has
        ]
    return found
