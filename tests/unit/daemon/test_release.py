"""A withheld patch goes to its caller once the worker's owner says so, and never before."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from cmesh.daemon import file_views
from cmesh.daemon.arguments import ArtifactArguments
from cmesh.daemon.feed import Feeds
from cmesh.daemon.file_views import artifact_views, patch_view
from cmesh.daemon.found import find_secrets
from cmesh.daemon.release import Release
from cmesh.daemon.released import NOT_LINKED, NOT_RELEASED
from cmesh.daemon.results_text import read_artifact
from cmesh.daemon.views import Knowledge, task_view
from cmesh.errors import TaskRefused
from cmesh.link.link import Link
from cmesh.model import Direction, Result, TaskId, TaskState
from cmesh.protocol.codec import CHUNK_BYTES, encode_chunk
from cmesh.protocol.messages import Artifact
from cmesh.protocol.outcome import ArtifactFile, Artifacts, Patch
from cmesh.redact import Redactor
from cmesh.store.records import ResultRecord
from cmesh.store.store import Store
from tests.fakes.half import Half
from tests.unit.daemon.conftest import Pair

pytestmark = pytest.mark.anyio

TOKEN = b"ghp_" + b"x1Y2" * 9
BEFORE = b"""diff --git a/app/config b/app/config
--- a/app/config
+++ b/app/config
@@ -3,2 +3,3 @@ section
 three
