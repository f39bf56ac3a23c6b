"""What the doctor sees of real directories, locks and sockets, and what its fixes do to them."""

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmesh.errors import CmeshError, StoreBusy
from cmesh.locks import FileLock
from cmesh.paths import control_socket
from cmesh.setup.doctor.examine import examine
from cmesh.setup.doctor.finding import Finding, Group
from cmesh.setup.doctor.mend import describe, mend
from cmesh.setup.doctor.places import file_system, is_network, state_facts
from tests.unit.setup.doctor.support import config, well

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home rw shared:2 master:1 - nfs4 server:/home rw
31 30 0:41 / /home/with\040space rw - tmpfs tmpfs rw
32 22 0:42 / /mnt rw - btrfs /dev/sdb rw
33 32 0:43 / /mnt rw - fuse.sshfs me@there: rw
broken line
"""


@pytest.fixture
def state() -> Iterator[Path]:
    # A short path, for the control socket.
    with tempfile.TemporaryDirectory(prefix="cm-") as directory:
        place = Path(directory) / "s"
        (place / "store" / "blobs").mkdir(parents=True, mode=0o700)
        (place / "node").mkdir(mode=0o700)
        for one in (place, place / "store"):
            one.chmod(0o700)
        yield place


def stale(state: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(os.fspath(control_socket(state)))


def only(state: Path, check: str) -> Finding:
    facts = well(state=state_facts(state, state / "config.toml", None), daemon=None)
    [one] = [one for one in examine(facts).fixable if one.check == check]
    return one


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/srv/app", "ext4", False),
        ("/home/me/.local/state/cmesh", "nfs4", True),
        ("/home/with space/x", "tmpfs", False),
        ("/homes", "ext4", False),
        ("/mnt", "fuse.sshfs", True),
    ],
)
def test_the_innermost_and_latest_mount_says_the_type(path: str, kind: str, network: bool) -> None:
    assert file_system(MOUNTS, path) == kind
    assert is_network(kind) is network


def test_without_mounts_the_type_is_not_known() -> None:
    assert file_system("", "/srv") == ""
    assert not is_network("")


def test_a_directory_in_use_names_who_has_it(state: Path) -> None:
    locks = [FileLock(state / name) for name in ("store/store.lock", "node/node.lock")]
    for lock in locks:
        lock.acquire()
    (state / "store" / "blobs" / "b").write_bytes(b"x" * 2000)
    (state / "store" / "audit.duckdb").write_bytes(b"x" * 1000)
    try:
        facts = state_facts(state, state / "config.toml", config())
    finally:
        for lock in locks:
            lock.release()
    assert (facts.store_holder, facts.node_holder) == (os.getpid(), os.getpid())
    assert facts.outputs == 2000
    assert 1000 <= facts.store < 1100
    assert facts.socket == "none"
    assert facts.free
    assert facts.floor == 128 * 1024 * 1024


def test_a_socket_that_is_served_is_no_stale_one(state: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(os.fspath(control_socket(state)))
        server.listen()
        assert state_facts(state, state / "c", None).socket == "answers"
    assert state_facts(state, state / "c", None).socket == "stale"


def test_no_directory_is_told_as_such(tmp_path: Path) -> None:
    assert not state_facts(tmp_path / "none", tmp_path / "c", None).there


def test_a_mode_is_closed_and_a_link_is_not_followed(state: Path) -> None:
    key = state / "key"
    key.write_text("k", "utf-8")
    key.chmod(0o644)
    finding = only(state, "modes")
    assert describe(finding) == f"chmod 0600 {key}"
    mend(finding, state, {})
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    elsewhere = state / "elsewhere"
    elsewhere.write_text("e", "utf-8")
    elsewhere.chmod(0o644)
    key.unlink()
    key.symlink_to(elsewhere)
    with pytest.raises(CmeshError):
        mend(finding, state, {})
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o644


def test_a_stale_socket_goes_unless_a_daemon_has_come(state: Path) -> None:
    stale(state)
    finding = only(state, "socket")
    lock = FileLock(state / "store" / "store.lock")
    lock.acquire()
    with pytest.raises(StoreBusy):
        mend(finding, state, {})
    lock.release()
    mend(finding, state, {})
    assert not control_socket(state).exists()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(os.fspath(control_socket(state)))
        server.listen()
        with pytest.raises(StoreBusy):
            mend(finding, state, {})
    assert control_socket(state).exists()


def test_a_left_mark_goes_unless_somebody_is_at_it(state: Path) -> None:
    (state / "replacing").touch()
    finding = only(state, "mark")
    lock = FileLock(state / "replace.lock")
    lock.acquire()
    with pytest.raises(StoreBusy):
        mend(finding, state, {})
    lock.release()
    mend(finding, state, {})
    assert not (state / "replacing").exists()


def test_other_fixes_are_those_of_the_parts_that_know(state: Path) -> None:
    told: list[str] = []
    finding = Group("agents").warning("codex", "w", "s", fix="agent", target="codex")
    mend(finding, state, {"agent": told.append})
    assert told == ["codex"]
    with pytest.raises(CmeshError):
        mend(finding, state, {})
