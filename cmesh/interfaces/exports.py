"""Exports of this node's audit, and exports of any nodes opened: the store's part and a daemon's.

An export is made of a copy, with or without a running daemon; the store gets a row that tells of
it, and a lock file. It starts no daemon.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmesh.clock import Clock, SystemClock
from cmesh.errors import StoreBusy, StoreError
from cmesh.interfaces.audit import copied
from cmesh.keys import SigningKey, fingerprint
from cmesh.locks import FileLock, Held
from cmesh.store.audit import Report, locked, require_store
from cmesh.store.export_ask import OpenedExports
from cmesh.store.export_read import (
    Loaded,
    Told,
    check_chain,
    check_heads,
    fetch,
    find,
    keys_known,
    load,
)
from cmesh.store.export_write import Exported, export
from cmesh.store.head import read_head
from cmesh.store.manifest import TrustedPeer
from cmesh.store.records import Finding
from cmesh.store.store import Store

__all__ = ["Exported", "Opened", "OpenedExports", "OpenedNode", "Told", "export_store", "opened"]

_LOCK = "export.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedNode:
    """One node's export among those opened.

    Attributes:
        vouched: in words, who says that the key is the node's.
        report: of its chain and signatures; None = not asked for.
    """

    node: str
    where: str
    exported_at: str
    last_seq: int
    key: str
    fingerprint: str
    vouched: str
    peers: tuple[TrustedPeer, ...]
    report: Report | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A database of exports, and what is known of each; `finding` is the first thing wrong."""

    database: Path
    nodes: tuple[OpenedNode, ...]
    finding: Finding | None


def export_store(
    state: Path, target: str, clock: Clock | None = None, *, node: str | None = None
) -> Exported:
    """Bring the export of a state directory's store up to date in a directory or bucket. Blocks.

    With `node`, this node's name, a row of the store tells of the export, and is in it; without
    it the store is read alone.

    Raises:
        StoreBusy: another export of this store runs, or somebody has it open who hands out no copy.
        StoreError: there is no store or no key, or the target cannot be used.
        StoreDamaged: the store is not as it was acknowledged.
    """
    store = state / "store"
    require_store(store)
    if not (state / "key").exists():
        raise StoreError(f"`{state}` has no key to sign an export with", hint="run `cmesh up` once")
    key = SigningKey.load_or_make(state / "key")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone(store))
        if node is not None and not locked(store):
            # Before there is a place to work in: a store that is opened tidies that away.
            asyncio.run(_note_export(store, target, clock or SystemClock(), node))
        work = tempfile.TemporaryDirectory(prefix="export-", dir=_room(store))
        place = Path(stack.enter_context(work))
        # INVARIANT: read before the copy is made, which then has at least the row it names.
        head = read_head(store)
        if head is None:
            raise StoreError(
                "the store's head file cannot be read", hint="run `cmesh audit verify`"
            )
        with copied(store, export_to=target if node is not None else "") as (copy, _live):
            now = (clock or SystemClock()).now()
            return export(copy, head, key, target=target, now=now, work=place)


async def _note_export(store: Path, target: str, clock: Clock, node: str) -> None:
    """Open a store that no daemon has, as one would, to write down where it goes."""
    found = await Store.open(store, clock=clock, node=node)
    try:
        by = {"pid": os.getpid(), "program": "cmesh audit export"}
        await found.export_begun(target, by)
    finally:
        await found.close()


@contextlib.contextmanager
def opened(
    targets: Sequence[str], *, verify: bool, own: Path | None = None, tell: Told | None = None
) -> Generator[Opened]:
    """Check exports and give one database of them, which goes with the block. Blocks.

    Every manifest's signature and the digest of every file that is read is checked always;
    with `verify` also the views' files, each chain, each signature in it, and the heads that
    the nodes hold of each other. `own` is the state directory whose key may be known.

    Raises:
        StoreDamaged: a file or a manifest is not as it was written.
        StoreError: there is no export, or it cannot be read.
    """
    exports = find(targets)
    key = SigningKey.load_or_make(own / "key").public if own and (own / "key").exists() else ""
    vouched = keys_known(exports, key)
    with tempfile.TemporaryDirectory(prefix="cmesh-exports-") as name:
        work = Path(name)
        nodes, loaded = list[OpenedNode](), list[Loaded]()
        finding: Finding | None = None
        for number, one in enumerate(exports):
            place = work / f"{number}"
            place.mkdir(mode=0o700)
            loaded.append(fetch(one, place, whole=verify, tell=tell))
            report = None
            if verify:
                check = work / f"check-{number}"
                check.mkdir(mode=0o700)
                if tell is not None:
                    tell(f"{one.node}: {one.manifest.last_seq:,} rows")
                report = check_chain(loaded[-1], check)
                finding = finding or report.finding
            nodes.append(
                OpenedNode(
                    node=one.node,
                    where=one.place.where,
                    exported_at=one.manifest.exported_at,
                    last_seq=one.manifest.last_seq,
                    key=one.manifest.key,
                    fingerprint=fingerprint(one.manifest.key),
                    vouched=vouched[one.node],
                    peers=one.manifest.peers,
                    report=report,
                )
            )
        made = work / "database"
        made.mkdir(mode=0o700)
        database = load(loaded, made)
        if verify:
            finding = finding or check_heads(database, exports)
        yield Opened(database=database, nodes=tuple(nodes), finding=finding)


def _room(store: Path) -> Path | None:
    """Return a directory on the store's disk; what a killed export leaves, the next start removes."""
    place = store / "snapshots"
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, exist_ok=True)
        return place
    return None


@contextlib.contextmanager
def _alone(store: Path) -> Generator[None]:
    lock = FileLock(store / _LOCK)
    try:
        lock.acquire()
    except Held as error:
        hint = "wait for it to end, then export again"
        raise StoreBusy(f"an export of this store is running: {error}", hint=hint) from error
    try:
        yield
    finally:
        lock.release()
