"""Whether a peer, a path or a grant fits: the comparisons that rules are made of.

Pure text against text. Nothing here resolves links: paths come resolved, and a
path that is not absolute or holds `..` fits nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from cmesh.model import Identity, Operation, Profile
from cmesh.platform import names
from cmesh.policy.rules import CAPABILITY_PREFIX, RUN_OPERATIONS, TAGGED_DEVICES, Selector

__all__ = [
    "Grant",
    "PeerMatch",
    "denies_peer",
    "grant_values",
    "is_at_or_below",
    "match_peer",
    "normal_path",
    "overlaps",
]

_GRANT_KEYS = frozenset({"operations", "profiles", "runners", "paths"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One value of an app capability. None = the value does not narrow this."""

    operations: tuple[str, ...] | None = None
    profiles: tuple[str, ...] | None = None
    runners: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None

    def covers(
        self, operation: Operation, profile: Profile | None, runner: str, directory: str
    ) -> bool:
        """Say whether the request fits; what it is asked about but does not name, it fails."""
        if self.operations is not None and operation not in self.operations:
            return False
        if operation not in RUN_OPERATIONS:
            return True
        return (
            (self.profiles is None or profile in self.profiles)
            and (self.runners is None or runner in self.runners)
            and (self.paths is None or is_at_or_below(directory, self.paths))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerMatch:
    """How an allow rule's selectors fit a peer.

    Attributes:
        plain: a selector fits that narrows nothing.
        grants: values of the capabilities through which the peer fits, a union.
    """

    plain: bool
    grants: tuple[Grant, ...] = ()

    def __bool__(self) -> bool:
        return self.plain or bool(self.grants)


def match_peer(identity: Identity, peers: Iterable[Selector]) -> PeerMatch:
    """Fit an allow rule's selectors to a peer.

    A node of another tailnet, or one that advertises routes (its packets may be
    someone else's), fits by its node id only; the rule's `shared` and `router`
    are not looked at here. That a node is ephemeral changes nothing here: who is
    new on the tailnet is a question of trust, which the daemon asks before policy.
    """
    node_only = identity.shared or identity.router
    plain = False
    grants: list[Grant] = []
    for peer in peers:
        if node_only and peer.kind != "node":
            continue
        if peer.kind == "grant":
            grants.extend(grant_values(identity, peer.value))
        else:
            plain = plain or _fits(identity, peer)
    return PeerMatch(plain=plain, grants=tuple(grants))


def denies_peer(
    identity: Identity, peers: Iterable[Selector], *, grants_known: bool = True
) -> bool | None:
    """Fit a deny rule's selectors to a peer; None = it cannot be said.

    Wider than `match_peer`: it fits nodes of other tailnets by any kind, and a
    capability by its mere presence, whatever its values.
    """
    answers = [_denies(identity, peer, grants_known=grants_known) for peer in peers]
    if True in answers:
        return True
    return None if None in answers else False


def grant_values(identity: Identity, name: str) -> tuple[Grant, ...]:
    """Return the well-formed values of capability `cmesh.dev/cap/NAME`, as Tailscale adds them up.

    INVARIANT: a value that cannot be read grants nothing; so does a capability
    without values. The value that narrows nothing is `{}`.
    """
    values = identity.capabilities.get(CAPABILITY_PREFIX + name, ())
    return tuple(grant for value in values if (grant := _grant(value)) is not None)


def normal_path(text: str) -> str | None:
    """Return an absolute path of this system in normal form, or None when it is not one."""
    return names.normal(text)


def is_at_or_below(path: str, roots: Sequence[str]) -> bool:
    """Say whether `path` is surely one of the roots or below one, by whole components."""
    normal = normal_path(path)
    return normal is not None and any(names.is_below(normal, root) for root in _normal(roots))


def overlaps(path: str, roots: Sequence[str]) -> bool | None:
    """Say whether `path` may be at, below or above a root; None = it is not an absolute path.

    A run above a denied directory reaches into it, so a deny rule asks this.
    """
    normal = normal_path(path)
    if normal is None:
        return None
    return any(
        names.may_be_below(normal, root) or names.may_be_below(root, normal)
        for root in _normal(roots)
    )


def _normal(roots: Iterable[str]) -> Iterator[str]:
    return (normal for root in roots if (normal := normal_path(root)) is not None)


def _fits(identity: Identity, peer: Selector) -> bool:
    match peer.kind:
        case "any":
            return True
        case "node":
            return bool(peer.value) and peer.value == identity.node_id
        case "user":
            return not identity.tags and bool(peer.value) and peer.value == _user(identity)
        case "tag":
            return f"tag:{peer.value}" in identity.tags
        case "grant":
            return False


def _denies(identity: Identity, peer: Selector, *, grants_known: bool) -> bool | None:
    nobody = not identity.tags and not _user(identity)
    match peer.kind:
        case "user":
            return None if nobody else peer.value == _user(identity)
        case "tag":
            return None if nobody else _fits(identity, peer)
        case "grant":
            known = CAPABILITY_PREFIX + peer.value in identity.capabilities
            return known if known or grants_known else None
        case _:
            return _fits(identity, peer)


def _user(identity: Identity) -> str:
    return "" if identity.user == TAGGED_DEVICES else identity.user


def _grant(value: object) -> Grant | None:
    if not isinstance(value, dict):
        return None
    table = cast("dict[object, object]", value)
    if not table.keys() <= _GRANT_KEYS:
        return None  # perhaps a misspelt key that was meant to narrow
    read: dict[str, tuple[str, ...]] = {}
    for key, items in table.items():
        strings = _strings(items)
        if strings is None:
            return None
        read[str(key)] = strings
    return Grant(**read)


def _strings(items: object) -> tuple[str, ...] | None:
    if not isinstance(items, list | tuple):
        return None
    found = cast("Sequence[object]", items)
    if not all(isinstance(item, str) for item in found):
        return None
    return tuple(cast("Sequence[str]", found))
