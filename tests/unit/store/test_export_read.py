"""Exports of a store: what comes again, what a kill leaves, what was changed, several nodes."""

import asyncio
import hashlib
import io
import json
import subprocess
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
from jsonschema import Draft202012Validator

from cmesh.errors import QueryRefused, StoreBusy, StoreDamaged, StoreError, UsageError
from cmesh.interfaces.cli.app import main
from cmesh.interfaces.cli.exits import AUDIT_BROKEN_EXIT, CUT_EXIT
from cmesh.interfaces.exports import OpenedExports, export_store, opened
from cmesh.keys import SigningKey
from cmesh.locks import FileLock
from cmesh.model import Direction
from cmesh.store import places
from cmesh.store.confined import QueryLimits
from cmesh.store.export_read import fetch, find
from cmesh.store.manifest import MANIFEST, read_manifest, seal
from cmesh.store.store import Store
from tests.unit.store.exporting import Node
from tests.unit.store.support import FixedClock, event, result, state, task

pytestmark = pytest.mark.anyio
SCHEMAS = Path(__file__).parents[3] / "schemas"


@pytest.fixture
async def node(tmp_path: Path, clock: FixedClock) -> Node:
    made = Node(tmp_path / "laptop", "laptop")
    asked = task(prompt="why?")
    await made.fill([asked, state(asked, "accepted"), event(asked, 1), event(asked, 2)], clock)
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "exports"


def manifest_of(target: Path) -> Path:
    [found] = target.glob("*/manifest.json")
    return found


def files_of(target: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file()
    }


async def ask(targets: list[Path], sql: str) -> list[list[object]]:
    with opened([str(one) for one in targets], verify=False) as found:
        async with OpenedExports(found.database) as asked:
            return (await asked.ask(sql, 100)).rows


async def test_an_export_of_a_node_tells_of_itself(
    node: Node, target: Path, clock: FixedClock
) -> None:
    seq, digest = node.head
    # It opens the store in a loop of its own.
    done = await asyncio.to_thread(export_store, node.state, str(target), clock, node=node.name)
    assert done.last_seq > seq
    select = "SELECT data->>'where', (data->>'head_seq')::BIGINT, data->>'head_hash', data->>'$.by.program' FROM audit WHERE kind = 'export_begun'"
    assert await ask([target], select) == [[str(target), seq, digest, "cmesh audit export"]]
    with opened([str(target)], verify=True) as found:
        assert found.finding is None


async def test_an_export_answers_as_its_store_and_any_reader_of_parquet_reads_it(
    node: Node, target: Path
) -> None:
    done = export_store(node.state, str(target))
    assert (done.first_seq, done.last_seq) == (1, node.head[0])
    assert await ask([target], "SELECT node, prompt, state, events FROM tasks") == [
        ["laptop", "why?", "queued", 2]
    ]
    views = f"{done.where}/views/events/*/*.parquet"
    query = f"SELECT n, text, day::VARCHAR FROM read_parquet('{views}') ORDER BY n"
    assert duckdb.execute(query).fetchall() == [
        (1, "looking", "2026-01-02"),
        (2, "looking", "2026-01-02"),
    ]
    assert all(path.stat().st_mode & 0o077 == 0 for path in Path(done.where).rglob("*"))


