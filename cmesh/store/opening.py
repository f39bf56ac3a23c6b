"""What an open store holds besides its threads and processes: lock, head, journal, files.

Blocks; run in a thread.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from cmesh.clock import Clock
from cmesh.paths import ensure_private_dir
from cmesh.store.blobs import Blobs, Prompts
from cmesh.store.fold import Draft
from cmesh.store.head import Head, HeadFile, StoreLock
from cmesh.store.journal import Journal
from cmesh.store.replacing import finish, replacing_turn

__all__ = ["Claim", "Parts", "StoreOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How to open a store; see `Store.open`."""

    directory: Path
    clock: Clock
    node: str
    keep_prompts: bool
    floor_bytes: int


class Claim:
    """A directory that is this process's alone until `release`; its files as they were found."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal = Journal(directory)
        self.head_file = HeadFile(directory)
        self.acknowledged: Head | None = None
        self._lock = StoreLock(directory)

    def take(self) -> None:
        """Finish a replacing that was killed, take the lock, and read the head.

        Raises:
            StoreBusy: another process has the store, or puts one in its place.
            StoreDamaged: the head cannot be read.
            UnsafePermissions: other users can get into the directory.
        """
        with replacing_turn(self.directory):
            finish(self.directory)
            ensure_private_dir(self.directory)
            self._lock.acquire()
        try:
            self.acknowledged = self.head_file.open()
        except BaseException:
            self.release(drop_journal=False)
            raise

    def release(self, *, drop_journal: bool) -> None:
        """Give everything up. The journal may go when the database holds all of it."""
        self.journal.close(drop=drop_journal)
        self.head_file.close()
        self._lock.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """An open store's parts, besides the database process."""

    claim: Claim
    blobs: Blobs
    prompts: Prompts | None

    @classmethod
    def begin(cls, claim: Claim, options: StoreOptions, head: Head) -> "Parts":
        """Make the rest, once the database holds every row up to `head` in its main file."""
        claim.journal.close(drop=True)
        if claim.acknowledged is None or head.seq > claim.acknowledged.seq:
            claim.head_file.write(head)
        prompts = None if options.keep_prompts else Prompts(options.directory)
        return cls(claim=claim, blobs=Blobs(options.directory), prompts=prompts)

    def revive(self, draft: Draft) -> None:
        """Give an unfinished task its prompt back, where the database must not hold it."""
        if self.prompts is not None:
            prompt = self.prompts.read(draft.record.task_id)
            draft.record = replace(draft.record, spec=replace(draft.record.spec, prompt=prompt))
