"""Comparing a log with what another node holds of it, and the other way round.

Who owns the files and the key can write a store anew so that it proves itself. It cannot take
back what another node holds: heads and ends that this node signed. Only reads; what the other
side says arrives as values, from a link or a file. INVARIANT: something is a proved difference
only by a signature of the side it speaks against, so nobody can accuse another of anything.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from cmesh.keys import verify
from cmesh.model import Direction, NodeId, TaskId
from cmesh.protocol.link_messages import Seen
from cmesh.protocol.proof_messages import ASKED_HEADS_MOST, HeldEnd, RowNow, WholeEnd
from cmesh.protocol.receipts import head_bytes, result_bytes
from cmesh.store import held
from cmesh.store.exchange import Reader
from cmesh.store.rows import Row, read_rows

__all__ = ["Comparison", "Difference", "Known", "Outcome", "Verdict"]

Verdict = Literal["fits", "differs", "unproven"]

_NO_ROW = 2**63

SHOWN_MOST = 20
"""Differences that are named; the others are counted."""

WHOLES_MOST, FOUND_MOST = 50, 1_000
"""Ends that are asked for whole, and differences that are kept: a peer may make up any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Whose log is compared with whose, and the keys either has signed with.

    Attributes:
        own: (node id, public key) of this store's node, all it ever had.
        peer_keys: the other node's, all that were ever decided about here.
    """

    own: Sequence[tuple[NodeId, str]]
    peer_id: NodeId
    peer: str
    peer_keys: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that the two sides do not agree on.

    Attributes:
        whose: whose log it speaks against.
        seq: the first row of that log that is certainly not as it was signed; None = not known.
        fits_through: the last row before it that fits; what is wrong lies after it.
        proved: by a signature of the side it speaks against.
    """

    whose: Literal["own", "peer"]
    seq: int | None
    fits_through: int = 0
    task_id: str | None = None
    what: str
    proved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a comparison came to.

    Attributes:
        heads, ends: signed by this node, held there, and as this log has them.
        covered_through: the last row that a signature held there vouches for.
        rows_after: rows of this log after it, which nothing held there speaks of.
        peer_heads, peer_ends: signed by the peer, held here, and as it has them now.
        forgotten: ends that one side has erased with their texts, so that only heads speak of them.
        unknown_keys: heads held there whose signature is of no key of this node.
        differences: the first ones, earliest row first; `differing` = how many there are.
    """

    verdict: Verdict
    heads: int
    ends: int
    covered_through: int
    rows_after: int
    peer_heads: int
    peer_ends: int
    unknown_keys: int
    forgotten: int
    differing: int
    differences: Sequence[Difference]


@dataclass(slots=True)
class _Count:
    heads: int = 0
    ends: int = 0
    peer_heads: int = 0
    peer_ends: int = 0
    unknown_keys: int = 0
    forgotten: int = 0
    covered: int = 0
    fitting: set[int] = field(default_factory=set[int])


class Comparison:
    """One comparison: fed page by page, then asked for its outcome.

    `through` is this log's end before the other side was asked: what came in later it need not
    have told of.
    """

    def __init__(self, cursor: Reader, known: Known, *, through: int) -> None:
        self._cursor = cursor
        self._known = known
        self._through = through
        self._last = held.last_row(cursor)
        self._count = _Count()
        self._bad_heads: dict[int, bool] = {}  # row -> proved
        self._found: list[Difference] = []
        self._theirs: set[bytes] = set()
        self._theirs_forgotten: set[str] = set()
        self._pending: dict[str, HeldEnd] = {}
        self._more = 0

    def heads(self, heads: Sequence[Seen]) -> None:
        """Take heads of this log that the peer holds."""
        ours = held.hashes(self._cursor, {head.head_seq for head in heads})
        for head in heads:
            proved = self._is_own(head)
            self._count.unknown_keys += not proved
            self._anchor(head.head_seq, head.head_hash, ours, proved=proved)

    def ends(self, ends: Sequence[HeldEnd]) -> list[TaskId]:
        """Take ends that the peer holds; return those of which the whole is needed: `whole`."""
        ours = self._ends_here([end.task_id for end in ends])
        anchors = dict[int, str]()
        for end in ends:
            self._theirs.add(_mark(end.task_id, _by_peer(end)))
            if end.forgotten:
                self._theirs_forgotten.add(end.task_id)
                self._count.forgotten += 1
                continue
            signed = _by_own(end)
            if not signed:  # it is not known yet whether this node took it up
                continue
            row = ours.get(end.task_id)
            if row is not None and row["worked"] != end.worked and row["signed"] == signed:
                self._count.ends += 1
                if row["head_seq"] and row["head_hash"]:
                    anchors[row["head_seq"]] = row["head_hash"]
            elif row is not None and row["worked"] != end.worked and row["signed"] is None:
                # The check of this store has found that its chain says so: see `erasing`.
                self._count.forgotten += 1
            elif len(self._pending) + len(self._found) < WHOLES_MOST:
                self._pending[end.task_id] = end
            else:
                self._more += 1
        # The worker's signature covers its head just before: so many rows more are vouched for.
        known = held.hashes(self._cursor, anchors.keys())
        for seq, hashed in anchors.items():
            self._anchor(seq, hashed, known, proved=True, counted=False)
        return [TaskId(end.task_id) for end in ends if end.task_id in self._pending]

    def whole(self, task_id: TaskId, end: WholeEnd | None) -> None:
        """Take all of an end that is not as it is here; None = the peer has not all of it."""
        claim = self._pending.pop(task_id, None)
        if claim is None:
            return
        proved = end is not None and any(
            verify(key, _end_bytes(self._known.peer_id, own, claim, end), _by_own(claim))
            for own, key in self._known.own
        )
        row = self._ends_here([task_id]).get(task_id)
        has = "another end of it" if row else "its end, and this log has none"
        holds = "holds this node's signature over" if proved else "says, and cannot prove, that it"
        what = f"`{self._known.peer}` {holds} {'' if proved else 'holds a signature over '}{has}"
        seq = row["seq"] if row else None
        self._add(Difference(whose="own", seq=seq, task_id=task_id, what=what, proved=proved))

    def asked(self) -> Iterator[list[Seen]]:
        """Yield the peer's heads that are held here, so many as may be asked for at a time.

        On the way its ends are compared with those it told of. Only for a peer that answers
        now: what was told earlier lacks what came since, and looks like a log that was cut off.
        """
        after = 0
        while True:
            page = held.page(
                self._cursor,
                self._known.peer_id,
                after,
                through=self._through,
                limit=ASKED_HEADS_MOST,
            )
            if page.heads:
                yield list(page.heads)
            self._their_ends(page.ends)
            after = page.next
            if not after:
                return

    def rows(self, asked: Sequence[Seen], rows: Sequence[RowNow]) -> None:
        """Take what the peer's log says now where it signed the heads that were `asked` for."""
        now = {row.seq: row.hash for row in rows}
        for head in asked:
            if now.get(head.head_seq) == head.head_hash:
                self._count.peer_heads += 1
                continue
            what = f"`{self._known.peer}` has signed another row {head.head_seq} than its log has"
            self._of_peer(head, what)

    def outcome(self) -> Outcome:
        """Return what was found. An end whose whole never came counts as not proved."""
        for task_id in list(self._pending):
            self.whole(TaskId(task_id), None)
        found = sorted([*self._heads_found(), *self._found], key=_order)
        differing = len(found) + self._more
        proved = any(one.proved for one in found)
        nothing = not self._count.covered
        return Outcome(
            verdict="differs" if proved else "unproven" if differing or nothing else "fits",
            heads=self._count.heads,
            ends=self._count.ends,
            covered_through=self._count.covered,
            rows_after=max(0, self._last - self._count.covered),
            peer_heads=self._count.peer_heads,
            peer_ends=self._count.peer_ends,
            unknown_keys=self._count.unknown_keys,
            forgotten=self._count.forgotten,
            differing=differing,
            differences=found[:SHOWN_MOST],
        )

    def _anchor(
        self, seq: int, hashed: str, ours: Mapping[int, str], *, proved: bool, counted: bool = True
    ) -> None:
        if ours.get(seq) != hashed:
            self._bad_heads[seq] = proved or self._bad_heads.get(seq, False)
            return
        self._count.heads += counted
        if proved:
            self._count.covered = max(self._count.covered, seq)
            self._count.fitting.add(seq)

    def _heads_found(self) -> Iterator[Difference]:
        """Yield one difference for all heads that do not fit: the first of them says where."""
        for wanted in (True, False):
            bad = sorted(seq for seq, proved in self._bad_heads.items() if proved is wanted)
            if not bad:
                continue
            fits = max((seq for seq in self._count.fitting if seq < bad[0]), default=0)
            lost = bad[0] > self._last
            seq = self._last + 1 if lost else bad[0]
            holds = "holds" if wanted else "says, and cannot prove, that it holds"
            signature = f"`{self._known.peer}` {holds} this node's signature over"
            if lost:
                what = f"the log ends before it, but {signature} row {bad[-1]}"
            else:
                what = f"it is not the row that was signed: {signature} another one"
            yield Difference(whose="own", seq=seq, fits_through=fits, what=what, proved=wanted)

    def _of_peer(self, head: Seen, what: str) -> None:
        signed = head_bytes(self._known.peer_id, head.head_seq, head.head_hash)
        proved = any(verify(key, signed, head.signature) for key in self._known.peer_keys)
        self._add(Difference(whose="peer", seq=head.head_seq, what=what, proved=proved))

    def _their_ends(self, ends: Sequence[HeldEnd]) -> None:
        """Look for what the peer signed and does not tell of; `ends` as this store has them."""
        for end in ends:
            signed = end.caller_signature if end.worked else end.worker_signature
            # Erasing is each side's own right, and no proof is lost: the row stays in its chain.
            if not signed or end.task_id in self._theirs_forgotten:
                continue
            if _mark(end.task_id, signed) in self._theirs:
                self._count.peer_ends += 1
                continue
            task_id, peer = TaskId(end.task_id), self._known.peer
            what = f"`{peer}` signed its end, which is held here, and does not tell of it now"
            proved = self._is_peers(held.whole_end(self._cursor, self._known.peer_id, task_id), end)
            self._add(Difference(whose="peer", seq=None, task_id=task_id, what=what, proved=proved))

    def _is_own(self, head: Seen) -> bool:
        return any(
            verify(key, head_bytes(own, head.head_seq, head.head_hash), head.signature)
            for own, key in self._known.own
        )

    def _is_peers(self, whole: WholeEnd | None, end: HeldEnd) -> bool:
        """Whether the peer's signature on an end of this store is over it; `end` as it is here."""
        if whole is None:
            return False
        signed = end.caller_signature if end.worked else end.worker_signature
        messages = [_end_bytes(own, self._known.peer_id, end, whole) for own, _ in self._known.own]
        return any(verify(key, one, signed) for key in self._known.peer_keys for one in messages)

    def _ends_here(self, task_ids: Collection[str]) -> dict[str, Row]:
        rows = read_rows(
            self._cursor,
            "SELECT task_id::VARCHAR AS task_id, seq, direction, worker_signature,"
            " caller_signature, basis FROM result_row"
            " WHERE task_id IN (SELECT unnest($1::UUID[]))",
            [list(task_ids)],
        )
        return {row["task_id"]: _end_here(row) for row in rows}

    def _add(self, difference: Difference) -> None:
        if len(self._found) < FOUND_MOST:
            self._found.append(difference)
        else:
            self._more += 1


