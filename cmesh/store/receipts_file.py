"""What one node holds of another's log, as a file: for machines that cannot meet.

JSON lines: a `receipts` line that says by whom and of whom, one line for each head and each
end, and a `total` line, so that half a file is noticed. What is in it proves itself by the
signatures of the node that it is about; the file as a whole is not signed.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cmesh.errors import AuditUnproven
from cmesh.model import NodeId, TaskId
from cmesh.protocol.fields import Name, Seq
from cmesh.protocol.link_messages import Seen
from cmesh.protocol.proof_messages import HeldEnd, WholeEnd
from cmesh.store import held
from cmesh.store.exchange import Reader

__all__ = [
    "LINE_BYTES",
    "EndLine",
    "HeadLine",
    "Header",
    "Line",
    "Total",
    "lines_of",
    "read",
    "write",
]

LINE_BYTES = 1024 * 1024
"""The longest line: an end with its texts, as it also crosses a link."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Header(_Line):
    """The first line.

    Attributes:
        by, of: node ids: who holds what follows, and whose log it is about.
    """

    type: Literal["receipts"] = "receipts"
    version: Literal[1] = 1
    by: Name
    by_name: Name = ""
    of: Name
    of_name: Name = ""
    made_at: datetime | None = None


class HeadLine(_Line):
    """A head of the other log that is held."""

    type: Literal["head"] = "head"
    head: Seen


class EndLine(_Line):
    """The end of a task between the two; `whole` only where its texts are still kept."""

    type: Literal["end"] = "end"
    end: HeldEnd
    whole: WholeEnd | None = None


class Total(_Line):
    """The last line: how many heads and ends came before it."""

    type: Literal["total"] = "total"
    lines: Seq


Line = Annotated[Header | HeadLine | EndLine | Total, Field(discriminator="type")]
"""Any line of the file."""

_ANY: TypeAdapter[Header | HeadLine | EndLine | Total] = TypeAdapter(Line)


def lines_of(cursor: Reader, peer_id: NodeId) -> Iterator[HeadLine | EndLine]:
    """Yield all that a store holds of a peer's log, a page in memory at a time."""
    after = 0
    while True:
        page = held.page(cursor, peer_id, after)
        yield from (HeadLine(head=head) for head in page.heads)
        for end in page.ends:
            whole = held.whole_end(cursor, peer_id, TaskId(end.task_id))
            yield EndLine(end=end, whole=whole)
        after = page.next
        if not after:
            return


def write(file: IO[str], header: Header, lines: Iterator[HeadLine | EndLine]) -> int:
    """Write the file; return how many heads and ends are in it."""
    file.write(header.model_dump_json(ensure_ascii=True) + "\n")
    count = 0
    for line in lines:
        file.write(line.model_dump_json(exclude_none=True, ensure_ascii=True) + "\n")
        count += 1
    file.write(Total(lines=count).model_dump_json() + "\n")
    return count


def read(file: IO[bytes]) -> Iterator[Header | HeadLine | EndLine]:
    """Yield the file's lines, the header first.

    Raises:
        AuditUnproven: it is not such a file, or not a whole one; so nothing is compared.
    """
    count = 0
    for number, raw in enumerate(iter(lambda: file.readline(LINE_BYTES + 1), b""), start=1):
        line = _line(raw, number)
        if number == 1 and not isinstance(line, Header):
            raise _bad(number, "it does not say whose receipts these are")
        if isinstance(line, Total):
            if line.lines != count or file.read(1):
                raise _bad(number, f"it has {count} receipts and says {line.lines}")
            return
        if number > 1:
            if isinstance(line, Header):
                raise _bad(number, "a second file begins here")
            count += 1
        yield line
    raise AuditUnproven(
        "the file with receipts ends before its last line",
        hint="copy it again, or write it anew: `cmesh audit receipts NAME --output FILE` there",
    )


def _line(raw: bytes, number: int) -> Header | HeadLine | EndLine | Total:
    if len(raw) > LINE_BYTES:
        raise _bad(number, f"it is longer than {LINE_BYTES} bytes")
    try:
        return _ANY.validate_json(raw)
    except ValidationError:  # pydantic's words repeat what stands there
        raise _bad(number, "it is no receipt of a form that this version knows") from None


def _bad(number: int, why: str) -> AuditUnproven:
    return AuditUnproven(
        f"line {number} of the file with receipts cannot be read: {why}",
        hint="write it anew: `cmesh audit receipts NAME --output FILE` on the other machine",
    )
