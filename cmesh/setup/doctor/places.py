"""Facts of cmesh's own directories: whose they are, who has them open, what they take up.

Looks and changes nothing, whether a daemon runs or not. Blocks on the disk.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from cmesh.config import Config
from cmesh.locks import holder
from cmesh.paths import control_socket
from cmesh.setup.doctor.facts import PlaceFact, StateFacts
from cmesh.store.head import STORE_LOCK
from cmesh.store.room import DISK_FLOOR_BYTES

__all__ = ["file_system", "is_network", "state_facts"]

CONNECT_LIMIT_S = 2.0
MIB = 1024 * 1024
_OTHERS_WRITE, _OTHERS = 0o022, 0o077
_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "davfs", "drvfs", "glusterfs", "lustre", "ncpfs", "nfs",
    "nfs4", "prl_fs", "smb3", "smbfs", "vboxsf", "fuse.davfs2", "fuse.glusterfs", "fuse.rclone",
    "fuse.s3fs", "fuse.sshfs",
})  # fmt: skip
"""File system types whose files another machine may change meanwhile (proc_filesystems(5))."""


def state_facts(state: Path, config_file: Path, config: Config | None) -> StateFacts:
    """Look at the state directory, and at what else must be this user's alone."""
    if not state.is_dir():
        return StateFacts(path=str(state), there=False, places=tuple(_places(state, config_file)))
    kind = file_system(_read(_MOUNTS), os.path.realpath(state))
    path, standing = control_socket(state), _socket(control_socket(state))
    floor = config.store.disk_floor_mib * MIB if config else DISK_FLOOR_BYTES
    disk = os.statvfs(state)
    return StateFacts(
        path=str(state),
        places=tuple(_places(state, config_file, _secrets(config))),
        file_system=kind,
        network=is_network(kind),
        store_holder=_holder(state / "store" / STORE_LOCK),
        node_holder=_holder(state / "node" / "node.lock"),
        socket=standing,
        socket_path=str(path),
        down=(state / "down").exists(),
        replacing=(state / "replacing").exists(),
        replacer=_holder(state / "replace.lock"),
        store=_size(state / "store", without="blobs"),
        outputs=_size(state / "store" / "blobs"),
        tasks=_size(state / "tasks"),
        backups=tuple(
            (one.name, _size(one)) for one in sorted((state / "store").glob("backup-schema-*"))
        ),
        replaced=tuple((one.name, _size(one)) for one in sorted(state.glob("store.replaced-*"))),
        free=disk.f_bavail * disk.f_frsize,
        floor=floor,
    )


def file_system(mounts: str, path: str) -> str:
    """Return the type of the file system that a path is on; empty = not known.

    `mounts` is the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)); of mounts on one
    place the last one counts.
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        words = line.split(" ")
        if len(words) < 7 or "-" not in words[6:]:
            continue
        place = words[4].encode().decode("unicode_escape") if "\\" in words[4] else words[4]
        inside = place == "/" or path == place or path.startswith(f"{place}/")
        if inside and len(place) >= len(best):
            best, kind = place, words[words.index("-", 6) + 1]
    return kind


def is_network(kind: str) -> bool:
    """Say whether files of this type of file system may be another machine's too."""
    return kind in _NETWORK


def _places(state: Path, config_file: Path, secrets: Iterable[Path] = ()) -> Iterator[PlaceFact]:
    """Look at each place whose mode the daemon insists on, and that is there."""
    logins, manifests = state / "logins", config_file.parent / "runners"
    private = [state, state / "store", state / "node", state / "key", state / "daemon.log", logins]
    private += [*_files(logins), *secrets]
    guarded = [config_file.parent, config_file, manifests, *_files(manifests)]
    wanted = dict.fromkeys(private, _OTHERS) | dict.fromkeys(guarded, _OTHERS_WRITE)
    for path, forbidden in wanted.items():
        with contextlib.suppress(OSError):
            info = path.lstat()
            plain = stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode)
            yield PlaceFact(
                path=str(path),
                mode=stat.S_IMODE(info.st_mode),
                forbidden=forbidden,
                mine=plain and info.st_uid == os.getuid(),
                directory=stat.S_ISDIR(info.st_mode),
            )


def _secrets(config: Config | None) -> list[Path]:
    if config is None:
        return []
    named = [config.node.auth_key_file, *(one.key_file for one in config.runners.values())]
    return [path for path in named if path is not None]


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _holder(lock: Path) -> int | None:
    try:
        return holder(lock)
    except OSError:
        return None


def _socket(path: Path) -> Literal["answers", "stale", "none"]:
    """Say whether somebody takes connections; whether they answer is for the daemon's client."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_LIMIT_S)
        try:
            connection.connect(os.fspath(path))
        except FileNotFoundError:
            return "none"
        except ConnectionRefusedError:
            return "stale"
        except OSError:  # slow, or not ours to use: somebody is there
            return "answers"
    return "answers"


def _size(directory: Path, *, without: str = "") -> int:
    """Return the bytes of a directory's files; what goes away meanwhile counts nothing."""
    total = 0
    for place, folders, names in os.walk(directory):
        if without in folders:
            folders.remove(without)
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).lstat().st_size
    return total


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
