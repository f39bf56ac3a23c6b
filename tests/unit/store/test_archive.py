"""A store as one file, and back: whole, another incarnation, and nothing taken on trust."""

import asyncio
import io
import json
import os
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cmesh.errors import DiskFull, SchemaTooNew, StoreBusy, StoreDamaged, UsageError
from cmesh.interfaces import backup
from cmesh.interfaces.cli.app import main
from cmesh.model import Direction
from cmesh.platform import files
from cmesh.store import archive, replacing
from cmesh.store.opening import Claim
from cmesh.store.records import TaskRecord
from cmesh.store.store import Store
from tests.unit.store.support import result, task

pytestmark = pytest.mark.anyio

OpenStore = Callable[..., Awaitable[Store]]
LIST = "cmesh-backup.json"


async def filled(open_store: OpenStore) -> tuple[str, TaskRecord]:
    store = await open_store("home/store")
    output = await store.blob(b"all of the output")
    record = task(direction=Direction.OUT, prompt="say PROMPTWORD")
    await store.commit([record, result(record)])
    assert output
    before = store.incarnation
    await store.close()
    return before, record


@pytest.fixture
async def saved(open_store: OpenStore, tmp_path: Path) -> tuple[Path, str, TaskRecord]:
    (tmp_path / "home").mkdir(mode=0o700)
    incarnation, record = await filled(open_store)
    file = tmp_path / "audit.backup"
    contents = await asyncio.to_thread(backup.back_up, tmp_path / "home/store", file, force=False)
    assert (contents.outputs, contents.incarnation) == (1, incarnation)
    assert file.stat().st_mode & 0o777 == 0o600
    return file, incarnation, record


async def put_back(file: Path, state: Path) -> backup.Restored:
    return await asyncio.to_thread(backup.restore, file, state, "nSELF")


async def test_a_store_comes_back_whole_under_another_incarnation(
    saved: tuple[Path, str, TaskRecord], open_store: OpenStore, tmp_path: Path
):
    file, before, record = saved
    done = await put_back(file, tmp_path / "other")
    assert done.replaced is None
    store = await open_store("other/store")
    assert store.incarnation == done.incarnation != before
    found = await store.verify()
    assert (found.finding, found.head_ok) == (None, True)
    back = await store.task(record.task_id)
    assert back is not None
    assert back.record.spec.prompt == "say PROMPTWORD"
    assert len(list((tmp_path / "other/store/blobs").glob("??/*"))) == 1


async def test_the_store_that_was_there_is_kept_and_what_was_forgotten_stays_so(
    saved: tuple[Path, str, TaskRecord], open_store: OpenStore, tmp_path: Path
):
    file, _, record = saved
    store = await open_store("home/store")
    await store.forget([record.task_id], {"by": "a test"})
    await store.erase_due(None)
    await store.close()
    done = await put_back(file, tmp_path / "home")
    assert done.replaced == tmp_path / "home/store.replaced-1"
    again = await open_store("home/store")
    found = await again.task(record.task_id)
    assert found is not None
    assert found.forgotten
    assert (await again.verify()).finding is None
    await again.close()
    left = [path for path in (tmp_path / "home/store").rglob("*") if path.is_file()]
    assert not [path for path in left if b"PROMPTWORD" in path.read_bytes()]


async def test_a_running_daemon_is_not_replaced(
    saved: tuple[Path, str, TaskRecord], open_store: OpenStore, tmp_path: Path
):
    await open_store("home/store")
    with pytest.raises(StoreBusy, match=r"has .* open"):
        await put_back(saved[0], tmp_path / "home")


