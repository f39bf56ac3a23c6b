"""Tailscale policy files as the examples have them, for tests: HuJSON, and whom a grant means."""

import json
import re
from pathlib import Path
from typing import Any

from cmesh.model import Identity
from cmesh.node.testnet import Grant

__all__ = ["EXAMPLES", "capabilities", "grants", "read_policy"]

EXAMPLES = Path(__file__).parents[2] / "examples" / "grants"


def read_policy(path: Path) -> dict[str, Any]:
    """Return a policy file: JSON with comments of whole lines and commas at the end of lists."""
    text = re.sub(r"(?m)^\s*//.*$", "", path.read_text("utf-8"))
    return json.loads(re.sub(r",(\s*[}\]])", r"\1", text))


def grants(policy: dict[str, Any]) -> list[Grant]:
    """Return its grants for the test tailnet, with groups spelt out."""
    groups: dict[str, list[str]] = policy.get("groups", {})
    return [
        Grant(
            src=tuple(who for name in grant["src"] for who in groups.get(name, [name])),
            dst=tuple(grant["dst"]),
            app=grant["app"],
        )
        for grant in policy["grants"]
    ]


def capabilities(policy: dict[str, Any], caller: Identity) -> dict[str, tuple[object, ...]]:
    """Return what whois tells on a worker tagged `tag:build` about a caller."""
    names = {"*", *(caller.tags or (caller.user,))}
    found: dict[str, tuple[object, ...]] = {}
    for grant in grants(policy):
        if names & set(grant.src) and "tag:build" in grant.dst:
            for name, values in grant.app.items():
                found[name] = (*found.get(name, ()), *values)
    return found
