"""Checking the log: the chain of hashes, and every typed row against what the chain covers.

The chain alone would not notice a changed column of a typed row, nor a cut-off end: the
first is compared here, the second with the head. Only reads. INVARIANT: what is compared is
computed here, or by DuckDB's own functions in a file that was seen to have no others, where a
macro could stand in for one. What SQL does not find as it was written is looked at here.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

from cmesh.store.chain import GENESIS, digest, link
from cmesh.store.exchange import Reader
from cmesh.store.head import Head
from cmesh.store.records import Finding, Verification
from cmesh.store.texts import SALTED_SINCE, TEXTS_ERASED, Erasures, erasable
from cmesh.store.typed import tables
from cmesh.text import one_line

__all__ = ["Progress", "verify"]

Progress = Callable[[int, int], None]
"""Told the last row that was looked at, and the last one there is."""

RANGE_ROWS = 500
"""Rows in memory at a time: a hundred MiB when each holds the longest text there may be."""

QUICK_ROWS = 200_000
"""Rows looked at together first, without their texts in memory: a plan costs as much as thousands."""

_FETCH_ROWS = 2_000

_SHOWN_CHARACTERS = 60
_NOT_COVERED = frozenset({"seq", "salt"})

_LOG = "SELECT seq, epoch_us(ts) AS ts, kind, task_id::VARCHAR AS task_id, canon, h FROM log"

Row = Mapping[str, Any]


def verify(cursor: Reader, head: Head, progress: Progress | None = None) -> Verification:
    """Check all rows in their order, in two threads; some 3 s per million, 20 of erased ones.

    A commit may have come in since `head` was read, so rows after it are no finding. What is
    found first ends the look: after it nothing is certain.
    """
    from cmesh.store.schema import foreign  # loads DuckDB, which the daemon must not

    strange = foreign(cursor)
    if strange:
        return Verification(rows=0, finding=Finding(what=strange), head_ok=True)
    walk = _Walk(cursor, head)
    walk.run(progress)
    return walk.verification()


class _Walk:
    def __init__(self, cursor: Reader, head: Head) -> None:
        self._cursor = cursor
        self._head = head
        self._tables = tables(cursor)
        self._erasures = _erasures(cursor)
        self._node = json.dumps(self._one("SELECT node FROM store_row LIMIT 1"), ensure_ascii=False)
        self._last = self._one("SELECT max(seq) FROM log") or 0
        self._seen = Head(seq=0, hash=GENESIS)
        self._at_head: bytes | None = GENESIS if head.seq == 0 else None
        self._counted: Counter[str] = Counter()
        self._found: list[Finding] = []
        # INVARIANT: rows of an older version come first, so none after this can be resealed.
        self._salted = False
        self.rows = 0
        self.left_out = 0
        self.erased = 0
        self.resealed = 0

    def run(self, progress: Progress | None) -> None:
        """Walk until the end, or until something does not fit."""
        tell = progress or _nothing
        for first in range(1, self._last + 1, QUICK_ROWS):
            through = min(first + QUICK_ROWS - 1, self._last)
            if not self._quick(first, through):
                self._slow(first, through, tell)
            if self._found:
                return
            tell(through, self._last)
        self._outside()

    def verification(self) -> Verification:
        """Return what was found; of one range the first row counts."""
        first = min(self._found, key=lambda one: one.seq or 0, default=None)
        head_ok = self._at_head == self._head.hash or (first is not None and not self._passed)
        if first is None and not head_ok:
            first = self._lost()
        return Verification(
            rows=self.rows,
            finding=first,
            head_ok=head_ok,
            prompts_left_out=self.left_out,
            erased=self.erased,
            resealed=self.resealed,
        )

    @property
    def _passed(self) -> bool:
        return self._seen.seq >= self._head.seq

    def _lost(self) -> Finding:
        if self._seen.seq < self._head.seq:
            what = f"the log ends here, but row {self._head.seq} was acknowledged"
            return Finding(seq=self._seen.seq, what=what)
        return Finding(seq=self._head.seq, what="it is not the row that was acknowledged")

    def _quick(self, first: int, through: int) -> bool:
        """Look at rows together; False where they must be looked at one by one instead."""
        if self._erasures.meet(first, through):
            return False
        from _duckdb import OutOfMemoryException  # by now it is loaded; the daemon never is here

        try:
            # DuckDB works without the interpreter, so that the chain is followed meanwhile.
            # INVARIANT: nothing else of this process writes, so both see the same rows. The thread
            # ends before its cursor is closed: DuckDB would raise for that, over what went wrong.
            with self._cursor.cursor() as own, ThreadPoolExecutor(1) as other:
                following = other.submit(_chained, own, self._seen.hash, first, through, self._head)
                found = self._rebuilt(first, through)
                chained = following.result()
        except OutOfMemoryException:
            return False
        if found is None or chained is None:
            return False
        counted, odd = found
        if counted.total() != through - first + 1:
            return False
        self._salted = self._salted or len(odd) < counted.total()
        self._seen, rows = Head(seq=through, hash=chained.last), self.rows + counted.total()
        self._at_head = chained.at_head or self._at_head
        for at in range(0, len(odd), RANGE_ROWS):
            self._one_by_one(odd[at : at + RANGE_ROWS])
        self._counted.update(counted)
        self.rows = rows
        return True

    def _rebuilt(self, first: int, through: int) -> tuple[Counter[str], list[int]] | None:
        """Return how many rows each table has, and those not found as they were written.

        None where two rows of a table have one number.
        """
        counted, span = Counter[str](), [first, through]
        for name, rows, numbers in self._cursor.execute(self._tables.counted, span).fetchall():
            if rows != numbers:
                return None
            counted[name] = int(rows)
        row = self._cursor.execute(self._tables.rebuilt, [*span, self._node]).fetchone()
        assert row is not None
        return counted, sorted(row[0] or ())

    def _one_by_one(self, seqs: Sequence[int]) -> None:
        """Compare rows of which only the place in the chain was looked at."""
        where, values = "WHERE seq IN (SELECT unnest($1::BIGINT[]))", [list(seqs)]
        told = [
            (row, self._told(row)) for row in self._rows(f"{_LOG} {where} ORDER BY seq", values)
        ]
        counted, self._counted = self._counted, Counter[str]()
        self._typed(told, where, values)
        self._counted = counted

    def _slow(self, first: int, through: int, tell: Progress) -> None:
        for start in range(first, through + 1, RANGE_ROWS):
            end = min(start + RANGE_ROWS - 1, through)
            self._range(start, end)
            if self._found:
                return
            tell(end, self._last)

    def _range(self, first: int, through: int) -> None:
        where, values = "WHERE seq BETWEEN $1 AND $2", [first, through]
        log = self._rows(f"{_LOG} {where} ORDER BY seq", values)
        covered = list[tuple[Row, Mapping[str, Any]]]()
        for row in log:
            canon = self._linked(row)
            if canon is None:
                return
            covered.append((row, canon))
        if self._seen.seq < through:
            self._find(self._seen.seq + 1, "it is missing")
            return
        self._typed(covered, where, values)

    def _linked(self, row: Row) -> Mapping[str, Any] | None:
        """Return what the chain says of a row; None when it does not fit, which is noted."""
        seq = row["seq"]
        if seq != self._seen.seq + 1:
            missing = seq > self._seen.seq
            what = "it is missing" if missing else "another row has its number"
            self._find(self._seen.seq + 1 if missing else seq, what)
            return None
        hashed = link(self._seen.hash, row["canon"])
        if hashed == bytes(row["h"]):
            pass
        elif not self._salted and self._erasures.vouch(seq, row["canon"]):
            # Its texts were in what was hashed, so a later row stands for what is left of it.
            hashed = bytes(row["h"])
            self.resealed += 1
        else:
            self._find(seq, "its hash does not follow from the row before and its text", row)
            return None
        self.rows += 1
        self._seen = Head(seq=seq, hash=hashed)
        if seq == self._head.seq:
            self._at_head = hashed
        canon = self._told(row)
        self._salted = self._salted or canon["v"] >= SALTED_SINCE
        return canon

    def _told(self, row: Row) -> Mapping[str, Any]:
        """Return what the canonical text says, compared with the log's own columns."""
        canon = cast("Mapping[str, Any]", json.loads(row["canon"]))
        for column in ("seq", "ts", "kind", "task_id"):
            if row[column] != canon.get(column):
                self._differs(row, column, row[column], canon.get(column))
        return canon

    def _typed(
        self,
        covered: Sequence[tuple[Row, Mapping[str, Any]]],
        where: str,
        values: Sequence[object],
    ) -> None:
        wanted = Counter[str](canon["table"] for _, canon in covered)
        self._counted.update(wanted)
        there: dict[tuple[str, int], list[Row]] = {}
        for name in wanted.keys() & self._tables.selects.keys():
            for typed in self._rows(f"{self._tables.selects[name]} {where}", values):
                there.setdefault((name, typed["seq"]), []).append(typed)
        for row, canon in covered:
            found = there.get((canon["table"], row["seq"]), [])
            if len(found) != 1:
                many = "more than one row" if found else "no row"
                self._find(row["seq"], f"`{canon['table']}` has {many} for it", row)
                continue
            self._compare(row, canon, found[0])

    def _compare(self, row: Row, canon: Mapping[str, Any], typed: Row) -> None:
        texts = erasable(canon)
        # Only texts of tasks are erased: what this node says of itself stays.
        erased = row["task_id"] is not None and self._erasures.cover(row["seq"])
        self.erased += erased
        for column, value in typed.items():
            if erased and column in texts and value is None:
                continue
            if column in texts and f"{column}_sha256" in canon:
                self._text(row, canon, typed, column)
            elif column not in _NOT_COVERED:
                told = canon.get(column)
                told = float(told) if isinstance(value, float) and told is not None else told
                if value != told:
                    self._differs(row, column, value, told)
        salted = any(
            f"{column}_sha256" in canon and not (erased and typed[column] is None)
            for column in texts
        )
        if typed.get("salt") is not None and not salted:
            self._find(row["seq"], "it has a salt and no text", row)

    def _text(self, row: Row, canon: Mapping[str, Any], typed: Row, column: str) -> None:
        told, text = canon.get(f"{column}_sha256"), typed[column]
        if text is None and told is not None:
            if column in canon.get("left_out", ()) or (canon["v"] == 1 and column == "prompt"):
                self.left_out += 1
            else:
                self._find(row["seq"], f"its `{column}` is gone", row)
        elif text is not None and digest(str(typed["salt"]), column, text) != told:
            self._find(row["seq"], f"its `{column}` is not the text it was written with", row)

    def _outside(self) -> None:
        """Look for typed rows that no row of the log stands for."""
        for name in self._tables.selects:
            if self._one(f"SELECT count(*) FROM {name}") == self._counted[name]:  # noqa: S608
                continue
            stray = self._one(
                f"SELECT min(coalesce(t.seq, 0)) FROM {name} t LEFT JOIN log l USING (seq)"  # noqa: S608
                f' WHERE l.seq IS NULL OR NOT contains(l.canon, \'"table":"{name}"\')'
            )
            self._find(stray or 0, f"`{name}` has a row that the log knows nothing of")

    def _differs(self, row: Row, column: str, value: object, told: object) -> None:
        shown, chained = _shown(value), _shown(told)
        self._find(row["seq"], f"its `{column}` is {shown}, and the chain says {chained}", row)

    def _find(self, seq: int, what: str, row: Row | None = None) -> None:
        kind, task_id = (row["kind"], row["task_id"]) if row else ("", None)
        self._found.append(Finding(seq=seq, kind=str(kind), task_id=task_id, what=what))

    def _one(self, statement: str) -> Any:
        row = self._cursor.execute(statement).fetchone()
        return None if row is None else row[0]

    def _rows(self, statement: str, values: Sequence[object]) -> list[Row]:
        self._cursor.execute(statement, list(values))
        names = [str(column[0]) for column in self._cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in self._cursor.fetchall()]