async def test_a_kill_while_it_is_put_back_leaves_the_store_that_was_there(
    saved: tuple[Path, str, TaskRecord],
    open_store: OpenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    class Killed(BaseException):
        pass

    def killed(*_names: Path) -> None:
        raise Killed

    with monkeypatch.context() as at_the_last_step:
        at_the_last_step.setattr(files, "exchange", killed)
        with pytest.raises(Killed):
            await put_back(saved[0], tmp_path / "home")
    store = await open_store("home/store")
    assert store.incarnation == saved[1]
    await store.close()
    assert (await put_back(saved[0], tmp_path / "home")).replaced is not None


@pytest.mark.parametrize("step", range(6))
async def test_without_a_swap_a_kill_at_any_step_leaves_one_whole_store_and_loses_none(
    saved: tuple[Path, str, TaskRecord],
    open_store: OpenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
):
    class Killed(BaseException):
        pass

    steps = 0

    def renamed(self: Path, target: Path) -> Path:
        nonlocal steps
        if "store" in self.name:
            steps += 1
            if steps == step:
                raise Killed
        os.rename(self, target)  # noqa: PTH104  # what is replaced here is `Path.rename`
        return target

    def cannot(*_names: Path) -> bool:
        return False

    monkeypatch.setattr(files, "exchange", cannot)
    home = tmp_path / "home"
    with monkeypatch.context() as slow:
        slow.setattr(Path, "rename", renamed)
        if step in range(1, 5):
            with pytest.raises(Killed):
                await put_back(saved[0], home)
        else:
            assert (await put_back(saved[0], home)).replaced == home / "store.replaced-1"
    again = await open_store("home/store")
    # The old one until the last step is left, which the next start does.
    assert (again.incarnation == saved[1]) is (step in {1, 2, 3})
    assert await again.task(saved[2].task_id) is not None
    assert (await again.verify()).finding is None
    await again.close()
    assert (await put_back(saved[0], home)).replaced is not None
    assert not (home / "store.restored").exists()


@pytest.mark.parametrize("before", ["the first name", "the old one goes", "the new one comes"])
async def test_without_a_swap_a_start_meanwhile_takes_nothing_of_it(
    saved: tuple[Path, str, TaskRecord],
    open_store: OpenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
):
    home, refused = tmp_path / "home", list[str]()
    names = {
        "store.restoring": "the first name",
        "store": "the old one goes",
        "store.restored": "the new one comes",
    }

    def renamed(self: Path, target: Path) -> Path:
        if names.get(self.name) == before:
            with pytest.raises(StoreBusy) as error:
                Claim(home / "store").take()
            refused.append(str(error.value))
        os.rename(self, target)  # noqa: PTH104  # what is replaced here is `Path.rename`
        return target

    def cannot(*_names: Path) -> bool:
        return False

    monkeypatch.setattr(files, "exchange", cannot)
    monkeypatch.setattr(replacing, "TURN_LIMIT_S", 0.0)
    with monkeypatch.context() as slow:
        slow.setattr(Path, "rename", renamed)
        assert (await put_back(saved[0], home)).replaced == home / "store.replaced-1"
    assert "being replaced" in "".join(refused)
    again = await open_store("home/store")
    assert again.incarnation != saved[1]
    assert await again.task(saved[2].task_id) is not None
    assert not (home / "store.restored").exists()


Part = tuple[str, bytes]
Change = Callable[[str, bytes], list[Part]]


def repacked(file: Path, change: Change) -> Path:
    target = file.with_suffix(".changed")
    with tarfile.open(file) as old, tarfile.open(target, "w") as new:
        for member in old:
            data = old.extractfile(member)
            assert data is not None
            for name, content in change(member.name, data.read()):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                new.addfile(info, io.BytesIO(content))
    return target


def in_list(**values: object) -> Change:
    def change(name: str, data: bytes) -> list[tuple[str, bytes]]:
        return [(name, json.dumps(json.loads(data) | values).encode() if name == LIST else data)]

    return change


CHANGED: list[tuple[Change, type[Exception], str]] = [
    (lambda n, d: [(n, d)] if n == LIST else [], StoreDamaged, "no database"),
    (lambda n, d: [] if n == LIST else [(n, d)], StoreDamaged, "no backup of cmesh"),
    (lambda n, d: [(n, d[:-1] + b"x")], StoreDamaged, "list of|not as it was written"),
    (lambda n, d: [(n, d)] if n == LIST else [(n, d), ("../out", b"x")], StoreDamaged, "what no"),
    (lambda n, d: [(n, d)] * (1 + (n != LIST)), StoreDamaged, "what no backup"),
    (in_list(schema=10_000), SchemaTooNew, "wrote"),
    (in_list(format="1"), StoreDamaged, "list of"),
    (in_list(database_bytes=1, output_bytes=1), StoreDamaged, "more than its list"),
    (in_list(database_bytes=2**60), DiskFull, "are free"),
    (in_list(head_seq=99), StoreDamaged, "99"),
    (in_list(head_hash="00" * 32), StoreDamaged, "not the one that was acknowledged"),
]


@pytest.mark.parametrize(("change", "error", "what"), CHANGED)
async def test_a_backup_that_is_not_as_it_was_written_is_refused_and_nothing_is_touched(
    saved: tuple[Path, str, TaskRecord],
    open_store: OpenStore,
    tmp_path: Path,
    change: Change,
    error: type[Exception],
    what: str,
):
    file = repacked(saved[0], change)
    with pytest.raises(error, match=what):
        await put_back(file, tmp_path / "home")
    # Whoever replaces a store or opens one has its turn by the lock, which stays.
    left = {path.name for path in (tmp_path / "home").iterdir()} - {replacing.TURN_FILE}
    assert left == {"store"}
    store = await open_store("home/store")
    assert store.incarnation == saved[1]
    assert not (tmp_path / "out").exists()


async def test_half_of_a_backup_is_refused(saved: tuple[Path, str, TaskRecord], tmp_path: Path):
    whole = saved[0].read_bytes()
    saved[0].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreDamaged):
        await put_back(saved[0], tmp_path / "other")
    (tmp_path / "text").write_text("no tar at all")
    with pytest.raises(StoreDamaged, match="no whole backup"):
        await put_back(tmp_path / "text", tmp_path / "other")


