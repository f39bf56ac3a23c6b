"""Outputs as files: stored under their hash, by a copy or in place."""

import hashlib
from pathlib import Path

import pytest

from cmesh.errors import StoreError
from cmesh.store.blobs import Blobs

DATA = b"an output\n" * 1000
SHA = hashlib.sha256(DATA).hexdigest()


def test_a_file_that_came_whole_is_stored_where_it_lies(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    came = blobs.directory / "incoming-1"
    came.write_bytes(DATA)
    inode = came.stat().st_ino
    blobs.take(came, SHA)
    path = blobs.path(SHA)
    assert path is not None
    assert (path.stat().st_ino, came.exists()) == (inode, False)
    assert blobs.read(SHA, 3, 6) == b"output"
    # Once more, and by a copy: it is the same file.
    came.write_bytes(DATA)
    blobs.take(came, SHA)
    assert blobs.add(DATA) == SHA
    assert [file.name for file in blobs.directory.rglob("*") if file.is_file()] == [SHA]


def test_what_is_not_there_is_neither_taken_nor_read(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    with pytest.raises(FileNotFoundError):
        blobs.take(blobs.directory / "incoming-1", SHA)
    assert blobs.path(SHA) is None
    with pytest.raises(StoreError):
        blobs.read(SHA, 0, 1)


def test_what_was_half_here_is_gone_after_a_start(tmp_path: Path) -> None:
    left = Blobs(tmp_path).directory / "incoming-1"
    left.write_bytes(DATA)
    Blobs(tmp_path)
    assert not left.exists()


def test_what_is_held_for_rows_to_come_is_not_deleted_before_they_named_it(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.add(DATA)
    blobs.named([SHA])
    assert not blobs.watching
    assert blobs.hold(SHA)
    assert not blobs.hold("0" * 64)
    with blobs.holding():
        assert blobs.drop_except(frozenset()) == (0, 0)
    blobs.named([SHA])
    with blobs.holding():
        assert blobs.drop_except(frozenset()) == (1, len(DATA))
    assert not blobs.hold(SHA)


def test_what_a_row_names_after_the_rows_were_read_is_not_deleted(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.add(DATA)
    blobs.named([SHA])
    with blobs.holding():  # whoever deletes reads the rows here; none names it
        assert blobs.watching
        blobs.named([SHA])
        assert blobs.drop_except(frozenset()) == (0, 0)
    with blobs.holding():
        assert blobs.drop_except(frozenset({SHA})) == (0, 0)
        assert blobs.drop_except(frozenset()) == (1, len(DATA))
