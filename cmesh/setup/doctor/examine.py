"""From facts to the check list, and what it comes to. Pure."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cmesh.setup.doctor import installation, network, rules, work
from cmesh.setup.doctor.facts import Facts
from cmesh.setup.doctor.finding import GROUPS, Finding, Level

__all__ = ["Report", "examine"]

_CHECKS: dict[str, Callable[[Facts], Iterator[Finding]]] = {
    "installation": installation.installation,
    "node": network.node,
    "store": work.store,
    "sandbox": work.sandbox,
    "runners": work.runners,
    "agents": work.agents,
    "policy": rules.policy,
    "peers": network.peers,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole check list, in the order of `GROUPS`."""

    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Level:
        """Return `problem`, `warning` or `ok`."""
        levels = {one.level for one in self.findings}
        return "problem" if "problem" in levels else "warning" if "warning" in levels else "ok"

    @property
    def fixable(self) -> tuple[Finding, ...]:
        """Return what `--fix` may mend."""
        return tuple(one for one in self.findings if one.fix)

    def count(self, level: Level) -> int:
        """Return how many findings have this level."""
        return Counter(one.level for one in self.findings)[level]


def examine(facts: Facts) -> Report:
    """Judge all facts."""
    return Report(findings=tuple(one for group in GROUPS for one in _CHECKS[group](facts)))