async def test_without_room_no_file_is_left(
    saved: tuple[Path, str, TaskRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(_directory: Path, _needed: int) -> None:
        raise DiskFull("0 MiB are free")

    monkeypatch.setattr(archive, "_require_room", full)
    with pytest.raises(DiskFull):
        await asyncio.to_thread(
            backup.back_up, tmp_path / "home/store", tmp_path / "new", force=False
        )
    assert not [path for path in tmp_path.iterdir() if "new" in path.name]


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        backup.back_up(tmp_path / "store", tmp_path / "mine", force=False)
    with pytest.raises(UsageError, match="no directory"):
        backup.back_up(tmp_path / "store", tmp_path / "nowhere" / "new", force=False)


@pytest.mark.parametrize("what", ["missing", "directory", "empty", "junk", "tar", "store"])
def test_what_is_no_backup_is_refused_before_anybody_is_asked(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CMESH_STATE_DIR", str(tmp_path / "state"))
    file = tmp_path / "given"
    if what == "directory":
        file.mkdir()
    elif what == "tar":
        with tarfile.open(file, "w") as tar:
            tar.addfile(tarfile.TarInfo("other"))
    elif what != "missing":
        file.write_bytes({"empty": b"", "junk": b"junk" * 999, "store": bytes(8) + b"DUCK"}[what])
    for words in ([], ["--yes"]):
        assert main(["audit", "restore", str(file), *words]) == UsageError.exit_status
        said = capsys.readouterr().err
        assert f"{file}` " in said
        assert "cmesh audit backup" in said
        assert "--yes" not in said
    assert not (tmp_path / "state").exists()


async def test_a_backup_is_one(saved: tuple[Path, str, TaskRecord]):
    archive.require_backup(saved[0])