async def test_the_commands_export_ask_and_check(
    node: Node, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Each runs a loop of its own, so not in the thread of this one.
    await asyncio.to_thread(run_commands, node, target, monkeypatch, capsys)


def run_commands(
    node: Node, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> tuple[int, str]:
        status = main(["audit", *words])
        return status, capsys.readouterr().out

    monkeypatch.setenv("CMESH_STATE_DIR", str(node.state))
    monkeypatch.setenv("CMESH_CONFIG_DIR", str(node.state))
    (node.state / "config.toml").write_text('[node]\nhostname = "laptop"\n')
    (node.state / "config.toml").chmod(0o600)
    status, out = run("export", str(target), "--json")
    # One row more, which says that it was exported.
    assert (status, json.loads(out)["last_seq"]) == (0, node.head[0] + 1)
    status, out = run("open", str(target), "--sql", "SELECT node, prompt FROM tasks", "--json")
    assert (status, json.loads(out)["rows"]) == (0, [["laptop", "why?"]])
    status, out = run("open", str(target), "--verify", "--json")
    assert (status, json.loads(out)["ok"]) == (0, True)
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 1 +\n 1 AS two;\n;\nSELEC;\n.quit\n"))
    status, out = run("open", str(target), "--format", "csv")
    assert (status, out.splitlines()[-2:]) == (0, ["two", "2"])
    schema = json.loads((SCHEMAS / "export.json").read_text("utf-8"))
    # The library's stubs leave an argument of a deprecated overload untyped.
    Draft202012Validator(schema).validate(json.loads(manifest_of(target).read_bytes()))  # pyright: ignore[reportUnknownMemberType]
    edit_row(node, target)
    status, out = run("open", str(target), "--verify", "--json")
    assert (status, json.loads(out)["ok"]) == (AUDIT_BROKEN_EXIT, False)
    flip(next(manifest_of(target).parent.glob("rows/log/*/*.parquet")))
    assert run("open", str(target), "--sql", "SELECT 1")[0] == StoreDamaged.exit_status


async def test_only_days_in_which_something_came_are_written_again(
    node: Node, target: Path, clock: FixedClock
) -> None:
    export_store(node.state, str(target))
    before = files_of(target)
    assert export_store(node.state, str(target)).put == 0
    assert files_of(target) == before
    clock.advance(timedelta(days=1).total_seconds())
    await node.fill([task(prompt="and today?")], clock)
    again = export_store(node.state, str(target))
    assert (again.first_seq, again.last_seq) == (before_last(before) + 1, node.head[0])
    after = files_of(target)
    rows = {name for name in before if "/rows/" in name}
    assert {name for name in rows if after.get(name) != before[name]} == set()
    assert any("rows/task_row/day=2026-01-03" in name for name in after.keys() - before.keys())
    assert await ask([target], "SELECT prompt FROM tasks ORDER BY seq") == [
        ["why?"],
        ["and today?"],
    ]


def before_last(files: dict[str, bytes]) -> int:
    return next(json.loads(d)["last_seq"] for n, d in files.items() if n.endswith("manifest.json"))


async def test_killed_at_any_step_it_is_the_old_export_and_the_next_one_is_whole(
    node: Node, target: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_store(node.state, str(target))
    done = task(prompt="and then?")
    await node.fill([done, state(done, "accepted"), event(done, 1)], clock)
    put = places.Folder.put

    left = 0

    def dies(self: places.Folder, file: Path, name: str) -> None:
        nonlocal left
        left -= 1
        if left < 0 or name == MANIFEST:
            raise KeyboardInterrupt
        put(self, file, name)

    for steps in (0, 2, 1000):
        left = steps
        with monkeypatch.context() as patch:
            patch.setattr(places.Folder, "put", dies)
            with pytest.raises(KeyboardInterrupt):
                export_store(node.state, str(target))
        [one] = find([str(target)])
        fetch(one, target, whole=True)
        assert one.manifest.last_seq < node.head[0]
    export_store(node.state, str(target))
    listed = {file.path for file in read_manifest(manifest_of(target).read_bytes(), "it").files}
    there = {name.partition("/")[2] for name in files_of(target)}
    assert there == {*listed, "manifest.json"}
    with opened([str(target)], verify=True) as found:
        assert (found.finding, found.nodes[0].last_seq) == (None, node.head[0])


async def test_two_exports_at_once_are_refused(node: Node, target: Path) -> None:
    lock = FileLock(node.state / "store" / "export.lock")
    lock.acquire()
    try:
        with pytest.raises(StoreBusy, match="an export of this store is running"):
            export_store(node.state, str(target))
    finally:
        lock.release()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("pattern", ["rows/log/*/*.parquet", "rows/event_row/*/*.parquet"])
async def test_a_changed_file_is_refused_before_it_is_read(
    node: Node, target: Path, pattern: str
) -> None:
    export_store(node.state, str(target))
    flip(next(manifest_of(target).parent.glob(pattern)))
    with (
        pytest.raises(StoreDamaged, match="is not as it was written"),
        opened([str(target)], verify=False),
    ):
        pass


async def test_a_changed_view_file_is_found_by_a_whole_check(node: Node, target: Path) -> None:
    export_store(node.state, str(target))
    flip(next(manifest_of(target).parent.glob("views/events/*/*.parquet")))
    with opened([str(target)], verify=False) as found:
        assert found.finding is None
    with pytest.raises(StoreDamaged, match="views/events"), opened([str(target)], verify=True):
        pass


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"last_seq": 3}, "is not what its key signed"),
        ({"node": "other"}, "is not what its key signed"),
        ({"peers": [{"peer_id": "x"}]}, "is no manifest"),
        ({"files": [{"path": "../key.parquet"}]}, "is no manifest"),
        ({"format": "cmesh-export/2"}, "is no manifest"),
    ],
)
async def test_a_changed_manifest_is_refused(
    node: Node, target: Path, change: dict[str, object], says: str
) -> None:
    export_store(node.state, str(target))
    path = manifest_of(target)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(StoreDamaged, match=says), opened([str(target)], verify=False):
        pass
    with pytest.raises(StoreDamaged, match=says):
        export_store(node.state, str(target))