class _Chained(NamedTuple):
    """The hash of the last row of some that follow from each other, and of the head's if it is one."""

    last: bytes
    at_head: bytes | None


def _chained(
    cursor: Reader, previous: bytes, first: int, through: int, head: Head
) -> _Chained | None:
    """Follow the chain from a row's hash over the next ones; None where one does not follow."""
    statement = "SELECT seq, canon, h FROM log WHERE seq BETWEEN $1 AND $2"
    cursor.execute(statement, [first, through])
    expected, at_head = first, None
    # As they lie in the file, which is their order: sorting would need memory for them all.
    while rows := cursor.fetchmany(_FETCH_ROWS):
        for seq, canon, told in rows:
            previous = link(previous, canon)
            if seq != expected or previous != told:
                return None
            expected += 1
            if seq == head.seq:
                at_head = previous
    return _Chained(previous, at_head) if expected == through + 1 else None


def _erasures(cursor: Reader) -> Erasures:
    rows = cursor.execute(
        "SELECT seq, data::VARCHAR FROM audit_row WHERE kind = $1 ORDER BY seq", [TEXTS_ERASED]
    ).fetchall()
    return Erasures.of([(int(seq), str(data)) for seq, data in rows])


def _nothing(_done: int, _last: int) -> None:
    """Tell nobody."""


def _shown(value: object) -> str:
    return "empty" if value in (None, "") else f"`{one_line(str(value), _SHOWN_CHARACTERS)}`"
