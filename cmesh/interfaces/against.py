"""Comparing this machine's audit with what other nodes hold of it: over links, or by files.

All that others hold is gathered first, then the store is copied and checked, and compared with
it: so the copy has every row that somebody may speak of. Starts no daemon, changes nothing.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

from cmesh.daemon.arguments import SqlArguments
from cmesh.daemon.node_id import read_node_id
from cmesh.daemon.proof_calls import ProofArguments, ProofView
from cmesh.errors import AuditUnproven, CmeshError, DiskFull, StoreError, UnknownPeer
from cmesh.interfaces.audit import Checked, Tell, check_store
from cmesh.interfaces.audit_report import AgainstView
from cmesh.interfaces.client import ControlClient, run
from cmesh.keys import SigningKey
from cmesh.model import NodeId, TaskId
from cmesh.paths import control_socket
from cmesh.protocol.link_messages import Seen
from cmesh.protocol.proof_messages import AskedHead, WholeEnd
from cmesh.store import proofs, receipts_file
from cmesh.store.against import Comparison, Known
from cmesh.store.exchange import Reader
from cmesh.store.head import read_head
from cmesh.store.receipts_file import EndLine, Header, HeadLine, Total
from cmesh.store.signatures import NODE_UP
from cmesh.text import one_line

__all__ = ["ALL", "check_against", "own_keys"]

ALL = "all"
"""Stands for every peer whose key is trusted here."""

BATCH = 200
"""Heads and ends that are compared at a time."""

RECEIPTS_MOST = 2_000_000
"""Heads and ends that are taken of one peer; it could go on for ever."""

TRUSTED = "SELECT peer_id FROM peers WHERE trusted ORDER BY peer, peer_id"
TRUSTED_MOST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What one other node told, in a file of ours or of its owner's; or why it told nothing."""

    target: str
    via: Literal["link", "file"]
    file: IO[bytes] | None = None
    error: CmeshError | None = None


def check_against(
    store: Path, targets: Sequence[str], tell: Tell | None = None
) -> tuple[Checked, list[AgainstView]]:
    """Check a store, and compare it with what each target holds; blocks, see `check_store`.

    A target is a peer's name, `ALL`, or the path of a file by `cmesh audit receipts`.

    Raises:
        StoreError: as `check_store`; or there is no trusted peer to ask.
        UnknownPeer: a target that is named is neither a peer nor a file.
    """
    before = read_head(store)
    views = list[AgainstView]()
    with ExitStack() as stack:
        told = [_told(store, name, stack) for name in _targets(store, targets)]
        for one in told:
            # A peer that `ALL` stands for may have left the tailnet, and is no mistake of anybody.
            if one.target in targets and isinstance(one.error, UnknownPeer):
                raise one.error

        def also(cursor: Reader) -> None:
            own = own_keys(cursor, store.parent)
            through = before.seq if before else 0
            views.extend(_compared(cursor, store, one, own, through) for one in told)

        checked = check_store(store, tell, also)
        if not views:  # the store itself cannot be believed, so nothing is compared with it
            why = AuditUnproven("the store itself is not as it was written")
            views = [_not_asked(one, one.error or why) for one in told]
    return checked, views


def own_keys(cursor: Reader, state: Path) -> list[tuple[NodeId, str]]:
    """Return (node id, public key) this node ever had, by its rows and by its own files."""
    own = proofs.identities(cursor, NODE_UP)
    key, node_id = _own_key(state), read_node_id(state)
    if key is not None and node_id and (node_id, key.public) not in own:
        own.append((node_id, key.public))
    return own


def _own_key(state: Path) -> SigningKey | None:
    """Return the key of the node whose state directory it is; None = there is none to read."""
    path = state / "key"
    with contextlib.suppress(CmeshError, OSError):
        if path.exists():
            return SigningKey.load_or_make(path)
    return None


def _targets(store: Path, names: Sequence[str]) -> list[str]:
    """Return the targets once each, with all trusted peers in the place of `ALL`."""
    found = list[str]()
    for name in names:
        if name != ALL:
            found.append(name)
            continue

        async def trusted(client: ControlClient) -> list[str]:
            arguments = SqlArguments(sql=TRUSTED, limit=TRUSTED_MOST)
            return [str(row[0]) for row in (await client.sql(arguments)).rows]

        listed = run(control_socket(store.parent), trusted)
        if not listed:
            raise AuditUnproven(
                "no peer's key is trusted here, so nobody can be asked",
                hint="name a peer, or a file that `cmesh audit receipts` wrote there",
            )
        found += listed
    return list(dict.fromkeys(found))


