"""The port of the last start is a hint: whatever is kept, a start goes on."""

from pathlib import Path

import pytest

from cmesh.node.port import last_port, remember_port


def test_what_was_kept_is_found(tmp_path: Path) -> None:
    remember_port(tmp_path, 41_641)
    assert last_port(tmp_path) == 41_641


@pytest.mark.parametrize("kept", [b"", b"no port", b"0", b"-1", b"65536", b"\xff", b"9" * 5_000])
def test_what_is_no_port_counts_as_none(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "udp-port").write_bytes(kept)
    assert last_port(tmp_path) == 0


def test_a_directory_that_cannot_be_written_costs_the_hint_only(tmp_path: Path) -> None:
    remember_port(tmp_path / "missing", 41_641)
    assert last_port(tmp_path / "missing") == 0
