"""A file of receipts from another machine: a whole one, or nothing is compared with it."""

import io

import pytest

from cmesh.errors import AuditUnproven
from cmesh.protocol.link_messages import Seen
from cmesh.store.receipts_file import LINE_BYTES, Header, HeadLine, read, write

HEADER = Header(by="nNAS", by_name="nas", of="nLAPTOP")
HEAD = HeadLine(head=Seen(head_seq=7, head_hash="ab" * 32, signature="s" * 86))


def text() -> str:
    file = io.StringIO()
    assert write(file, HEADER, iter([HEAD, HEAD])) == 2
    return file.getvalue()


def test_what_was_written_is_read() -> None:
    assert list(read(io.BytesIO(text().encode()))) == [HEADER, HEAD, HEAD]


def test_no_name_in_it_reaches_a_terminal_as_more_than_text() -> None:
    file = io.StringIO()
    write(file, HEADER.model_copy(update={"by_name": "\x9b2J\u202e"}), iter(()))
    assert file.getvalue().isascii()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("", "ends before its last line"),
        ("".join(text().splitlines(keepends=True)[:-1]), "ends before its last line"),
        (text()[:-1] + "7}", "cannot be read"),
        (text()[: len(text()) // 2], "cannot be read"),
        (text() + text(), "line 4 of"),
        ("".join(text().splitlines(keepends=True)[1:]), "does not say whose"),
        (text().replace('"lines":2', '"lines":3'), "has 2 receipts and says 3"),
        (text().splitlines(keepends=True)[0] + text(), "a second file begins"),
        ("x" * (LINE_BYTES + 5), "is longer than"),
        ("\x00\x9b[]\n", "no receipt of a form"),
        (text().replace("ab" * 32, "\x1b[2J"), "no receipt of a form"),
        (text().replace('"version":1', '"version":2'), "no receipt of a form"),
    ],
)
def test_half_a_file_or_another_one_is_refused_and_not_repeated(broken: str, said: str) -> None:
    with pytest.raises(AuditUnproven, match=said) as found:
        list(read(io.BytesIO(broken.encode())))
    assert found.value.message.isprintable()
