import hashlib

import pytest

from cmesh.errors import RemoteProtocolError
from cmesh.model import TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.transfer import Assembler
from tests.unit.protocol.builders import TASK

DATA = b"hello, output"
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = TaskId(TASK[:-1] + "2")


def chunk(
    offset: int, data: bytes, *, final: bool = False, sha256: str = SHA, task: TaskId = TASK
) -> Chunk:
    return Chunk(task_id=task, sha256=sha256, offset=offset, data=data, final=final)


def assembler(size: int = len(DATA)) -> Assembler:
    return Assembler(TASK, SHA, size, limit_bytes=100)


def test_pieces_in_order_make_the_output() -> None:
    transfer = assembler()
    assert transfer.add(chunk(0, DATA[:5])) == DATA[:5]
    assert not transfer.done
    assert transfer.add(chunk(5, DATA[5:], final=True)) == DATA[5:]
    assert transfer.done
    assert transfer.offset == len(DATA)


def test_an_interrupted_transfer_goes_on_where_it_stopped() -> None:
    transfer = assembler()
    transfer.resume(DATA[:7])
    assert transfer.offset == 7
    transfer.add(chunk(7, DATA[7:], final=True))
    assert transfer.done


def test_an_output_above_the_limit_is_refused_before_a_byte_comes() -> None:
    with pytest.raises(RemoteProtocolError, match="2147483648 bytes, above the limit of 100"):
        Assembler(TASK, SHA, 2**31, limit_bytes=100)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (chunk(0, b"x", task=OTHER), "another output"),
        (chunk(0, b"x", sha256="00" * 32), "another output"),
        (chunk(6, b"x"), "at 6, expected 5"),
        (chunk(4, b"x"), "at 4, expected 5"),
        (chunk(5, b"x" * 9), "more than the 13 bytes"),
        (chunk(5, b"x", final=True), "at 6 of 13 bytes"),
        (chunk(5, b"x" * 8, final=True), "hash is wrong"),
    ],
)
def test_a_wrong_piece_is_refused(bad: Chunk, why: str) -> None:
    transfer = assembler()
    transfer.add(chunk(0, DATA[:5]))
    with pytest.raises(RemoteProtocolError, match=why):
        transfer.add(bad)
    assert not transfer.done


def test_nothing_comes_after_the_final_piece() -> None:
    transfer = assembler()
    transfer.add(chunk(0, DATA, final=True))
    with pytest.raises(RemoteProtocolError, match="after the final one"):
        transfer.add(chunk(len(DATA), b""))
