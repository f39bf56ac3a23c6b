"""What a task may do where it runs: the built-in profiles, and the owner's narrower ones.

Data only. `cmesh.sandbox` makes walls of it, and what cannot be enforced is not run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cmesh.model import Profile

__all__ = ["BUILT_IN", "NamedProfile", "ProfileLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileLimits:
    """What the processes of one task may use.

    Attributes:
        memory_mib: address space of one process, in MiB (RLIMIT_AS, setrlimit(2)).
        processes: of the whole task at a time.
        open_files: descriptors of one process.
        file_mib: the longest file a process may write, in MiB.
        disk_mib: what the task may add to its places on the disk, in MiB.
    """

    memory_mib: int
    processes: int
    open_files: int
    file_mib: int
    disk_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedProfile:
    """A profile, built in or of `[profiles.NAME]`; the latter only ever takes away.

    Attributes:
        name: a built-in one has the name of its base.
        base: the kind of walls, and the word by which a caller asks for it.
        read: what is visible of the task's directory, relative to it; empty = all.
        write: what may be written of the task's own copy, relative to it; empty = all.
            Only `edit` and `build` have a copy, so it means nothing for `query`.
        hosts: names that may be reached on port 443 besides the model's; empty = none.
        limits: None = none but those of the machine, which is `full`.
    """

    name: str
    base: Profile
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    limits: ProfileLimits | None


# Measured with the agents themselves: one ended at 1 GiB of memory and at 16 processes.
_SMALL = ProfileLimits(
    memory_mib=8192, processes=512, open_files=4096, file_mib=1024, disk_mib=4096
)
_LARGE = ProfileLimits(
    memory_mib=16384, processes=2048, open_files=16384, file_mib=8192, disk_mib=16384
)

BUILT_IN: Mapping[Profile, NamedProfile] = MappingProxyType(
    {
        Profile.QUERY: NamedProfile(name="query", base=Profile.QUERY, limits=_SMALL),
        Profile.EDIT: NamedProfile(name="edit", base=Profile.EDIT, limits=_SMALL),
        # Which hosts a build needs only its owner knows; a list of ours would be a way out.
        Profile.BUILD: NamedProfile(name="build", base=Profile.BUILD, limits=_LARGE),
        Profile.FULL: NamedProfile(name="full", base=Profile.FULL, limits=None),
    }
)
"""The four words a caller may say. An owner's profile may have no more than its base's limits."""
