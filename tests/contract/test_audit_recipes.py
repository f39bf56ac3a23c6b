"""The recipe of the page that says it is run: another engine reads what an export wrote."""

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cmesh.interfaces.exports import OpenedExports, export_store, opened
from cmesh.keys import SigningKey
from cmesh.store.store import Store
from tests.contract.audit_month import MonthClock, live_a_month

PAGE = Path(__file__).parents[2] / "docs" / "audit-recipes.md"
PLACE = "/mnt/backup/audit"
RECIPE_LIMIT_S = 60
SAME = (
    "SELECT node, day::VARCHAR AS day, state, count(*) AS tasks,"
    " round(coalesce(sum(duration_s), 0), 3) AS seconds"
    " FROM (SELECT *, created_at::DATE AS day FROM tasks) GROUP BY ALL ORDER BY ALL"
)

pytestmark = pytest.mark.anyio


async def test_polars_reads_the_exports_of_two_nodes_as_they_are(tmp_path: Path) -> None:
    target = tmp_path / "audit"
    for name in ("laptop", "server-1"):
        state = tmp_path / name
        state.mkdir(mode=0o700)
        SigningKey.load_or_make(state / "key")
        clock = MonthClock()
        store = await Store.open(state / "store", clock=clock, node=name)
        await live_a_month(store, clock)
        await store.close()
        export_store(state, str(target))
    [recipe] = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert recipe.count(PLACE) == 1
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", recipe.replace(PLACE, str(target))],
        capture_output=True,
        text=True,
        timeout=RECIPE_LIMIT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    read = [
        [
            row["node"],
            row["day"],
            row["state"],
            int(row["tasks"]),
            round(float(row["seconds"] or 0), 3),
        ]
        for row in csv.DictReader(io.StringIO(ran.stdout))
    ]
    with opened([str(target)], verify=False) as found:
        async with OpenedExports(found.database) as exports:
            told = (await exports.ask(SAME, 1000)).rows
    assert read == told
    assert {row[0] for row in read} == {"laptop", "server-1"}
    assert len(read) > 10