async def test_who_signs_a_cut_off_log_anew_is_found_by_what_a_peer_holds(
    node: Node, target: Path, clock: FixedClock, tmp_path: Path
) -> None:
    peer = Node(tmp_path / "desk", "desk")
    signed = node.head
    await peer.fill([peer.trusts(node, "pair"), peer.holds_head_of(node, *signed)], clock)
    await node.fill([node.trusts(peer, "delegate")], clock)
    for one in (node, peer):
        export_store(one.state, str(target))
    with opened([str(target)], verify=True, own=peer.state) as found:
        assert found.finding is None
        assert {one.node: one.vouched for one in found.nodes} == {
            "laptop": "confirmed by a person on desk",
            "desk": "this node's own key",
        }
        assert [peer.how for one in found.nodes for peer in one.peers] == ["person", "first_use"]
    # The owner of the key writes another history, as long as the old one, and signs that.
    forged = Node(tmp_path / "forged", "laptop")
    (forged.state / "key").write_bytes((node.state / "key").read_bytes())
    forged.key = SigningKey.load_or_make(forged.state / "key")
    await forged.fill([task(prompt=f"never {n}") for n in range(10)], clock)
    other = tmp_path / "other"
    export_store(forged.state, str(other))
    export_store(peer.state, str(other))
    with opened([str(other)], verify=True) as found:
        assert found.finding is not None
        assert (found.finding.seq, "`desk` holds a head" in found.finding.what) == (signed[0], True)


def edit_row(node: Node, target: Path) -> None:
    """Change a row of an export, and sign the manifest anew with the node's own key."""
    path = manifest_of(target)
    manifest = read_manifest(path.read_bytes(), "it")
    [file] = manifest.rows()["event_row"]
    edited = target.parent / "edited.parquet"
    source = f"read_parquet('{path.parent / file.path}', hive_partitioning=false)"
    duckdb.execute(
        f"COPY (SELECT * REPLACE (n + 1 AS n) FROM {source}) TO '{edited}' (FORMAT parquet)"
    )
    data = edited.read_bytes()
    (path.parent / file.path).write_bytes(data)
    more = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    files = [one.model_copy(update=more) if one == file else one for one in manifest.files]
    path.write_bytes(seal(manifest.model_copy(update={"files": tuple(files)}), node.key))


async def test_an_edited_row_that_was_signed_anew_does_not_fit_its_chain(
    node: Node, target: Path
) -> None:
    export_store(node.state, str(target))
    edit_row(node, target)
    with opened([str(target)], verify=True) as found:
        assert found.finding is not None
        assert "its `n` is `2`, and the chain says `1`" in found.finding.what


async def test_another_log_under_the_same_name_is_not_overwritten(
    node: Node, target: Path, clock: FixedClock, tmp_path: Path
) -> None:
    export_store(node.state, str(target))
    before = files_of(target)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(node.state), str(copy)], check=True)
    await node.fill([task()], clock)
    newer = export_store(node.state, str(target))
    with pytest.raises(StoreError, match=f"this store ends at {newer.last_seq - 1}"):
        export_store(copy, str(target))
    behind = Node(copy, "laptop")
    await behind.fill([task(prompt="a fork"), task()], clock)
    with pytest.raises(StoreError, match="has another row"):
        export_store(copy, str(target))
    assert files_of(target).keys() >= {n for n in before if "manifest" in n}


async def test_what_is_asked_of_exports_can_read_and_nothing_else(
    node: Node, target: Path, tmp_path: Path
) -> None:
    export_store(node.state, str(target))
    with opened([str(target)], verify=False) as found:
        async with OpenedExports(found.database) as asked:
            for text in (
                "DELETE FROM n1.log",
                f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
                "SELECT * FROM read_text('/etc/passwd')",
                f"ATTACH '{tmp_path}/x.db'",
            ):
                with pytest.raises(QueryRefused):
                    await asked.ask(text, 10)
            assert (await asked.ask("SELECT count(*) FROM audit", 10)).rows == [[node.head[0]]]
        place = found.database.parent
    assert not place.exists()


