"""What both sides of a fleet query write down of it, and how its answers become one. Pure."""

import hashlib
from collections.abc import Mapping, Sequence

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
    columns: dict[str, str] = {}
    types: dict[str, str] = {}
    placed: list[tuple[str, list[str], SqlRows]] = []
    for node, rows in answers:
        keys: list[str] = []
        for name, kind in zip(rows.columns, rows.types, strict=True):
            shown = one_line(name, COLUMN_CHARACTERS)
            if shown.lower() == NODE:
                shown = f"{NODE}_1"
            key, number = shown.lower(), 1
            while key in keys:  # twice in one answer
                shown, number = f"{one_line(name, COLUMN_CHARACTERS)}_{number}", number + 1
                key = shown.lower()
            if key not in columns and len(columns) >= COLUMNS_MOST:
                key = ""
            else:
                columns.setdefault(key, shown)
                same = types.setdefault(key, kind) in (kind, '"NULL"')
                types[key] = kind if same else "VARCHAR" if kind != '"NULL"' else types[key]
            keys.append(key)
        placed.append((node, keys, rows))
    order = list(columns)
    united: list[list[object]] = []
    for node, keys, rows in placed:
        for row in rows.rows:
            values: Mapping[str, object] = dict(zip(keys, row, strict=True))
            united.append([node, *(values.get(key) for key in order)])
    names = [NODE, *columns.values()]
    return names, ["VARCHAR", *(types[key] for key in order)], united
