"""Checks of the policy: rules that can never hold, and rules that grant more than most want. Pure.

What the daemon knows of its rules, such as a path that is not there, comes as its own problems.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from cmesh.config import Config
from cmesh.model import Profile
from cmesh.policy.rules import InboundRule
from cmesh.setup.doctor.facts import Facts
from cmesh.setup.doctor.finding import Finding, Group

__all__ = ["policy"]

_RULES = Group("policy")

_TOLD = frozenset({"not_configured", "bad_config", "key_expires_soon", "login_required"})
"""Codes of the daemon's problems that another group tells of."""


def policy(facts: Facts) -> Iterator[Finding]:
    """Judge the rules as they stand in the file, and what the daemon says of them."""
    config, daemon = facts.config, facts.daemon
    for one in daemon.problems if daemon else ():
        if one.code not in _TOLD and not one.code.startswith(("node_", "control_", "key_")):
            yield _RULES.problem(one.code, one.what, one.next)
    if config is None:
        yield _RULES.skipped("rules", "the configuration cannot be read, so nothing is allowed")
        return
    if not config.configured:  # a step that names the file would contradict what is said of it
        yield _RULES.skipped("rules", "there is no configuration, so no rule to look at")
        return
    allow = [rule for rule in config.policy.inbound if rule.effect == "allow"]
    outbound = [rule for rule in config.policy.outbound if rule.effect == "allow"]
    if not allow and not outbound:
        yield _RULES.note("rules", "no rule allows anything, in either direction", _FIRST)
        return
    found = [finding for rule in allow for finding in _inbound(facts, config, rule)]
    yield from found
    if not any(one.level == "warning" for one in found):
        count = f"{len(allow)} inbound and {len(outbound)} outbound"
        yield _RULES.ok("rules", f"{count} rules allow something; none grants much")


_FIRST = "uncomment a rule in config.toml; docs/configuration.md has all keys"


def _inbound(facts: Facts, config: Config, rule: InboundRule) -> Iterator[Finding]:
    name = f"rule `{rule.name}`"
    kinds = {selector.kind for selector in rule.peers}
    if "any" in kinds:
        what = f"{name} matches every node of the tailnet"
        yield _RULES.warning("peers", what, 'name nodes: `peers = ["node:ID"]`, see `cmesh peers`')
    elif not kinds & {"node", "grant"}:
        what = f"{name} names no node: a new node of those users or tags needs your trust only once"
        yield _RULES.note("peers", what, 'name nodes: `peers = ["node:ID"]`, see `cmesh peers`')
    for path in rule.paths:
        wide = _wide(path, facts)
        if wide:
            step = "name the project's directory in `paths` of the rule"
            yield _RULES.warning("paths", f"{name} opens `{path}`, {wide}", step)
    if Profile.FULL in rule.bases:
        asks = "" if rule.approval == "ask" else ", and does not ask you first"
        what = f"{name} grants `full`: no sandbox, all that you can do here{asks}"
        yield _RULES.warning("full", what, 'grant `query` or `edit`, or set `approval = "ask"`')
    if rule.shared:
        what = f"{name} matches nodes that other tailnets share with yours"
        yield _RULES.warning("shared", what, "take `shared = true` away unless you mean it")
    if rule.router:
        what = f"{name} matches a node that advertises routes: others may speak through it"
        yield _RULES.warning("router", what, "take `router = true` away unless you mean it")
    if rule.limits.concurrent is None and rule.limits.runtime_s is None:
        what = f"{name} limits neither run time nor how many tasks run at once"
        step = '`limits = { runtime = "15m", concurrent = 2 }`'
        yield _RULES.note("limits", what, step)


def _wide(path: str, facts: Facts) -> str:
    """Say why a directory holds more than a project; empty = it does not."""
    place, home = PurePosixPath(path), PurePosixPath(facts.home)
    if path == "/":
        return "the whole machine"
    if place == home:
        return "your whole home"
    if place in home.parents:
        return "which holds your home"
    own = (facts.state.path, str(PurePosixPath(facts.config_file).parent))
    if any(place == PurePosixPath(one) or place in PurePosixPath(one).parents for one in own):
        return "which holds cmesh's own keys and store"
    return ""
