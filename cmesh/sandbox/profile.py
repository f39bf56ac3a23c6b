"""Profiles as data: what a task of one may read, write, reach and use. Pure.

A profile says what is allowed; `cmesh.sandbox.plan` says how this machine holds a task to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cmesh.beneath import Judged
from cmesh.model import Profile

__all__ = [
    "DEVICES",
    "ETC",
    "MIB",
    "PROFILES",
    "SYSTEM",
    "Beside",
    "Objects",
    "Parts",
    "ProfileData",
    "SandboxSpec",
    "View",
    "is_below",
    "views",
]

SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt",
)  # fmt: skip
"""Programs and their libraries: to read and execute, in every profile."""

ETC = (
    "/etc/alternatives", "/etc/ca-certificates", "/etc/ca-certificates.conf", "/etc/crypto-policies",
    "/etc/debian_version", "/etc/fonts", "/etc/group", "/etc/host.conf", "/etc/hosts",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/locale.alias",
    "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/os-release", "/etc/passwd",
    "/etc/pki/tls/certs", "/etc/protocols", "/etc/services", "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf", "/etc/terminfo", "/etc/timezone",
)  # fmt: skip
"""What programs need of `/etc`. Not all of it: it may hold what only this user may read."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

MIB = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileData:
    """What a profile allows, the same on every machine.

    Attributes:
        writes_directory: the task may change its directory.
        limits: that no owner sets, by name of RLIMIT_* (getrlimit(2)); the others are in
            `cmesh.policy.profiles`.
    """

    writes_directory: bool
    limits: Mapping[str, int]


PROFILES: Mapping[Profile, ProfileData] = {
    Profile.QUERY: ProfileData(
        writes_directory=False,
        limits={"CORE": 0, "MEMLOCK": 64 * MIB},
    ),
    Profile.EDIT: ProfileData(
        writes_directory=True,
        limits={"CORE": 0, "MEMLOCK": 64 * MIB},
    ),
    Profile.BUILD: ProfileData(
        writes_directory=True,
        limits={"CORE": 0, "MEMLOCK": 64 * MIB},
    ),
}
"""Those that a sandbox can hold a task to; `full` has none. What a task may change of a directory
is its own copy of it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """A directory below one that was judged, to read: where another repository's objects lie.

    Attributes:
        judged: the directory, as it must still be.
        below: the path from there.
        place: where it is seen; without mounts that is where it is.
    """

    judged: Judged
    below: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Folders below a directory that was judged, to read, at the same names in a task's copy.

    Attributes:
        judged: the directory, as it must still be.
        names: their paths from there, without links.
    """

    judged: Judged
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What of a task's directory it may see and write, by paths relative to it, without links.

    Attributes:
        read: what is visible; empty = all.
        write: what may be written where the directory may be, each at or below one of `read`;
            empty = all that is visible.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """One part of the directory, as it is shown; `below` is its path from there."""

    below: str
    writable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """One task's sandbox, independent of how it is made. All paths are absolute.

    Attributes:
        directory: the task's; its links are resolved.
        copy: what is shown there instead, a directory of the task's own; empty = itself. Without
            mounts it is the same path.
        objects: what the copy borrows; None = nothing.
        beside: what is shown in the copy and is not of it, never to be written; None = nothing.
        parts: what of the directory it is about; of a copy, what of the copy.
        own_program: it runs cmesh's own code, which may set modes also where only Landlock holds it.
        writes_directory: it may be changed.
        home, tmp: private to the task, to write; `tmp` is also `/tmp`.
        write: further directories to write, such as a conversation's.
        read: further files and directories to read and execute.
        links: paths that are links, and where each leads.
        hidden: directories that stay empty, even below one that may be read.
        port: the one TCP port on loopback that leads out; None = no network at all.
    """

    directory: str
    writes_directory: bool
    home: str
    tmp: str
    write: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    hidden: tuple[str, ...] = ()
    port: int | None = None
    copy: str = ""
    objects: Objects | None = None
    beside: Beside | None = None
    parts: Parts = Parts()
    own_program: bool = False
    limits: Mapping[str, int] = field(default_factory=dict[str, int])


def is_below(path: str, roots: Sequence[str]) -> bool:
    """Say whether a path is one of `roots`, or below one, by its name."""
    return any(path == root or path.startswith(f"{root.rstrip('/')}/") for root in roots)


def views(spec: SandboxSpec) -> list[View]:
    """Return the parts to show, each after those that it lies in; empty = the whole directory.

    Without `read` the directory itself is shown, not to be written, and the parts lie in it.
    """
    read = _outermost(spec.parts.read)
    write = _outermost(spec.parts.write) if spec.writes_directory else []
    shown = [
        View(path, spec.writes_directory and (not write or is_below(path, write))) for path in read
    ]
    return [*shown, *(View(path, writable=True) for path in write if path not in read)]


def _outermost(paths: Sequence[str]) -> list[str]:
    known = sorted(set(paths))
    return [path for path in known if not is_below(path, [one for one in known if one != path])]
