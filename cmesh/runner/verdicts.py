"""The verdicts of self-tests on this machine: one small file, 0600, that outlives the daemon.

INVARIANT: a verdict counts for exactly the file, version and recipe that it was made with. Who
updates an agent gets `pending`, never the old verdict.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as parsed

from cmesh.runner.manifest import Manifest
from cmesh.runner.programs import DEFAULT_PATH, state_of
from cmesh.runner.standing import SelfTest, Verdict
from cmesh.runner.task_files import write_synced
from cmesh.runner.traps.trapset import load_traps

__all__ = ["Record", "Subject", "Verdicts", "subject_of"]

logger = logging.getLogger(__name__)

FILE_BYTES = 256 * 1024
"""A longer file is none of ours."""


@parsed(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a verdict is about.

    Attributes:
        path: of the program, as it is started.
        real: where that leads; an update often moves a link only.
        device, inode, size, mtime_ns, ctime_ns: of the file there. Package managers set the same
            old `mtime` for every version, and inodes come again; `ctime` nobody sets.
        interpreters: SHA-256 of the state of those that the program is read by; empty = it is a
            binary.
        version: what the program says of itself.
        recipe: SHA-256 of the manifest, the traps, the model's name and the owner's variables.
    """

    path: str
    real: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    version: str
    recipe: str
    interpreters: str = ""


@parsed(frozen=True, slots=True, kw_only=True)
class Record:
    """One verdict; attributes as in `SelfTest`."""

    subject: Subject
    verdict: Verdict
    at: str
    sprung: tuple[str, ...] = ()
    reason: str = ""


_RECORDS: TypeAdapter[dict[str, Record]] = TypeAdapter(dict[str, Record])


class Verdicts:
    """The last verdict of each runner; read from any thread, kept by one at a time.

    Blocks on the disk for a moment.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Replaced whole and never changed, so that a thread that reads needs no lock.
        self._records = self._read()

    def of(self, name: str, subject: Subject | None) -> SelfTest:
        """Return what is known of a runner's program as it is now; None = it is not testable."""
        if subject is None:
            return SelfTest()
        record = self._records.get(name)
        if record is None or record.subject != subject:
            return SelfTest(state="pending")
        return SelfTest(
            state=record.verdict, sprung=record.sprung, reason=record.reason, at=record.at
        )

    def keep(self, name: str, record: Record) -> None:
        """Write a verdict down; durable when it returns.

        Raises:
            OSError: the disk refuses; the verdict counts until this daemon ends.
        """
        records = self._records = {**self._records, name: record}
        fresh = self._path.with_name(f".{self._path.name}")
        write_synced(fresh, _RECORDS.dump_json(records))
        fresh.replace(self._path)

    def _read(self) -> dict[str, Record]:
        """Return what is written down; nothing when it is not there or cannot be understood."""
        try:
            with self._path.open("rb") as file:
                info = os.fstat(file.fileno())
                # INVARIANT: a file that others may write says nothing: it would let a program run.
                if info.st_uid != os.getuid() or info.st_mode & 0o077:
                    raise ValueError("others may write or read it")
                return _RECORDS.validate_json(file.read(FILE_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:  # pydantic's errors are of the latter
            logger.warning("verdicts_unreadable", extra={"data": {"why": str(error)[:200]}})
            return {}


def subject_of(
    manifest: Manifest,
    program: str,
    version: str,
    *,
    model: str = "",
    env: Mapping[str, str] | None = None,
    search_path: str = DEFAULT_PATH,
) -> Subject | None:
    """Return what a self-test of a program would be about; None = there is none for it.

    `model` and `env` are what the owner gives to every start of it: a variable may well have it
    read other files. The model server's address is none of that; a self-test has its own.
    `search_path` is where a script's interpreter is looked for.

    Blocks on the disk for a look at the file.

    Raises:
        OSError: the program is gone.
    """
    traps = load_traps(manifest.name)
    if traps is None or not traps.api:
        return None
    real = Path(os.path.realpath(program))
    info = real.stat()
    read_by = state_of(program, search_path)[1:]
    address = manifest.credential.base_url_variable if manifest.credential else ""
    given = sorted((name, value) for name, value in (env or {}).items() if name != address)
    parts = (manifest.model_dump_json(), traps.model_dump_json(), json.dumps([model, given]))
    recipe = "\n".join(parts)
    return Subject(
        path=program,
        real=str(real),
        device=info.st_dev,
        inode=info.st_ino,
        size=info.st_size,
        mtime_ns=info.st_mtime_ns,
        ctime_ns=info.st_ctime_ns,
        version=version,
        recipe=_sha256(recipe),
        interpreters=_sha256(repr(read_by)) if read_by else "",
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
