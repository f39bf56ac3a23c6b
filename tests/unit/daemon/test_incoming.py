"""What a caller sends apart from its task: asked for once a link, resumed, and never taken wrong."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from cmesh.daemon.incoming import Incoming
from cmesh.daemon.roots import Found
from cmesh.errors import RemoteProtocolError
from cmesh.model import Changes, NodeId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.messages import Bundle, Lacks
from cmesh.store.records import TaskRecord
from tests.system.runner.copying import commit, judge
from tests.unit.store.support import task

DATA = b"0123456789"
SHA = hashlib.sha256(DATA).hexdigest()
NONE = hashlib.sha256(b"").hexdigest()


@dataclass
class Here:
    """The parts that a transfer touches."""

    incoming: Path
    kept: list[bytes] = field(default_factory=list[bytes])
    posted: list[int] = field(default_factory=list[int])
    lacked: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])

    @property
    def store(self) -> "Here":
        return self

    def blob_path(self, sha256: str) -> Path | None:
        assert sha256 in {SHA, NONE}
        if sha256 == NONE:
            return self.incoming
        return self.incoming if self.kept else None

    async def take_blob(self, path: Path, sha256: str) -> None:
        assert sha256 in {SHA, NONE}
        self.kept.append(path.read_bytes())

    @property
    def rules(self) -> "Here":
        return self

    @property
    def roots(self) -> "Here":
        return self

    def find(self, directory: str) -> Found:
        return Found(path=directory, judged=judge(self.incoming / "app"))

    def post(self, _peer: NodeId, message: Any) -> None:
        if isinstance(message, Lacks):
            self.lacked.append(message.have)
        else:
            self.posted.append(message.offset)


def sent(record: TaskRecord, offset: int, data: bytes, *, final: bool = False) -> Chunk:
    return Chunk(task_id=record.task_id, sha256=SHA, offset=offset, data=data, final=final)


@pytest.fixture
def record() -> TaskRecord:
    record = task()
    changes = Changes(commit="a" * 40, sha256=SHA, bytes=len(DATA))
    return replace(record, spec=replace(record.spec, changes=changes))


@pytest.mark.anyio
async def test_a_new_link_is_asked_for_the_rest(tmp_path: Path, record: TaskRecord) -> None:
    here = Here(tmp_path)
    incoming = Incoming(cast("Any", here))
    assert not await incoming.ready(record)
    assert not await incoming.ready(record)
    assert here.posted == [0]
    assert not await incoming.take(sent(record, 0, DATA[:4]))
    incoming.relinked(record.peer_id)
    assert not incoming.expects(record.task_id, record.peer_id)
    assert not await incoming.ready(record)
    assert here.posted == [0, 4]
    assert not incoming.expects(record.task_id, NodeId("nOTHER"))
    assert await incoming.take(sent(record, 4, DATA[4:], final=True))
    assert (here.kept, await incoming.ready(record)) == ([DATA], True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_other_bytes_are_not_kept(tmp_path: Path, record: TaskRecord) -> None:
    here = Here(tmp_path)
    incoming = Incoming(cast("Any", here))
    assert not await incoming.ready(record)
    with pytest.raises(RemoteProtocolError, match="hash is wrong"):
        await incoming.take(sent(record, 0, b"x" * len(DATA), final=True))
    assert here.kept == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_what_is_kept_here_is_not_taken_for_what_a_caller_sends(
    tmp_path: Path, record: TaskRecord
) -> None:
    here = Here(tmp_path, kept=[DATA])  # of somebody else's task, or withheld from this caller
    incoming = Incoming(cast("Any", here))
    assert not await incoming.ready(record)
    assert here.posted == [0]
    assert await incoming.take(sent(record, 0, DATA, final=True))
    assert await incoming.ready(record)
    incoming.drop(record.task_id)
    assert not await incoming.ready(record)


@pytest.mark.anyio
async def test_changes_that_came_for_a_task_which_ended_meanwhile_are_not_noted(
    tmp_path: Path, record: TaskRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Here(tmp_path)
    incoming = Incoming(cast("Any", here))
    real = here.take_blob

    async def ended_meanwhile(path: Path, sha256: str) -> None:
        await real(path, sha256)
        incoming.drop(record.task_id)

    monkeypatch.setattr(here, "take_blob", ended_meanwhile)
    assert not await incoming.ready(record)
    assert await incoming.take(sent(record, 0, DATA, final=True))
    assert here.kept == [DATA]
    assert not await incoming.ready(record)
    assert here.posted == [0, 0]


@pytest.fixture
def lacking(tmp_path: Path, record: TaskRecord) -> tuple[Here, TaskRecord, str]:
    """Return a task whose changes are here, and their commit is not; and the commit that is."""
    place = tmp_path / "app"
    place.mkdir()
    (place / "code").write_text("one\n")
    head = commit(place)
    changes = Changes(commit="a" * 40, sha256=NONE, bytes=0, bundle=True)
    return Here(tmp_path), replace(record, spec=replace(record.spec, changes=changes)), head


async def with_changes(
    here: Here, record: TaskRecord, incoming: Incoming | None = None
) -> Incoming:
    """Return what has a task's changes, which are nothing, from its caller."""
    incoming = incoming or Incoming(cast("Any", here))
    assert not await incoming.ready(record)
    nothing = Chunk(task_id=record.task_id, sha256=NONE, offset=0, data=b"", final=True)
    assert await incoming.take(nothing)
    here.posted.clear()
    return incoming