def _told(store: Path, target: str, stack: ExitStack) -> _Told:
    path = Path(target)
    if "/" in target or path.is_file():
        try:
            return _Told(target=target, via="file", file=stack.enter_context(path.open("rb")))
        except OSError as error:
            why = StoreError(f"`{one_line(target, 200)}` cannot be read: {error.strerror}")
            return _Told(target=target, via="file", error=why)
    # Unnamed and private: what is in it are texts of tasks.
    spool = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # the stack closes it
    try:
        run(control_socket(store.parent), lambda client: _gather(client, target, spool))
    except CmeshError as error:
        return _Told(target=target, via="link", error=error)
    except OSError as error:
        why = DiskFull(f"no room for what `{one_line(target, 60)}` holds: {error.strerror}")
        return _Told(target=target, via="link", error=why)
    return _Told(target=target, via="link", file=spool)


async def _gather(client: ControlClient, peer: str, spool: IO[bytes]) -> None:
    """Write all that a peer holds to `spool`, page by page, in the form of the file."""
    view = await client.ask_proof(ProofArguments(peer=peer))
    header = Header(by=view.node_id, by_name=view.name, of="")
    _put(spool, header.model_dump_json())
    count = 0
    while True:
        for head in view.answer.heads:
            _put(spool, HeadLine(head=head).model_dump_json())
        for end in view.answer.ends:
            _put(spool, EndLine(end=end).model_dump_json())
        count += len(view.answer.heads) + len(view.answer.ends)
        if count > RECEIPTS_MOST:
            raise AuditUnproven(f"`{one_line(peer, 60)}` tells of more than {RECEIPTS_MOST:,}")
        after = view.answer.next
        if not after:
            break
        view = await client.ask_proof(ProofArguments(peer=peer, after=after))
        if 0 < view.answer.next <= after:
            raise AuditUnproven(f"`{one_line(peer, 60)}` tells the same again and again")
    _put(spool, Total(lines=count).model_dump_json())
    spool.seek(0)


def _put(spool: IO[bytes], line: str) -> None:
    spool.write(line.encode() + b"\n")


def _compared(
    cursor: Reader, store: Path, told: _Told, own: Sequence[tuple[NodeId, str]], through: int
) -> AgainstView:
    if told.file is None:
        return _not_asked(told, told.error or AuditUnproven("it was not asked"))
    try:
        lines = receipts_file.read(told.file)
        header = next(lines)
        assert isinstance(header, Header)  # `read` yields it first
        if told.via == "file" and header.of not in {node_id for node_id, _ in own}:
            of = one_line(header.of_name or header.of, 60)
            raise AuditUnproven(f"these receipts are of `{of}`, which is another node")
        return _view(cursor, store, told, _Sides(header, lines, own, through))
    except CmeshError as error:
        return _not_asked(told, error)


@dataclass(frozen=True, slots=True)
class _Sides:
    header: Header
    lines: Iterator[Header | HeadLine | EndLine]
    own: Sequence[tuple[NodeId, str]]
    through: int


def _view(cursor: Reader, store: Path, told: _Told, sides: _Sides) -> AgainstView:
    header = sides.header
    peer_id, name = NodeId(header.by), one_line(header.by_name or header.by, 60)
    keys = [key for node_id, key in proofs.peer_keys(cursor) if node_id == peer_id]
    known = Known(own=sides.own, peer_id=peer_id, peer=name, peer_keys=keys)
    comparison = Comparison(cursor, known, through=sides.through)

    def ask(**more: object) -> ProofView:
        arguments = ProofArguments.model_validate({"peer": header.by, **more})
        return run(control_socket(store.parent), lambda client: client.ask_proof(arguments))

    _forward(comparison, sides.lines, ask if told.via == "link" else None)
    for asked in comparison.asked() if told.via == "link" else ():
        rows = [AskedHead(seq=head.head_seq, signature=head.signature) for head in asked]
        comparison.rows(asked, ask(rows=rows).answer.rows)
    outcome = comparison.outcome()
    nothing = not outcome.covered_through and not outcome.differing
    reason = f"`{name}` holds no signature of this node's log" if nothing else ""
    who = {"peer": name, "node_id": peer_id, "via": told.via, "reason": reason}
    return AgainstView.model_validate(who | asdict(outcome))


def _forward(
    comparison: Comparison,
    lines: Iterator[Header | HeadLine | EndLine],
    ask: Callable[..., ProofView] | None,
) -> None:
    """Compare what the other side holds, some lines at a time."""
    heads, ends, wholes = list[Seen](), list[EndLine](), dict[str, WholeEnd | None]()

    def compare() -> None:
        comparison.heads(heads)
        for task_id in comparison.ends([line.end for line in ends]):
            whole = ask(task_id=task_id).answer.end if ask else wholes.get(task_id)
            comparison.whole(TaskId(task_id), whole)
        heads.clear()
        ends.clear()
        wholes.clear()

    for line in lines:
        if isinstance(line, HeadLine):
            heads.append(line.head)
        elif isinstance(line, EndLine):
            ends.append(line)
            wholes[line.end.task_id] = line.whole
        if len(heads) + len(ends) >= BATCH:
            compare()
    compare()


def _not_asked(told: _Told, error: CmeshError) -> AgainstView:
    return AgainstView(
        peer=one_line(told.target, 200),
        via=told.via,
        verdict="not_asked",
        code=error.code,
        reason=one_line(error.message, 500),
    )