-four
+--- four
+key = """
PATCH = BEFORE + TOKEN + b"\n" + b"# more\n" * CHUNK_BYTES
FILE = b"first\n" + TOKEN
KEY = b"-----BEGIN PRIVATE KEY-----\n" + b"MIIEvQIBADANBg\n" * 3 + b"-----END PRIVATE KEY-----\n"
PID = 4711


@dataclass(frozen=True, slots=True)
class Task:
    """A task that both sides know as ended, its patch and a file withheld."""

    task_id: TaskId
    patch: str
    file: str


async def ended(
    pair: Pair,
    patch: bytes = PATCH,
    code: str = "secret_found",
    globs: Sequence[str] = ("out/*",),
) -> Task:
    sha256, of_file = await pair.doer.store.blob(patch), await pair.doer.store.blob(FILE)
    told = Patch(sha256=sha256, bytes=len(patch), files=1, withheld=code, reason="1 secret")
    file = ArtifactFile(path="out/key", bytes=len(FILE), sha256=of_file, withheld=code)
    result = Result(
        state=TaskState.SUCCEEDED,
        witness="shim recorded exit 0",
        patch=told.model_dump(mode="json"),
        artifacts=Artifacts(files=(file,)).model_dump(mode="json"),
    )
    record = pair.asker.record(pair.doer, artifacts=tuple(globs))
    for half in (pair.asker, pair.doer):
        way = Direction.OUT if half is pair.asker else Direction.IN
        peer = pair.doer if half is pair.asker else pair.asker
        known = replace(record, direction=way, peer_id=peer.node_id, peer=peer.identity.name)
        end = ResultRecord(
            task_id=record.task_id,
            direction=way,
            result=result,
            worker_signature="w",
            caller_signature="c",
        )
        await half.store.commit([known, end])
    return Task(record.task_id, sha256, of_file)


async def release(half: Half, task: Task, *names: str) -> bool:
    seen = await half.seen(task.task_id)
    return await Release(half.parts).release(seen, names or (task.patch,), PID)


async def facts(store: Store, task: Task) -> Sequence[Sequence[object]]:
    text = f"SELECT part, path, pid, direction FROM releases WHERE task_id = '{task.task_id}'"
    return (await store.sql(text, (), 10)).rows


async def test_a_file_that_was_not_asked_for_has_no_name_here(pair: Pair) -> None:
    store = pair.asker.store
    asked = await ended(pair, code="", globs=("out/*", "dist/*.whl"))
    strange = await ended(pair, code="", globs=("dist/*.whl", "out/.*"))
    await store.blob(FILE)  # by whatever way its bytes came here
    seen = await pair.asker.seen(asked.task_id)
    path = [one.path for one in artifact_views(seen)]
    assert path == ["out/key"]
    assert (await read_artifact(store, seen, piece(asked))).sha256 == asked.file
    seen = await pair.asker.seen(strange.task_id)
    view = task_view(seen, now=pair.asker.clock.now(), knowledge=Knowledge())
    assert (view.artifacts, view.artifacts_left_out) == ([], 1)
    assert view.artifacts_reason == "its worker named 1 file that nobody asked for"
    with pytest.raises(TaskRefused, match="no file of that path"):
        await read_artifact(store, seen, piece(strange))


async def test_a_task_whose_texts_are_being_erased_says_nothing_of_its_files(pair: Pair) -> None:
    task = await ended(pair, code="")
    seen = await pair.asker.seen(task.task_id)
    assert [one.path for one in artifact_views(seen)] == ["out/key"]
    # Rows lose their texts one by one: the task's may be first, while its result is whole.
    spec = replace(seen.record.spec, prompt="", artifacts=())
    erased = replace(seen, record=replace(seen.record, spec=spec, payload_hash=""))
    view = task_view(erased, now=pair.asker.clock.now(), knowledge=Knowledge())
    assert view.forgotten
    assert (view.artifacts, view.artifacts_left_out, view.artifacts_reason) == ([], 0, "")
    assert artifact_views(erased) == []


async def test_a_worker_compares_its_own_files_with_no_globs(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await ended(pair, code="")

    def compared(*_: object) -> None:
        pytest.fail("the globs were compared")

    monkeypatch.setattr(file_views, "asked", compared)
    assert [one.path for one in artifact_views(await pair.doer.seen(task.task_id))] == ["out/key"]


async def test_a_view_compares_a_tasks_files_once_and_says_when_it_gave_up(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = await pair.asker.seen((await ended(pair, code="")).task_id)
    calls: list[Sequence[str]] = []

    def compared(_globs: Sequence[str], paths: Sequence[str]) -> tuple[frozenset[str], bool]:
        calls.append(paths)
        return frozenset(), False

    monkeypatch.setattr(file_views, "asked", compared)
    view = task_view(seen, now=pair.asker.clock.now(), knowledge=Knowledge())
    assert calls == [["out/key"]]
    assert (view.artifacts, view.artifacts_left_out) == ([], 1)
    assert view.artifacts_reason.startswith("1 file left out: to compare all")


def piece(task: Task) -> ArtifactArguments:
    return ArtifactArguments(task_id=task.task_id, path="out/key")


async def test_only_what_was_released_is_sent_and_it_is_noted_once_on_each_side(
    pair: Pair,
) -> None:
    task, asker = await ended(pair), pair.asker
    released = asker.caller.released
    assert await released.fetch(task.task_id, task.patch) == NOT_LINKED
    await pair.connect()
    assert await released.fetch(task.task_id, task.patch) == NOT_RELEASED
    assert asker.store.blob_path(task.patch) is None

    assert await release(pair.doer, task) is True
    assert await release(pair.doer, task) is False
    calls = [released.fetch(task.task_id, name) for name in (task.patch, task.file, task.patch)]
    assert await asyncio.gather(*calls) == ["", NOT_RELEASED, ""]
    assert await asker.store.read_blob(task.patch, 0, len(PATCH) + 1) == PATCH
    assert await released.fetch(task.task_id, task.patch) == ""
    assert await facts(pair.doer.store, task) == [["patch", "", PID, "in"]]
    assert await facts(asker.store, task) == [["patch", "", None, "out"]]

    # The signed result stands; what is shown of it differs by side.
    mine, theirs = await asker.seen(task.task_id), await pair.doer.seen(task.task_id)
    assert mine.result == theirs.result
    assert mine.result is not None
    assert mine.result.patch["withheld"] == "secret_found"
    at_home, there = patch_view(mine), patch_view(theirs)
    assert at_home
    assert there
    assert (at_home.withheld, there.withheld) == ("", "secret_found")
    assert at_home.released_at
    assert there.released_at
    assert [one.withheld for one in artifact_views(mine)] == ["secret_found"]
    await asker.restart()
    assert (await asker.seen(task.task_id)).released == mine.released


async def test_a_caller_that_is_told_fetches_by_itself_and_goes_on_after_a_broken_link(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, asker = await ended(pair), pair.asker
    await release(pair.doer, task, task.patch, task.file)
    asked: list[int] = []
    whole = Feeds.artifact

    async def cut(self: Feeds, link: Link, message: Artifact) -> None:
        asked.append(message.offset)
        if len(asked) > 1:
            await whole(self, link, message)
            return
        data = PATCH[:CHUNK_BYTES]
        await link.send(encode_chunk(task.task_id, task.patch, 0, data, final=False))
        await link.close()

    monkeypatch.setattr(Feeds, "artifact", cut)
    await pair.connect()
    why = await asker.caller.released.fetch(task.task_id, task.patch)
    assert why == "the link to its worker ended; ask again"
    await pair.connect()
    assert asker.link is not None
    assert pair.doer.link is not None
    changed = asker.news.next(task.task_id)
    pair.doer.link.post_grants(asker.link.opened.may, released=[task.task_id])
    await asyncio.wait_for(changed, 20)
    assert await asker.caller.released.fetch(task.task_id, task.file) == ""
    assert asked == [0, CHUNK_BYTES, 0]
    assert await asker.store.read_blob(task.patch, 0, len(PATCH) + 1) == PATCH
    assert len(await facts(asker.store, task)) == 2


async def test_other_bytes_than_those_that_were_signed_are_not_taken(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, asker = await ended(pair), pair.asker
    await release(pair.doer, task)

    async def other(_self: Feeds, link: Link, _message: Artifact) -> None:
        data = b"x" * len(FILE)
        await link.send(encode_chunk(task.task_id, task.patch, 0, data, final=True))

    monkeypatch.setattr(Feeds, "artifact", other)
    await pair.connect()
    why = await asker.caller.released.fetch(task.task_id, task.patch)
    assert why.startswith("it was not taken: ")
    assert asker.store.blob_path(task.patch) is None
    assert await facts(asker.store, task) == []


async def test_nothing_is_released_where_there_is_nothing_to_release(pair: Pair) -> None:
    task = await ended(pair)
    with pytest.raises(TaskRefused, match="this node asked"):
        await release(pair.asker, task)
    with pytest.raises(TaskRefused, match="withholds nothing with sha256"):
        await release(pair.doer, task, "0" * 64)
    path = pair.doer.store.blob_path(task.patch)
    assert path is not None
    path.unlink()
    with pytest.raises(TaskRefused, match="not kept here any more"):
        await release(pair.doer, task)
    other = await ended(pair, b"small\n", code="")
    with pytest.raises(TaskRefused, match="no secret withholds"):
        await release(pair.doer, other)
    assert await facts(pair.doer.store, other) == []


async def test_the_owner_sees_kind_and_line_and_never_the_secret(pair: Pair) -> None:
    task = await ended(pair)
    seen = await Release(pair.doer.parts).look(await pair.doer.seen(task.task_id))
    assert TOKEN.decode() not in seen.model_dump_json()
    patch, file = seen.withheld
    [found] = patch.found
    assert (found.kind, found.place) == ("github", "app/config:5")
    assert found.text.startswith("+key = [secret:github]")
    assert (file.path, [one.place for one in file.found]) == ("out/key", ["out/key:2"])
    assert (seen.peer, seen.node_id) == ("asker", pair.asker.node_id)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_places_do_not_depend_on_where_the_bytes_were_cut(size: int) -> None:
    data = BEFORE.replace(b"-four", b"-" + TOKEN) + b"opensesame, 'opensesame'\n"
    data += b"".join(b"+" + line for line in KEY.splitlines(keepends=True))
    data += b"+" + TOKEN + b"\n"
    data = data.replace(b"+3,3", b"+3,30")
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    found, count = find_secrets(pieces, Redactor(["opensesame"]))
    assert [(one.kind, one.place) for one in found] == [
        ("github", "app/config:4 (removed)"),
        ("secret", "app/config:5"),
        ("secret", "app/config:5"),
        ("private key", "app/config:7"),
        ("github", "app/config:11"),
    ]
    assert count == 5
    assert "opensesame" not in str(found)
    assert find_secrets(pieces, Redactor(["opensesame"]), most=1)[1] == count