@pytest.mark.anyio
async def test_a_commit_that_is_not_here_is_asked_for_and_a_new_link_goes_on(
    lacking: tuple[Here, TaskRecord, str],
) -> None:
    here, record, head = lacking
    incoming, task_id, peer = await with_changes(here, record), record.task_id, record.peer_id
    told = Bundle(task_id=task_id, sha256=SHA, bytes=len(DATA))
    incoming.announced(told, peer)  # nobody has asked
    assert not await incoming.ready(record)
    assert not await incoming.ready(record)
    assert here.lacked == [(head,)]
    incoming.announced(told, NodeId("nOTHER"))
    assert here.posted == []
    incoming.announced(told, peer)
    assert not await incoming.take(sent(record, 0, DATA[:4]))
    incoming.relinked(peer)
    assert not await incoming.ready(record)
    incoming.announced(told, peer)
    assert (len(here.lacked), here.posted) == (2, [0, 4])
    assert await incoming.take(sent(record, 4, DATA[4:], final=True))
    assert await incoming.ready(record)
    bundle = incoming.bundle(task_id)
    assert bundle is not None
    assert bundle.read_bytes() == DATA
    assert not incoming.expects(task_id, peer)
    incoming.drop(task_id)
    assert not bundle.exists()
    assert [path.name for path in here.incoming.iterdir()] == ["app"]


@pytest.mark.anyio
async def test_a_caller_that_was_restarted_sends_another_bundle_from_its_beginning(
    lacking: tuple[Here, TaskRecord, str],
) -> None:
    here, record, _ = lacking
    incoming, task_id, peer = await with_changes(here, record), record.task_id, record.peer_id
    assert not await incoming.ready(record)
    incoming.announced(Bundle(task_id=task_id, sha256=NONE, bytes=9), peer)
    incoming.relinked(peer)
    assert not await incoming.ready(record)
    incoming.announced(Bundle(task_id=task_id, sha256=SHA, bytes=len(DATA)), peer)
    assert await incoming.take(sent(record, 0, DATA, final=True))
    assert await incoming.ready(record)
    incoming.drop(task_id)
    # Why one does not come is the caller's word, in this machine's sentence.
    await with_changes(here, record, incoming)
    assert not await incoming.ready(record)
    why = incoming.refused(task_id, "no\x1b[31m room")
    assert why.startswith("the commit aaaaaaaaaaaa that the caller's changes are made on is not")
    assert "sends no bundle of it: no" in why
    assert "\x1b" not in why


@pytest.mark.anyio
async def test_a_commit_that_is_here_is_asked_of_nobody(
    lacking: tuple[Here, TaskRecord, str],
) -> None:
    here, record, head = lacking
    changes = Changes(commit=head, sha256=NONE, bytes=0, bundle=True)
    record = replace(record, spec=replace(record.spec, changes=changes))
    incoming = await with_changes(here, record)
    assert await incoming.ready(record)
    assert here.lacked == []