BOMB = "SELECT list(a.i) FROM range(100000000) a(i)"


@pytest.mark.parametrize(
    ("sql", "status", "said"),
    [
        (BOMB, QueryRefused.exit_status, "its limit of 256 MiB of memory"),
        (
            "SELECT repeat('x', 1000000) FROM range(20)",
            CUT_EXIT,
            "only the first 8 rows: with more",
        ),
        ("SELECT n FROM events", CUT_EXIT, "only the first row; raise --limit"),
        ("SELECT $a", QueryRefused.exit_status, "each `?` or `$name` needs a value"),
    ],
)
async def test_a_query_of_exports_that_reaches_a_limit_is_told_which(
    sql: str, status: int, said: str, node: Node, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_store(node.state, str(target))
    limit = "1" if "events" in sql else "100"
    words = ["audit", "open", str(target), "--format", "csv", "--limit", limit, "--sql", sql]
    assert await asyncio.to_thread(main, words) == status
    assert said in capsys.readouterr().err


async def test_exports_are_asked_from_a_pipe_and_one_without_a_statement_is_wrong(
    node: Node,
    target: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    export_store(node.state, str(target))
    for typed, status in (("SELECT 41 + 1 AS n;\n", 0), ("\n", UsageError.exit_status)):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        assert await asyncio.to_thread(main, ["audit", "open", str(target)]) == status
        seen = capsys.readouterr()
        assert ("42" in seen.out, "there is no statement" in seen.err) == (not status, bool(status))


async def test_exports_answer_on_after_a_query_that_took_too_long(node: Node, target: Path) -> None:
    export_store(node.state, str(target))
    slow = "SELECT sum(a.i * b.i) FROM range(1000000) a(i), range(1000000) b(i)"
    with opened([str(target)], verify=False) as found:
        async with OpenedExports(found.database, QueryLimits(engine_s=0.2, wall_s=1.0)) as asked:
            with pytest.raises(QueryRefused, match="reached its limit of") as error:
                await asked.ask(slow, 10)
            assert error.value.hint.startswith("ask for less")
            assert (await asked.ask("SELECT count(*) FROM tasks", 10)).rows == [[1]]


async def test_nodes_of_one_name_are_told_apart(
    node: Node, target: Path, clock: FixedClock, tmp_path: Path
) -> None:
    twin = Node(tmp_path / "twin", "laptop")
    await twin.fill([task()], clock)
    for one in (node, twin):
        export_store(one.state, str(target))
    rows = await ask([target], "SELECT DISTINCT node FROM tasks ORDER BY 1")
    assert len(rows) == 2
    assert all(str(row[0]).startswith("laptop") for row in rows)


@pytest.mark.parametrize("text", ["s3://user:secret@bucket/x", "https://bucket/x", "s3:///x"])
def test_a_target_of_another_form_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        places.open_place(text)
    with pytest.raises(StoreError, match="there is no store"):
        export_store(tmp_path, "x")


async def test_a_full_or_closed_disk_is_named(
    node: Node, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(places.shutil, "copyfile", full)
    with pytest.raises(StoreError, match="no room in"):
        export_store(node.state, str(target))


async def test_what_was_forgotten_leaves_the_export_which_still_fits(
    node: Node, target: Path, clock: FixedClock
) -> None:
    asked = task(direction=Direction.OUT, prompt="FORGETWORD")
    await node.fill([asked, state(asked, "sent"), result(asked)], clock)
    export_store(node.state, str(target))
    store = await Store.open(node.state / "store", clock=clock, node=node.name)
    try:
        await store.forget([asked.task_id], {"by": "a test"})
        assert await store.erase_due(None) == 3
    finally:
        await store.close()
    export_store(node.state, str(target))
    with opened([str(target)], verify=True) as found:
        assert found.finding is None
        async with OpenedExports(found.database) as exported:
            sql = "SELECT prompt, forgotten, state FROM tasks ORDER BY seq"
            assert (await exported.ask(sql, 10)).rows == [
                ["why?", False, "queued"],
                [None, True, "succeeded"],
            ]
