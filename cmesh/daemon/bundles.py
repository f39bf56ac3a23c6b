"""Commits that a worker lacks, sent by this caller as a git bundle when the worker asks for them.

They are those that the changes of a task are made on, so both sides' rules have allowed them with
these. A bundle is a file of its own until its task needs it no more, and is made anew after a restart.
"""

import asyncio
import hashlib
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as parsed

from cmesh.daemon.parts import Parts
from cmesh.errors import ChangesRefused, CmeshError, DiskFull, SecretFound
from cmesh.link.link import Link
from cmesh.model import Direction, NodeId, TaskId
from cmesh.patch.repository import Repository
from cmesh.protocol.codec import CHUNK_BYTES, encode_chunk
from cmesh.protocol.link_messages import Failure
from cmesh.protocol.messages import (
    BUNDLE_BYTES,
    Artifact,
    Bundle,
    Lacks,
)
from cmesh.redact import Redactor, Stream
from cmesh.runner.copies import find_git
from cmesh.runner.orders import run_order
from cmesh.store.records import TaskSnapshot

__all__ = ["Bundles"]

MAKE_LIMIT_S = 120.0
"""How long it may take to pack a bundle and to write down what is in it."""

LOG_BYTES = 256 * 1024 * 1024
"""What its commits change, as text: more is not looked through for secrets, and so not sent."""

KEPT = 4
"""Bundles that are on the disk at a time."""

logger = logging.getLogger(__name__)


@parsed(frozen=True, slots=True, kw_only=True)
class _Packed:
    """What the program says; see `cmesh.runner.tree_bundle.bundle`."""

    bytes: int
    log: int
    thin: bool


_PACKED = TypeAdapter(_Packed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    peer_id: NodeId
    path: Path
    sha256: str
    bytes: int


class Bundles:
    """The bundles of unfinished tasks; one a task, one made at a time."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._made: dict[TaskId, _Made] = {}
        self._making = asyncio.Lock()

    def close(self) -> None:
        """Delete what was made."""
        for task_id in list(self._made):
            self._drop(task_id)

    async def wanted(self, link: Link, message: Lacks) -> None:
        """Answer a worker that lacks the commit of a task: `bundle`, or `failure` with why.

        Raises:
            CmeshError: it was refused, and the worker told so.
        """
        task_id, peer_id = TaskId(message.task_id), link.identity.node_id
        try:
            made = await self._bundle(task_id, peer_id, message.have)
        except CmeshError as error:
            link.post(Failure(code=error.code, reason=error.message, about=task_id))
            raise
        link.post(Bundle(task_id=task_id, sha256=made.sha256, bytes=made.bytes))

    async def send(self, link: Link, message: Artifact) -> bool:
        """Send a bundle that was announced, from an offset; False when it is of something else.

        Raises:
            LinkError: the link ended.
        """
        task_id = TaskId(message.task_id)
        made = self._made.get(task_id)
        asked = (message.sha256, link.identity.node_id)
        if made is None or (made.sha256, made.peer_id) != asked:
            return False
        offset = message.offset
        with made.path.open("rb") as file:
            file.seek(offset)
            while True:
                data = await asyncio.to_thread(file.read, CHUNK_BYTES)
                final = offset + len(data) >= made.bytes or not data
                await link.send(encode_chunk(task_id, made.sha256, offset, data, final=final))
                if final:
                    return True
                offset += len(data)

    async def _bundle(self, task_id: TaskId, peer_id: NodeId, have: Sequence[str]) -> _Made:
        async with self._making:
            made = self._made.get(task_id)
            # INVARIANT: of a peer's own task alone: another one would learn what it holds.
            if made is not None and made.peer_id == peer_id:  # asked by the link before
                return made
            task = await self._parts.store.task(task_id)
            changes = task.record.spec.changes if task else None
            if task is None or changes is None or not _is_of(task, peer_id) or task.terminal:
                raise ChangesRefused("no such task of this node sends changes", hint="")
            project = await self._project(task)
            redactor = self._parts.redactor()
            made = await asyncio.to_thread(
                _make, self._parts.store.incoming, project, changes.commit, have, redactor, peer_id
            )
            for old in list(self._made)[: max(0, len(self._made) + 1 - KEPT)]:
                self._drop(old)
            self._made[task_id] = made
            data = {"task": task_id, "bytes": made.bytes, "commit": changes.commit}
            logger.info("bundle_made", extra={"data": data})
            return made

    async def _project(self, task: TaskSnapshot) -> str:
        """Return where the changes were taken from: a later turn may have been asked elsewhere."""
        first = await self._parts.store.task(task.record.first)
        return first.record.project if first else task.record.project

    def _drop(self, task_id: TaskId) -> None:
        made = self._made.pop(task_id, None)
        if made is not None:
            made.path.unlink(missing_ok=True)


def _make(
    place: Path,
    project: str,
    commit: str,
    have: Sequence[str],
    redactor: Redactor,
    peer_id: NodeId,
) -> _Made:
    """Make a bundle in a new file of `place`. Blocks; raises a CmeshError with why not."""
    repository = Repository(project)
    if repository.base(commit).relation == "missing":
        raise ChangesRefused("the commit is not in the caller's repository any more", hint="")
    with tempfile.TemporaryDirectory(prefix="cmesh-bundle-") as text:
        aside = Path(text)
        for name in ("home", "tmp"):
            (aside / name).mkdir()
        order: dict[str, object] = {
            "do": "bundle",
            "program": find_git(),
            "home": f"{aside}/home",
            "tmp": str(aside / "tmp"),
            "base": f"{aside}/base",
            "objects": repository.objects,
            "kind": repository.kind,
            "commit": commit,
            "have": list(have),
            "bundle": f"{aside}/bundle",
            "limit": BUNDLE_BYTES,
            "log": f"{aside}/log",
            "log_limit": LOG_BYTES,
        }
        try:
            packed = _PACKED.validate_json(run_order(order, MAKE_LIMIT_S))
        except subprocess.TimeoutExpired as error:
            why = f"its commits could not be packed within {MAKE_LIMIT_S:.0f} s"
            raise ChangesRefused(why) from error
        if packed.bytes > BUNDLE_BYTES or packed.log > LOG_BYTES:
            raise ChangesRefused(
                f"the commits that the worker lacks are more than the {BUNDLE_BYTES} bytes of a"
                " bundle, or change too much to be looked through"
            )
        _require_clean(aside / "log", redactor)
        return _kept(aside / "bundle", place, peer_id)


def _require_clean(log: Path, redactor: Redactor) -> None:
    stream = Stream(redactor)
    with log.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            stream.feed(data)
    stream.finish()
    if stream.hits:
        raise SecretFound(
            f"{stream.hits} secrets are in the commits that the worker lacks, so none is sent",
            hint="push them by yourself, or take the secrets out of the history",
        )


def _kept(bundle: Path, place: Path, peer_id: NodeId) -> _Made:
    """Move a bundle to where it is sent from; the start of the store tidies there."""
    with tempfile.NamedTemporaryFile(prefix="incoming-", dir=place, delete=False) as target:
        path = Path(target.name)
    try:
        shutil.move(bundle, path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        path.unlink(missing_ok=True)
        raise DiskFull(f"no room for a bundle: {error.strerror}") from error
    return _Made(peer_id=peer_id, path=path, sha256=sha256, bytes=path.stat().st_size)


def _is_of(task: TaskSnapshot, peer_id: NodeId) -> bool:
    return task.record.direction is Direction.OUT and task.record.peer_id == peer_id
