"""The keys that a store's signatures are checked with, and what each one's word is worth.

A signature proves that the holder of a key said something. That the key is that machine's, only
a person can know: by a code on both machines, or by comparing fingerprints. Only reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cmesh.keys import fingerprint
from cmesh.model import NodeId
from cmesh.store import proofs
from cmesh.store.exchange import Reader
from cmesh.store.rows import read_rows
from cmesh.store.signatures import NODE_UP

__all__ = ["Confirmed", "KeyUse", "Standing", "key_uses"]

Confirmed = Literal["own", "by_code", "by_person", "first_use", "never", "unknown"]
"""`own` = this node's; `by_code` = a code on both machines; `by_person` = an owner looked at the
fingerprint; `first_use` = pinned when this machine first asked, and nobody has looked; `never` =
only ever turned away; `unknown` = the store does not hold the key."""

Standing = Literal["current", "replaced", "taken_back", "unknown"]

_BY: Mapping[str, Confirmed] = {"pair": "by_code", "owner": "by_person", "delegate": "first_use"}
_BEST: tuple[Confirmed, ...] = ("by_code", "by_person", "first_use", "never")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """One key.

    Attributes:
        fingerprint: as `cmesh status` shows it on that machine; empty = not known.
        signatures: that were checked with it and fit; with `unknown`, that could not be checked.
    """

    node_id: NodeId
    name: str
    fingerprint: str
    confirmed: Confirmed
    standing: Standing
    signatures: int = 0


def key_uses(
    cursor: Reader, fits: Mapping[str, int], unknown: Mapping[NodeId, int]
) -> Sequence[KeyUse]:
    """Return every key in the store: this node's first, then the peers' in their order.

    `fits` counts signatures by public key, `unknown` those whose signer's key is not there.
    """
    own = proofs.identities(cursor, NODE_UP)
    found = [
        KeyUse(
            node_id=node_id,
            name="",
            fingerprint=fingerprint(key),
            confirmed="own",
            standing="current" if at == len(own) - 1 else "replaced",
            signatures=fits.get(key, 0),
        )
        for at, (node_id, key) in enumerate(own)
    ]
    found += _of_peers(cursor, fits)
    names = {use.node_id: use.name for use in found}
    found += [
        KeyUse(
            node_id=node_id,
            name=names.get(node_id, ""),
            fingerprint="",
            confirmed="unknown",
            standing="unknown",
            signatures=many,
        )
        for node_id, many in sorted(unknown.items())
    ]
    return found


def _of_peers(cursor: Reader, fits: Mapping[str, int]) -> list[KeyUse]:
    rows = read_rows(
        cursor,
        "SELECT seq, peer_id, peer, key, trusted, decided_by FROM trust_row ORDER BY peer_id, seq",
    )
    latest = {row["peer_id"]: row for row in rows}
    keys = dict.fromkeys((row["peer_id"], row["key"]) for row in rows)
    found = list[KeyUse]()
    for peer_id, key in keys:
        mine = [row for row in rows if (row["peer_id"], row["key"]) == (peer_id, key)]
        said: set[Confirmed] = {
            _BY.get(row["decided_by"], "first_use") for row in mine if row["trusted"]
        }
        now = latest[peer_id]
        standing: Standing = "replaced"
        if now["key"] == key:
            standing = "current" if now["trusted"] else "taken_back"
        found.append(
            KeyUse(
                node_id=peer_id,
                name=now["peer"],
                fingerprint=fingerprint(key),
                confirmed=_best(said),
                standing=standing,
                signatures=fits.get(key, 0),
            )
        )
    return found


def _best(said: set[Confirmed]) -> Confirmed:
    for one in _BEST:
        if one in said:
            return one
    return "never"
