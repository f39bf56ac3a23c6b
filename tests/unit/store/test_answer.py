"""Files between nodes: made of rows and read again; and what a hostile machine may send as one."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import duckdb
import pytest

from cmesh.errors import RemoteProtocolError
from cmesh.store.answer import AnswerFiles
from cmesh.store.confined import Confinement, QueryLimits
from cmesh.store.records import SqlRows

pytestmark = pytest.mark.anyio

BYTES = 1024 * 1024
LIMITS = QueryLimits(engine_s=2.0, wall_s=4.0, answer_bytes=8 * BYTES)
"""Shorter than they are in use: that one holds does not depend on where it is."""

WHEN = "2026-11-30T06:46:05.482927+00:00"
VALUES: list[tuple[str, object, str, object]] = [
    # type here, value as JSON, type there, value there
    ("BIGINT", 2**60, "BIGINT", 2**60),
    ("HUGEINT", 7, "BIGINT", 7),
    ("HUGEINT", 2**100, "DECIMAL(38,0)", str(2**100)),
    ("DOUBLE", "nan", "DOUBLE", "nan"),
    ("DECIMAL(18,6)", 0.25, "DECIMAL(18,6)", 0.25),
    ("BOOLEAN", True, "BOOLEAN", True),
    ("TIMESTAMP WITH TIME ZONE", WHEN, "TIMESTAMP WITH TIME ZONE", WHEN),
    ("DATE", "2026-11-30", "DATE", "2026-11-30"),
    (
        "UUID",
        "0193a5c0-0000-7000-8000-000000000031",
        "UUID",
        "0193a5c0-0000-7000-8000-000000000031",
    ),
    ("BLOB", "ff00", "BLOB", "ff00"),
    ("INTEGER[]", [1, None], "INTEGER[]", [1, None]),
    ("STRUCT(a INTEGER)", {"a": 1}, "VARCHAR", '{"a": 1}'),
    ("INTERVAL", "1 day, 0:00:00", "VARCHAR", "1 day, 0:00:00"),
    ('"NULL"', None, "VARCHAR", None),
    ("VARCHAR", "\x1b[2J\n'; --", "VARCHAR", "\x1b[2J\n'; --"),
    ("DATE", "not one", "VARCHAR", "not one"),
    ("BIGINT) FROM read_text('/etc/passwd') --", "1", "VARCHAR", "1"),
]


def rows_of(columns: list[str], types: list[str], rows: list[list[object]]) -> SqlRows:
    return SqlRows(
        columns=tuple(columns),
        types=tuple(types),
        rows=rows,
        elapsed_ms=1,
        head_seq=9,
    )


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[AnswerFiles]:
    async with AnswerFiles(Confinement(tmp_path / "confined"), LIMITS) as made:
        yield made
    assert not list((tmp_path / "confined").iterdir())  # nothing of a process is left


async def test_values_keep_their_types_or_become_text(tmp_path: Path, files: AnswerFiles) -> None:
    names = [f"c{at}" for at in range(len(VALUES))]
    rows = rows_of(names, [one[0] for one in VALUES], [[one[1] for one in VALUES]] * 2)
    made = await files.write(rows, tmp_path / "f", BYTES)
    assert (made.rows, made.truncated, made.bytes) == (2, False, (tmp_path / "f").stat().st_size)
    back = await files.read(tmp_path / "f", 10, BYTES)
    assert list(back.types) == [one[2] for one in VALUES]
    assert back.rows == [[one[3] for one in VALUES]] * 2


async def test_names_stay_apart_and_no_rows_are_an_answer_too(
    tmp_path: Path, files: AnswerFiles
) -> None:
    named = rows_of(["a", "A", 'x" y', ""], ["VARCHAR"] * 4, [])
    made = await files.write(named, tmp_path / "f", BYTES)
    assert made.rows == 0
    back = await files.read(tmp_path / "f", 10, BYTES)
    assert back.columns == ("a", "A_1", 'x" y', "column")


async def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path, files: AnswerFiles) -> None:
    wide = rows_of(["a"], ["VARCHAR"], [[os.urandom(500).hex()] for _ in range(2_000)])
    made = await files.write(wide, tmp_path / "f", 200_000)
    assert made.truncated
    assert made.bytes <= 200_000
    assert 200 < made.rows < 500
    cut = await files.read(tmp_path / "f", 100, BYTES)
    assert (len(cut.rows), cut.truncated) == (100, True)
    short = await files.read(tmp_path / "f", 1_000, 10_000)
    assert short.truncated
    assert len(short.rows) < 10


def hostile(place: Path) -> dict[str, bytes]:
    """Return files that are none, are damaged, or would be far larger than they are."""
    with duckdb.connect(":memory:") as connection:

        def parquet(select: str, more: str = "") -> bytes:
            connection.execute(
                f"COPY ({select}) TO '{place}/made' (FORMAT parquet, COMPRESSION zstd{more})"
            )
            return (place / "made").read_bytes()

        plain = parquet("SELECT range AS n, 'x' || range AS s FROM range(5000)")
        bombs = {
            "one long value": parquet("SELECT repeat('a', 200000000) AS s"),
            "many long values": parquet("SELECT repeat('a', 5000000) AS s FROM range(500)"),
            "too many columns": parquet(
                "SELECT " + ", ".join(f"1 AS c{at}" for at in range(1_001))
            ),
            "deep nesting": parquet("SELECT " + "[" * 120 + "1" + "]" * 120 + " AS deep"),
            "a long list": parquet("SELECT range(3000000) AS l"),
            "a map of structs": parquet("SELECT map {{'a': 1}: [{'b': [NULL]}]} AS m"),
            "one huge row group": parquet(
                "SELECT range AS n FROM range(3000000)", ", ROW_GROUP_SIZE 3000000"
            ),
        }
    middle = len(plain) // 2
    flipped = bytes(
        byte ^ 0x55 if middle - 40 < at < middle else byte for at, byte in enumerate(plain)
    )
    return {
        "empty": b"",
        "not parquet": b"\x00" * 5000,
        "arrow": b"ARROW1\x00\x00" + b"\xff\xff\xff\xff" * 50 + b"ARROW1",
        "encrypted": plain[:-4] + b"PARE",
        "only its marks": b"PAR1PAR1",
        "a footer longer than the file": b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1",
        "cut off": plain[:-100],
        "bits of a footer": plain[:-60] + bytes(byte ^ 0xFF for byte in plain[-60:-8]) + plain[-8:],
        "bits of a page": flipped,
        **bombs,
    }


async def test_a_hostile_file_ends_as_an_error_or_short_rows_and_the_next_is_read(
    tmp_path: Path, files: AnswerFiles
) -> None:
    good = await files.write(rows_of(["a"], ["BIGINT"], [[1]]), tmp_path / "good", BYTES)
    assert good.rows == 1
    refused, told = set[str](), list[str]()
    for name, data in (await asyncio.to_thread(hostile, tmp_path)).items():
        (tmp_path / "bad").write_bytes(data)
        try:
            found = await files.read(tmp_path / "bad", 100, BYTES)
        except RemoteProtocolError as error:
            refused.add(name)
            told.append(error.message)
        else:
            assert len(str(found.rows)) < 4 * BYTES, name
        assert (await files.read(tmp_path / "good", 10, BYTES)).rows == [[1]]
    assert not any(str(tmp_path) in message for message in told)
    assert refused >= {
        *("empty", "not parquet", "arrow", "encrypted", "only its marks", "cut off"),
        *("too many columns", "one long value"),
    }


async def test_a_reader_that_is_cancelled_gives_nobody_the_answer_of_another(
    tmp_path: Path, files: AnswerFiles
) -> None:
    for name, value in (("one", 1), ("two", 2)):
        await files.write(rows_of(["a"], ["BIGINT"], [[value]]), tmp_path / name, BYTES)
    reading = asyncio.ensure_future(files.read(tmp_path / "one", 10, BYTES))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert (await files.read(tmp_path / "two", 10, BYTES)).rows == [[2]]
