"""What both sides of a fleet query write down of it, and how its answers become one. Pure."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from cmesh.config import Config
from cmesh.model import NodeId
from cmesh.redact import Redactor
from cmesh.store.records import SqlRows
from cmesh.text import one_line

__all__ = [
    "NODE",
    "QUERY_ANSWERED",
    "QUERY_ASKED",
    "QUERY_ENDED",
    "QUERY_RECEIVED",
    "lacks_columns",
    "statement",
    "unite",
]

QUERY_ASKED, QUERY_ENDED = "query_asked", "query_ended"
"""Kinds of audit row on the asking node: before a word goes out, and what came of each peer."""

QUERY_RECEIVED, QUERY_ANSWERED = "query_received", "query_answered"
"""Kinds of audit row on the answering node: before it is looked at, and before rows go out."""

NODE = "node"
"""The column that says which node a row is of."""

COLUMN_CHARACTERS = 80
COLUMNS_MOST = 1_000
CELLS_MOST = 3_000_000
"""Of all rows: more than 8 MiB of JSON can hold, so only columns that few nodes have go over it."""


def statement(
    query_id: str, peer_id: NodeId, peer: str, sql: str, *, config: Config, redactor: Redactor
) -> dict[str, object]:
    """Return what an audit row says of a query.

    An audit row is never changed, so a statement's text stands in it only where texts are kept
    for ever; its digest, over the query's id and the text as asked, always does.
    """
    digest = hashlib.sha256(f"{query_id}\n{sql}".encode("utf-8", "surrogatepass")).hexdigest()
    told: dict[str, object] = {
        "query": query_id,
        "peer_id": peer_id,
        "peer": peer,
        "sql_sha256": digest,
        "sql_bytes": len(sql.encode("utf-8", "surrogatepass")),
    }
    if config.store.store_prompts == "text" and config.store.keep_text_days is None:
        told["sql"] = redactor.text(sql)[0]
    return told


def unite(
    answers: Sequence[tuple[str, SqlRows]],
) -> tuple[list[str], list[str], list[list[object]]]:
    """Return columns, types and rows of all answers, by the columns' names, case aside.

    `node` comes first; what a row's node does not have is None. A column of the answers that is
    called so too becomes `node_1`. Of different types under one name the column's is VARCHAR.
    """
    named = [_named(rows.columns) for _node, rows in answers]
    kept = _kept(named, sum(len(rows.rows) for _node, rows in answers))
    columns: dict[str, str] = {}
    types: dict[str, str] = {}
    for names, (_node, rows) in zip(named, answers, strict=True):
        for (key, shown), kind in zip(names.items(), rows.types, strict=True):
            if key in kept:
                columns.setdefault(key, shown)
                same = types.setdefault(key, kind) in (kind, '"NULL"')
                types[key] = kind if same else "VARCHAR" if kind != '"NULL"' else types[key]
    united: list[list[object]] = []
    for names, (node, rows) in zip(named, answers, strict=True):
        places = {key: at for at, key in enumerate(names)}
        order = [places.get(key) for key in columns]
        united += [[node, *(None if at is None else row[at] for at in order)] for row in rows.rows]
    return [NODE, *columns.values()], ["VARCHAR", *(types[key] for key in columns)], united


def lacks_columns(answers: Sequence[tuple[str, SqlRows]], columns: Sequence[str]) -> bool:
    """Say whether `unite` has left columns of the answers out of its own `columns`."""
    having = {key for _node, rows in answers for key in _named(rows.columns)}
    return len(having) >= len(columns)  # of which the first is not of an answer


def _named(columns: Sequence[str]) -> dict[str, str]:
    """Return key and name of each of one answer's columns; of equal ones, later get a number."""
    names: dict[str, str] = {}
    last: dict[str, int] = {}
    for column in columns:
        plain = one_line(column, COLUMN_CHARACTERS)
        shown = f"{NODE}_1" if plain.lower() == NODE else plain
        while shown.lower() in names:
            last[plain] = last.get(plain, 0) + 1
            shown = f"{plain}_{last[plain]}"
        names[shown.lower()] = shown
    return names


def _kept(named: Sequence[Mapping[str, str]], rows: int) -> Collection[str]:
    """Return the keys of the columns that are shown, where there are too many.

    INVARIANT: a peer cannot crowd out what several others have, nor make their rows wide: what
    many nodes have goes before what one has, and of that each node's first ones. Of what one
    node alone has, many rows of another may leave columns out, which is then said.
    """
    having = Counter(key for names in named for key in names)
    ahead = {key: (-having[key], at) for names in reversed(named) for at, key in enumerate(names)}
    return set(
        sorted(ahead, key=ahead.__getitem__)[: min(COLUMNS_MOST, CELLS_MOST // max(1, rows))]
    )
