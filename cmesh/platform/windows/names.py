r"""Paths of Windows ("Naming Files, Paths, and Namespaces"; [MS-FSCC] 2.1.5), for policy.

INVARIANT: a text that Windows may take for another place than it says has no normal form. Refused
are therefore: what depends on where a process stands (`x`, `\x`, `C:x`); devices (`\\.\`, `CON`,
`NUL.txt`); streams (`file:stream`); names whose end Windows drops (`x.`, `x `); short names
(`PROGRA~1`); and shares (`\\server\share`), which may be any directory of this machine under
another name, and which to look at tells the server who asks.
"""

import re

__all__ = [
    "COMPONENT_UNITS",
    "PATH_UNITS",
    "goes_up",
    "is_absolute",
    "is_below",
    "may_be_below",
    "normal",
]

COMPONENT_UNITS = 255
"""The longest name of a file, in units of UTF-16."""

PATH_UNITS = 32_000
"""The longest path, in units of UTF-16: what the kernel takes, less what it puts before one."""

_VERBATIM = "\\\\?\\"  # what follows is taken by the kernel as it is
_DRIVE = re.compile(r"[A-Za-z]:\\")
# No name has these; a colon begins a stream, and the others are wildcards of some calls.
_FORBIDDEN = re.compile(r'[\x00-\x1f<>:"|?*/\ud800-\udfff]')
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CLOCK\$|CONIN\$|CONOUT\$|(COM|LPT)[0-9\u00b9\u00b2\u00b3])")
_SHORT = re.compile(r"(?=[^.]{1,8}(\.|$))[^. ]+~[0-9]+(\.[^. ]{1,3})?")


def is_absolute(text: str) -> bool:
    """Say whether the text is a path from the root of a drive."""
    return "\0" not in text and _DRIVE.match(_plain(text)) is not None


def goes_up(text: str) -> bool:
    """Say whether a component is `..`, between slashes of either kind."""
    return ".." in text.replace("/", "\\").split("\\")


def normal(text: str) -> str | None:
    r"""Return `X:\a\b` with the drive in upper case, or None where no text is sure."""
    plain = _plain(text)
    if _DRIVE.match(plain) is None or goes_up(plain):
        return None
    names = [name for name in plain[3:].split("\\") if name not in {"", "."}]
    whole = plain[0].upper() + ":\\" + "\\".join(names)
    if not all(map(_is_sure, names)) or _units(whole) > PATH_UNITS:
        return None
    return whole


def is_below(path: str, root: str) -> bool:
    """Say whether one normal path is surely the other or below it.

    Latin letters count alike in both cases; others only as they are, since a disk has a table of
    its own for them. A real path has the disk's spelling, so nothing is lost.
    """
    return _below(_ascii_upper(path), _ascii_upper(root))


def may_be_below(path: str, root: str) -> bool:
    """Say whether some disk may take one normal path for the other or for one below it."""
    return _below(_loose(path), _loose(root))


def _plain(text: str) -> str:
    if text.startswith(_VERBATIM):
        return text.removeprefix(_VERBATIM)  # a slash in it is no separator, and refused as a name
    return text.replace("/", "\\")


def _is_sure(name: str) -> bool:
    if _FORBIDDEN.search(name) or name[-1] in ". " or _units(name) > COMPONENT_UNITS:
        return False
    device = name.partition(".")[0].rstrip(" ").upper()
    return _DEVICE.fullmatch(device) is None and _SHORT.fullmatch(name) is None


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root if root.endswith("\\") else root + "\\")


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _ascii_upper(text: str) -> str:
    return "".join(one.upper() if one.isascii() else one for one in text)


def _loose(text: str) -> str:
    # Upper case first: a dotless i and a long s are letters of ASCII there, and in no lower case.
    return text.upper().casefold()
