"""From `[profiles.NAME]` tables to profiles: each may only be narrower than its base.

A mistake is one `PolicyError`, as with rules. What a profile means is data, not decided here.
"""

from collections.abc import Mapping, Sequence

from cmesh.model import Profile
from cmesh.nearest import nearest
from cmesh.platform.posix.names import is_below
from cmesh.policy.mistakes import Location, PolicyError
from cmesh.policy.profiles import BUILT_IN, NamedProfile, ProfileLimits
from cmesh.policy.tables import ProfileLimitsTable, ProfileTable

__all__ = ["build_profiles", "named_profile", "relative_paths"]


def build_profiles(tables: Mapping[str, ProfileTable]) -> dict[str, NamedProfile]:
    """Return the owner's profiles by name.

    Raises:
        PolicyError: the first that has a taken name, or would widen its base.
    """
    return {name: _profile(name, table, ("profiles", name)) for name, table in tables.items()}


def named_profile(name: str, own: Mapping[str, NamedProfile], where: Location) -> NamedProfile:
    """Return the profile a rule names.

    Raises:
        PolicyError: there is none of that name.
    """
    if name in own:
        return own[name]
    if name in list(Profile):
        return BUILT_IN[Profile(name)]
    known = [*(profile.value for profile in Profile), *own]
    near = nearest(name, known, most=1)
    guess = f"; did you mean `{near[0]}`?" if near else ""
    listed = ", ".join(f'"{word}"' for word in known)
    raise PolicyError(where, f"expected one of {listed}{guess}")


def _profile(name: str, table: ProfileTable, where: Location) -> NamedProfile:
    if name in list(Profile):
        raise PolicyError(where, "is built in; expected another name, with this one as its `base`")
    base = BUILT_IN[Profile(table.base)]
    if table.hosts and base.base is not Profile.BUILD:
        expected = f"`{base.name}` reaches the model only; expected no hosts, or base `build`"
        raise PolicyError((*where, "hosts"), expected)
    if table.write and base.base is Profile.QUERY:
        expected = "`query` writes nothing; expected no paths, or base `edit` or `build`"
        raise PolicyError((*where, "write"), expected)
    copied = base.base is not Profile.QUERY
    read = relative_paths(table.read or (), (*where, "read"), copied=copied)
    write = relative_paths(table.write or (), (*where, "write"), copied=copied)
    for index, path in enumerate(write):
        # As if the task's directory were the root of everything; a profile says `/` everywhere.
        if read and not any(is_below(f"/{path}", f"/{item}") for item in read):
            raise PolicyError((*where, "write", index), "expected a path at or below one of `read`")
    return NamedProfile(
        name=name,
        base=base.base,
        read=read,
        write=write,
        hosts=tuple(table.hosts),
        limits=_limits(table.limits, base, (*where, "limits")),
    )


def relative_paths(texts: Sequence[str], where: Location, *, copied: bool) -> tuple[str, ...]:
    """Return relative paths in normal form; none may leave the directory, or be of no copy."""
    paths: list[str] = []
    for index, text in enumerate(texts):
        parts = [part for part in text.split("/") if part not in {"", "."}]
        if text.startswith(("/", "~")) or "\0" in text or ".." in parts:
            expected = "expected a path relative to the task's directory, without `..`"
            raise PolicyError((*where, index), expected)
        if not parts:
            expected = "expected a path below the task's directory; left out means all of it"
            raise PolicyError((*where, index), expected)
        if copied and ".git" in parts:
            raise PolicyError(
                (*where, index), "no copy has the source's `.git`; expected other paths"
            )
        paths.append("/".join(parts))
    return tuple(paths)


def _limits(table: ProfileLimitsTable, base: NamedProfile, where: Location) -> ProfileLimits:
    most = base.limits
    assert most is not None, "only `full` has none, and it is no base"
    wanted = {
        "memory_mib": table.memory_mib,
        "processes": table.processes,
        "open_files": table.open_files,
        "file_mib": table.file_mib,
        "disk_mib": table.disk_mib,
    }
    for key, value in wanted.items():
        limit: int = getattr(most, key)
        if value is not None and value > limit:
            raise PolicyError((*where, key), f"expected at most {limit}, which `{base.name}` has")
    return ProfileLimits(
        **{key: getattr(most, key) if value is None else value for key, value in wanted.items()}
    )
