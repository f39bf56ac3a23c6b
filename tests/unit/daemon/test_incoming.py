"""What a caller sends apart from its task: asked for once a link, resumed, and never taken wrong."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from cmesh.daemon.incoming import Incoming
from cmesh.errors import RemoteProtocolError
from cmesh.model import Changes, NodeId
from cmesh.protocol.codec import Chunk
from cmesh.store.records import TaskRecord
from tests.unit.store.support import task

DATA = b"0123456789"
SHA = hashlib.sha256(DATA).hexdigest()


@dataclass
class Here:
    """The parts that a transfer touches."""

    incoming: Path
    kept: list[bytes] = field(default_factory=list[bytes])
    posted: list[int] = field(default_factory=list[int])

    @property
    def store(self) -> "Here":
        return self

    def blob_path(self, sha256: str) -> Path | None:
        assert sha256 == SHA
        return self.incoming if self.kept else None

    async def blob(self, path: Path) -> None:
        self.kept.append(path.read_bytes())

    def post(self, _peer: NodeId, message: Any) -> None:
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
    assert not incoming.ready(record)
    assert not incoming.ready(record)
    assert here.posted == [0]
    assert not await incoming.take(sent(record, 0, DATA[:4]))
    incoming.relinked(record.peer_id)
    assert not incoming.expects(record.task_id, record.peer_id)
    assert not incoming.ready(record)
    assert here.posted == [0, 4]
    assert not incoming.expects(record.task_id, NodeId("nOTHER"))
    assert await incoming.take(sent(record, 4, DATA[4:], final=True))
    assert (here.kept, incoming.ready(record)) == ([DATA], True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_other_bytes_are_not_kept(tmp_path: Path, record: TaskRecord) -> None:
    here = Here(tmp_path)
    incoming = Incoming(cast("Any", here))
    assert not incoming.ready(record)
    with pytest.raises(RemoteProtocolError, match="hash is wrong"):
        await incoming.take(sent(record, 0, b"x" * len(DATA), final=True))
    assert here.kept == []
    assert list(tmp_path.iterdir()) == []
