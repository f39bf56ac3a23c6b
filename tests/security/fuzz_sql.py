"""Damaged SQL through the store's own way: rows or a refusal, and the store as it was."""

import random
import re
import resource
import tempfile
from pathlib import Path

from cmesh.errors import QueryRefused
from cmesh.store.sql import QueryLimits
from cmesh.store.store import Store
from tests.security.fuzz_frames import Found
from tests.security.mutate import HOSTILE_TEXTS, damaged_text
from tests.unit.store.support import FixedClock, task

__all__ = ["fuzz_sql"]

ROOT = Path(__file__).parents[2]
WARM_UP = 50
LIMITS = QueryLimits(wall_s=2.0)
"""A damaged query may be a long one; that it is ended is the same at any length."""

HOSTILE = (
    "COPY log TO '{out}'",
    "ATTACH '{out}' AS other",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_csv('{out}')",
    "INSERT INTO log SELECT * FROM log",
    "DELETE FROM log",
    "SET memory_limit='1TB'",
    "SET lock_configuration=false; SET enable_external_access=true",
    "PRAGMA database_list",
    "EXPORT DATABASE '{out}'",
    "CALL pragma_version()",
    "INSTALL httpfs; LOAD httpfs",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
    "SELECT repeat('x', 2000000000)",
    "SELECT getenv('HOME')",
    "SELECT $1, ?",
)


async def fuzz_sql(count: int, seed: int) -> Found:
    """Ask `count` damaged questions of a real store, one after another."""
    chance, found, before = random.Random(seed), Found(), 0
    texts = re.findall(r"(?ms)^```sql\n(.*?)^```", (ROOT / "docs/audit.md").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        hostile = [text.format(out=out) for text in HOSTILE]
        where = Path(name) / "store"
        store = await Store.open(where, clock=FixedClock(), node="nSELF", query_limits=LIMITS)
        try:
            await store.commit([task()])
            head = store.head
            for number in range(count):
                text = _damaged(chance, [*texts, *hostile])
                found.inputs += 1
                try:
                    rows = await store.sql(text, (), 10)
                    found.taken += 1
                    assert rows.columns
                except QueryRefused as error:
                    found.malformed += 1
                    if not error.message.strip() or "\n" in error.message:
                        found.crashes.append(f"no plain message: {error.message!r}")
                except Exception as error:  # noqa: BLE001 - what a fuzzer is for
                    found.crashes.append(f"{type(error).__name__}: {error}: {text[:300]!r}")
                if number == min(WARM_UP, count // 2):
                    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            assert not out.exists()
            assert store.head == head
            assert (await store.sql("SELECT count(*) FROM task_row", (), 1)).rows == [[1]]
        finally:
            await store.close()
    found.growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return found


def _damaged(chance: random.Random, texts: list[str]) -> str:
    text = chance.choice(texts)
    match chance.randrange(5):
        case 0:
            return text
        case 1:
            words = text.split()
            for _ in range(chance.randrange(1, 6)):
                words[chance.randrange(len(words))] = chance.choice(chance.choice(texts).split())
            return " ".join(words)
        case 2:
            return text.replace(
                " ", chance.choice(("/**/", "\t", "\0", " (", ") ", ";", "--\n")), 3
            )
        case 3:
            return re.sub(r"'[^']*'|\d+", lambda _: repr(chance.choice(HOSTILE_TEXTS)), text)
        case _:
            return damaged_text(chance, text, texts)
