"""What is told of a patch, and how a caller takes its bytes."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from cmesh.daemon.fetch import Outputs
from cmesh.daemon.parts import Parts
from cmesh.daemon.patches import with_patch
from cmesh.errors import RemoteProtocolError
from cmesh.link.link import Link
from cmesh.model import Result, TaskId, TaskState
from cmesh.protocol.codec import Chunk
from cmesh.protocol.convert import outcome_from, result_from
from cmesh.protocol.messages import Artifact, ResultMessage
from cmesh.protocol.outcome import PATCH_CHARACTERS, Outcome, Patch
from cmesh.redact import Redactor
from cmesh.runner.copies import PATCH_BYTES
from cmesh.store.store import Store
from tests.unit.daemon.conftest import Pair

pytestmark = pytest.mark.anyio

TASK = TaskId("01890000-0000-7000-8000-000000000001")
TOKEN = "ghp_" + "x1Y2" * 9
DATA = b"diff --git a/x b/x\n"
SHA256 = hashlib.sha256(DATA).hexdigest()
ENDED = Result(state=TaskState.SUCCEEDED, witness="shim recorded exit 0")


class Place:
    """As much of a worker's parts as takes a patch in: directory, blobs, known secrets."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.kept: list[bytes] = []
        self.supervisor = self.store = self

    def directory(self, _task_id: TaskId) -> Path:
        return self.base

    def redactor(self) -> Redactor:
        return Redactor()

    async def blob(self, path: Path) -> str:
        self.kept.append(path.read_bytes())
        return hashlib.sha256(self.kept[-1]).hexdigest()

    def write(self, patch: bytes, changed: Sequence[str], **more: Any) -> None:
        (self.base / "git").mkdir(exist_ok=True)
        (self.base / "git" / "patch").write_bytes(patch)
        left: dict[str, Any] = {"left_out": [], "left_out_count": 0}
        made = {"commit": "a" * 40, "tree": "b" * 40, "dirty": False, "files": 1, "bytes": 1} | left
        found = {"tree": "c" * 40, "bytes": len(patch), "files": len(changed)} | left
        found |= {"changed": list(changed), "flagged": list(changed), "flagged_count": len(changed)}
        (self.base / "before").write_text(json.dumps(made))
        (self.base / "after").write_text(json.dumps(found | more))

    async def take(self, compared: str = "yes") -> Patch:
        result = await with_patch(cast("Parts", self), TASK, ENDED, compared)
        return Patch.model_validate(dict(result.patch))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_what_is_told_fits_whatever_the_names_are(place: Place) -> None:
    place.write(DATA, [f"A {'ä' * 290}{number}" for number in range(200)])
    patch = await place.take()
    told = json.dumps(patch.model_dump(mode="json"))
    assert len(told) <= PATCH_CHARACTERS
    assert (patch.files, patch.flagged_count, patch.sha256) == (200, 200, SHA256)
    assert patch.changed


async def test_a_secret_in_a_name_is_taken_out_and_one_in_the_patch_withholds_it(
    place: Place,
) -> None:
    place.write(DATA + TOKEN.encode() + b"\n", [f"A {TOKEN}"])
    patch = await place.take()
    assert TOKEN not in patch.model_dump_json()
    assert (patch.withheld, len(place.kept)) == ("secret_found", 1)
    assert TOKEN.encode() in place.kept[0]  # its bytes are what they are


@pytest.mark.parametrize("compared", ["yes", "it took more than 120 seconds"])
async def test_without_a_readable_answer_there_is_no_patch_and_the_result_says_so(
    place: Place, compared: str
) -> None:
    place.write(DATA, ["A x"])
    (place.base / "after").write_text('{"tree": 1')
    patch = await place.take(compared)
    assert (patch.withheld, patch.sha256, place.kept) == ("patch_failed", "", [])
    assert patch.reason.startswith("there is no patch: ")


class Taken:
    """A link that keeps what was asked for."""

    def __init__(self) -> None:
        self.posted: list[Artifact] = []

    def post(self, message: Artifact) -> None:
        self.posted.append(message)


def message(**patch: Any) -> ResultMessage:
    fields: dict[str, Any] = {"sha256": SHA256, "bytes": len(DATA), "files": 1, **patch}
    outcome = Outcome(state=TaskState.SUCCEEDED, witness="", patch=Patch(**fields))
    return ResultMessage(task_id=TASK, last_seq=0, outcome=outcome, signature="")


def chunk(data: bytes) -> Chunk:
    return Chunk(task_id=TASK, sha256=SHA256, offset=0, data=data, final=True)


@pytest.fixture
def store(pair: Pair) -> Store:
    return pair.asker.store


async def test_a_patch_is_asked_for_and_the_end_waits_for_it(store: Store) -> None:
    outputs, link = Outputs(store), Taken()
    end = message()
    assert not await outputs.ready(cast("Link", link), end, 0)
    assert [one.sha256 for one in link.posted] == [SHA256]
    assert await outputs.take(chunk(DATA)) is end
    assert await outputs.ready(cast("Link", link), end, 0)
    assert store.blob_path(SHA256) is not None


async def test_a_broken_link_goes_on_where_it_stopped(store: Store) -> None:
    outputs, link, half = Outputs(store), Taken(), len(DATA) // 2
    assert not await outputs.ready(cast("Link", link), message(), 0)
    first = Chunk(task_id=TASK, sha256=SHA256, offset=0, final=False, data=DATA[:half])
    assert await outputs.take(first) is None
    outputs.pause(TASK)
    assert outputs.pending(TASK) is None
    late = Chunk(task_id=TASK, sha256=SHA256, offset=half, final=True, data=DATA[half:])
    assert await outputs.take(late) is None  # of the link that ended
    assert not await outputs.ready(cast("Link", link), message(), 0)
    assert [asked.offset for asked in link.posted] == [0, half]
    assert await outputs.take(late) == message()
    assert store.blob_path(SHA256) is not None


async def test_one_that_is_withheld_is_not_asked_for(store: Store) -> None:
    link = Taken()
    assert await Outputs(store).ready(cast("Link", link), message(withheld="secret_found"), 0)
    assert not link.posted


async def test_one_that_is_too_long_or_not_what_was_signed_is_not_taken(store: Store) -> None:
    outputs, link = Outputs(store), Taken()
    assert await outputs.ready(cast("Link", link), message(bytes=PATCH_BYTES + 1), 0)
    assert "above the limit" in outputs.refused(TASK, "patch")
    outputs.forget(TASK)
    assert not await outputs.ready(cast("Link", link), message(), 0)
    with pytest.raises(RemoteProtocolError):
        await outputs.take(chunk(DATA.upper()))
    assert outputs.refused(TASK, "patch")
    assert not outputs.refused(TASK)
    assert await outputs.ready(cast("Link", link), message(), 0)
    assert store.blob_path(SHA256) is None


def test_a_patch_comes_through_the_wire_as_it_was() -> None:
    outcome = message(changed=("M x",), dirty=True).outcome
    assert outcome_from(result_from(outcome)).patch == outcome.patch