def _end_here(row: Row) -> Row:
    worked = row["direction"] == Direction.IN.value
    basis = cast("dict[str, Any]", json.loads(row["basis"] or "{}") if worked else {})
    return {
        "seq": row["seq"],
        "worked": worked,
        "signed": row["worker_signature"] if worked else row["caller_signature"],
        "head_seq": basis.get("head_seq", 0),
        "head_hash": basis.get("head_hash", ""),
    }


def _end_bytes(teller: NodeId, other: NodeId, told: HeldEnd, end: WholeEnd) -> bytes:
    """Return what was signed of an end that `teller` has, in a task between it and `other`."""
    worker, caller = (teller, other) if told.worked else (other, teller)
    task_id = TaskId(told.task_id)
    return result_bytes(task_id, end.payload_hash, worker, caller, end.outcome, end.last_seq)


def _by_own(end: HeldEnd) -> str:
    """Return this node's signature on an end that the peer tells of."""
    return end.caller_signature if end.worked else end.worker_signature


def _by_peer(end: HeldEnd) -> str:
    return end.worker_signature if end.worked else end.caller_signature


def _mark(task_id: str, signature: str) -> bytes:
    return hashlib.blake2b(f"{task_id} {signature}".encode(), digest_size=16).digest()


def _order(one: Difference) -> tuple[bool, bool, int]:
    return (not one.proved, one.whose == "peer", _NO_ROW if one.seq is None else one.seq)
