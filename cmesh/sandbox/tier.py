"""How strongly this machine can hold a task, and what each profile may do with that. Pure.

The caller of a task has no word in it, and nothing here ever falls to a weaker tier by itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cmesh.errors import SandboxUnavailable
from cmesh.model import Profile
from cmesh.sandbox.landlock import PORTS_ABI, SCOPES_ABI

__all__ = [
    "LABEL",
    "LEFT_OVER",
    "NO_SANDBOX",
    "Accept",
    "Enforcement",
    "require",
    "require_network",
    "warning",
]

NO_SANDBOX = "none"
"""What the records of a task say that ran without a sandbox."""

LABEL = re.compile(r"none|tier([0-3]):[a-z0-9]{1,16}(,[a-z0-9]{1,16}){0,5}")
"""What an `Enforcement.label` looks like, for one that comes from elsewhere."""

LEFT_OVER = {
    3: (),
    2: (
        "which files exist, their sizes and changes can be seen",
        "files of the machine can be watched for changes",
        "how many processes it starts is not limited",
    ),
    1: (
        "the port of the relay is limited by the network namespace alone",
        "mounts alone keep files apart",
    ),
}
"""By tier: what a `query` can still do outside of its directory, told in words."""

_OWN_NETWORK = frozenset({1, 3})

NO_NETNS = "the ports it may reach are limited, the addresses are not"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """What the owner of this machine accepts in the configuration, in so many words.

    Attributes:
        tier2_edit: tasks may change files without mounts of their own.
        tier2_network: tasks may run without a network namespace of their own.
    """

    tier2_edit: bool = False
    tier2_network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforcement:
    """What of the sandbox works here, as a trial start has shown.

    Attributes:
        landlock_abi: 0 = none.
        bwrap: bubblewrap starts, with namespaces for users, processes, mounts and IPC.
        seccomp: the system call filter is taken.
        netns: a task has a network namespace of its own.
        why: what is missing for tier 3, in words; empty at tier 3.
        hint: what mends it.
    """

    landlock_abi: int = 0
    bwrap: bool = False
    seccomp: bool = False
    netns: bool = False
    why: str = ""
    hint: str = ""

    @property
    def tier(self) -> int:
        """Return 3, 2, 1 or 0; without the filter it is 0, whatever else there is."""
        if not self.seccomp:
            return 0
        if self.bwrap and self.netns:
            return 3 if self.landlock_abi >= PORTS_ABI else 1
        return 2 if self.landlock_abi >= SCOPES_ABI else 0

    @property
    def label(self) -> str:
        """Return tier and parts in one word for records: `tier3:bwrap,landlock7,seccomp,netns`."""
        if not self.tier:
            return NO_SANDBOX
        parts = [
            ("bwrap", self.bwrap and self.netns),
            (f"landlock{self.landlock_abi}", self.landlock_abi),
        ]
        parts += [("seccomp", self.seccomp), ("netns", self.netns)]
        return f"tier{self.tier}:{','.join(name for name, there in parts if there)}"


def require(profile: Profile, found: Enforcement, accept: Accept) -> Sequence[str]:
    """Return what is left over when a task of this profile runs here, to be told in its result.

    Raises:
        SandboxUnavailable: it may not run; says why and what would have to change.
    """
    tier = found.tier
    if profile is Profile.FULL:
        return ()
    if tier == 0:
        raise SandboxUnavailable(
            f"profile `{profile}` needs a sandbox that this machine lacks: {found.why}",
            hint=found.hint,
        )
    if profile is not Profile.QUERY and tier < 3 and not accept.tier2_edit:
        raise SandboxUnavailable(
            f"profile `{profile}` needs tier 3 of the sandbox, here it is tier {tier}: {found.why}",
            hint=_change(found, "accept_tier2_edit"),
        )
    if not found.netns and not accept.tier2_network:
        raise SandboxUnavailable(
            f"a task of profile `{profile}` would have no network namespace here: {found.why}",
            hint=_change(found, "accept_tier2_network"),
        )
    return LEFT_OVER[tier]


def require_network(found: Enforcement) -> None:
    """Check that a task here can have one port and nothing else of the network.

    Raises:
        SandboxUnavailable: it would share the machine's loopback; says why.
    """
    if found.tier not in _OWN_NETWORK:
        raise SandboxUnavailable(
            "the runner must reach its model, and a task would have no network namespace"
            f" for that here: {found.why}",
            hint=found.hint,
        )


def warning(label: str) -> str:
    """Return what a task's result must warn of, from the label in its records; mostly nothing."""
    match = LABEL.fullmatch(label)
    if match is None or match[1] is None:
        return ""
    left = list(LEFT_OVER.get(int(match[1]), ()))
    left += [] if "netns" in label.split(":")[1].split(",") else [NO_NETNS]
    return f"held by tier {match[1]} of the sandbox; left over: {'; '.join(left)}" if left else ""


def _change(found: Enforcement, key: str) -> str:
    return f"{found.hint}; or accept what is left over with `{key} = true` under `[sandbox]`"
