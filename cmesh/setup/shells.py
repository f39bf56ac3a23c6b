"""The lines in the shells' start files that put `~/.local/bin` on PATH.

They stand between marks, are added once and are taken out byte for byte. A start file is
appended to in place: its mode, its owner and a link to it stay what they were.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

__all__ = ["BEGIN", "END", "Block", "added", "is_on_path", "plan_blocks", "removed"]

BEGIN = "# >>> cmesh >>>"
END = "# <<< cmesh <<<"

_POSIX = (
    'case ":$PATH:" in *":$HOME/.local/bin:"*) ;; *) export PATH="$HOME/.local/bin:$PATH" ;; esac'
)
_FISH = "contains -- $HOME/.local/bin $PATH; or set -gx PATH $HOME/.local/bin $PATH"
_LOGIN_FILES = (".bash_profile", ".bash_login", ".profile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Lines for one file; `line` is what stands between the marks."""

    path: Path
    line: str

    @property
    def text(self) -> bytes:
        """The lines as they are written, marks included."""
        return f"{BEGIN}\n{self.line}\n{END}\n".encode()


def is_on_path(directory: PurePath, variable: str) -> bool:
    """Return whether a PATH names the directory."""
    return str(directory) in variable.split(os.pathsep)


def plan_blocks(*, home: Path, shell: str, config: Path, zsh: Path) -> Sequence[Block]:
    """Return a block for each start file of the user's shells. Reads which files there are.

    A shell is the user's when it is the login shell (`shell`, a path or a name) or when its
    start file is there. Of bash it is two: a login shell does not read `.bashrc`.
    """
    name = PurePath(shell).name
    found: list[Block] = []
    if name == "bash" or (home / ".bashrc").exists():
        login = next((one for one in _LOGIN_FILES if (home / one).exists()), ".profile")
        found += [Block(path=home / one, line=_POSIX) for one in (".bashrc", login)]
    elif name not in ("zsh", "fish"):
        found.append(Block(path=home / ".profile", line=_POSIX))
    if name == "zsh" or (zsh / ".zshrc").exists():
        found.append(Block(path=zsh / ".zshrc", line=_POSIX))
    if name == "fish" or (config / "fish").is_dir():
        found.append(Block(path=config / "fish" / "conf.d" / "cmesh.fish", line=_FISH))
    return found


def added(before: bytes, block: Block) -> tuple[bytes, bool]:
    """Return the bytes to append for the block, and whether they begin with a line break.

    They do when the last line had none; there are none when the block is there already.
    """
    if block.text in before:
        return b"", False
    newline = bool(before) and not before.endswith(b"\n")
    return (b"\n" if newline else b"") + block.text, newline


def removed(after: bytes, *, newline: bool) -> bytes:
    """Return a file's bytes without the block, as they were before it was added."""
    begin = after.find(f"{BEGIN}\n".encode())
    end = after.find(f"{END}\n".encode(), begin)
    if begin < 0 or end < 0:
        return after
    start = begin - 1 if newline and after[begin - 1 : begin] == b"\n" else begin
    return after[:start] + after[end + len(END) + 1 :]
