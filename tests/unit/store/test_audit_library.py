"""`cmesh.audit`: a connection on a copy that leaves nothing behind and sees nothing later."""

import gc
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import pytest

import cmesh.audit
from cmesh.errors import StoreDamaged, StoreError, UsageError
from cmesh.interfaces.exports import export_store
from cmesh.store.manifest import MANIFEST
from tests.unit.store.exporting import Node
from tests.unit.store.support import FixedClock, task

# Inside a running loop, as in a notebook.
pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[3]
PROMPTS = "SELECT prompt FROM tasks ORDER BY seq"


async def test_a_connection_reads_its_own_moment_and_leaves_nothing(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path / "laptop", "laptop")
    await node.fill([task(prompt="why?")], clock)
    monkeypatch.setenv("CMESH_STATE_DIR", str(node.state))
    with cmesh.audit.connect() as first:
        assert list((node.state / "store" / "snapshots").iterdir()) == []
        await node.fill([task(prompt="and now?")], clock)
        with cmesh.audit.connect(node.state) as second:
            assert second.execute(PROMPTS).fetchall() == [("why?",), ("and now?",)]
        assert first.execute(PROMPTS).fetchall() == [("why?",)]
        assert first.execute("SELECT current_setting('TimeZone')").fetchone() == ("UTC",)
        # Its own tables are a program's to make; the audit is not its to change.
        first.execute("CREATE TEMP TABLE mine AS SELECT * FROM tasks")
        with pytest.raises(duckdb.Error, match="read-only"):
            first.execute("DELETE FROM log")
        assert list((node.state / "store" / "snapshots").iterdir()) == []


async def test_what_is_larger_than_memory_is_spilled_though_the_copy_has_no_place(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(tmp_path / "laptop", "laptop")
    await node.fill([task()], clock)
    spills = tmp_path / "spills"
    spills.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spills))
    with cmesh.audit.connect(node.state) as audit:
        audit.execute("SET memory_limit='40MB'; SET threads=1")
        audit.execute("SET preserve_insertion_order=false")
        row = audit.execute(
            "SELECT count(*) FROM (SELECT md5(i::VARCHAR) m, i FROM range(1000000) r(i) ORDER BY m"
            " OFFSET 1)"
        ).fetchone()
        assert len(list(spills.iterdir())) == 1
    assert row == (999_999,)
    del audit
    gc.collect()
    assert list(spills.iterdir()) == []


async def test_exports_of_nodes_are_one_connection_and_a_changed_one_is_none(
    tmp_path: Path, clock: FixedClock
) -> None:
    target = tmp_path / "exports"
    for name in ("laptop", "desk"):
        node = Node(tmp_path / name, name)
        await node.fill([task(prompt=name)], clock)
        export_store(node.state, str(target))
    with cmesh.audit.connect_exports(target, verify=True) as audit:
        rows = audit.execute("SELECT node, prompt FROM tasks ORDER BY 1").fetchall()
    assert rows == [("desk", "desk"), ("laptop", "laptop")]
    [path] = target.glob(f"desk-*/{MANIFEST}")
    path.write_text(path.read_text("utf-8").replace('"desk"', '"disk"'))
    with pytest.raises(StoreDamaged):
        cmesh.audit.connect_exports(target)


PROGRAM = """
import cmesh.audit
with cmesh.audit.connect() as audit:
    audit.sql("SELECT prompt, state FROM tasks").show()
"""


async def test_a_program_that_imports_nothing_else_has_all_of_duckdb(
    tmp_path: Path, clock: FixedClock
) -> None:
    node = Node(tmp_path / "laptop", "laptop")
    await node.fill([task(prompt="why?")], clock)
    environment = {"CMESH_STATE_DIR": str(node.state), "PYTHONPATH": str(ROOT)}
    ran = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(ran, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "why?" in done.stdout, done.stderr) == (0, True, "")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        cmesh.audit.connect(tmp_path)
    with pytest.raises(StoreError, match="there is no export"):
        cmesh.audit.connect_exports(tmp_path / "nothing")
    with pytest.raises(UsageError):
        cmesh.audit.connect_exports()
