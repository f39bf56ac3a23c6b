"""A record's row, and the canonical text by which the chain covers it. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from cmesh.store.chain import canonical_row, digest
from cmesh.store.texts import is_empty

__all__ = ["Row", "Value"]

Value = str | int | float | bool | None

VERSION = 3
"""Version 2 names the texts that were never stored (`left_out`): without that, one that somebody
took away later would look the same. Rows of version 1 are not told apart. Version 3 has a digest
of all that can be erased; before, some of it stood in the clear.
"""


class Row(NamedTuple):
    """A typed row without `seq` and `ts`, which the writer gives.

    Attributes:
        kind: the log's word for it.
        values: column -> value; timestamps are microseconds since 1970 UTC.
        texts: columns that may be erased later; the chain holds their digests.
        left_out: texts of which the store keeps the digest alone.
    """

    table: str
    kind: str
    task_id: str | None
    values: Mapping[str, Value]
    texts: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()

    def kept(self) -> Mapping[str, Value]:
        """Return the values as the store keeps them."""
        if not self.left_out:
            return self.values
        return {name: None if name in self.left_out else v for name, v in self.values.items()}

    def salted(self) -> frozenset[str]:
        """Return the columns of which the chain has a salted digest."""
        values = self.values
        salted = frozenset([name for name in self.texts if not is_empty(values[name])])
        return salted | self.left_out if self.left_out else salted

    def canon(self, *, node: str, seq: int, ts: int) -> str:
        """Return the canonical text the chain covers."""
        values = self.values
        fields: dict[str, object] = {
            **values,
            "v": VERSION,
            "node": node,
            "seq": seq,
            "ts": ts,
            "kind": self.kind,
            "table": self.table,
        }
        salted, salt = self.salted(), values.get("salt")
        fields.pop("salt", None)
        for name in salted:
            fields[f"{name}_sha256"] = digest(str(salt), name, str(fields.pop(name)))
        if self.left_out:
            fields["left_out"] = sorted(self.left_out)
        return canonical_row(fields)
