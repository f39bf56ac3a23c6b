"""The names below a directory that git would take, without git looking at the directory.

Git opens what it meets there by name: ignore files, and whatever looks like a repository. Any of
them may be a pipe or have no end. So folders are read here and no file is opened but ignore files
that are files, of a size; git is asked about names, beside a skeleton of folders and those.
"""

import contextlib
import os
import shutil
import stat

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    import subprocess
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from cmesh.runner.tree_git import NAMES_BYTES, Git, Trouble, joined, read_file, split
    from cmesh.runner.tree_open import Folders
else:
    from tree_git import NAMES_BYTES, Git, Trouble, joined, read_file, split
    from tree_open import Folders

__all__ = ["FOLDERS_MOST", "REPOSITORY", "Names", "complete", "fits", "is_within"]

REPOSITORY = "160000"
"""The mode of another repository among a tree's entries, as git writes it."""

FOLDERS_MOST, PATH_BYTES = 250, 3000
"""How deep and how long a name may be: below what a system call and git's own walks take."""

IGNORE_BYTES = 1024 * 1024
ASKED_BYTES = 32 * 1024
"""Names that are written before an answer is read: what a pipe takes, or both sides wait."""

ANSWER_BYTES = 16 * 1024 * 1024
"""The longest answer to so many names."""

_GITFILE = b"gitdir:"
_FIELDS = 4

_FILE, _FOLDER, _REPOSITORY, _SPECIAL = range(4)


def fits(name: str) -> bool:
    """Say whether a name is one that every step can work with."""
    return name.count("/") <= FOLDERS_MOST and len(os.fsencode(name)) <= PATH_BYTES


def is_within(name: str, parts: "Sequence[str]") -> bool:
    """Say whether a name is one of `parts` or lies in one; always, where there are none."""
    return not parts or any(name == part or name.startswith(f"{part}/") for part in parts)


def complete(source: str, copy: str, parts: "Sequence[str]", wanted: "Sequence[str]") -> None:
    """Give a copy the folders of `wanted`, if need be empty, and the ignore files above `parts`.

    The latter are no part, and name what is ignored in one.

    Raises:
        Trouble: a file of `wanted` was not copied.
    """
    for path in wanted:
        place = os.path.join(copy, path)
        if os.path.isdir(os.path.join(source, path)):
            os.makedirs(place, 0o755, exist_ok=True)
        elif not os.path.isfile(place):
            # Not by its name: the owner's list is not the caller's to know.
            raise Trouble("a file that its profile lists is ignored by git, or cannot be read")
    folders = {part[:end] for part in parts for end in range(len(part)) if part[end] == "/"}
    for folder in ("", *sorted(folders)) if parts else ():
        place = os.path.join(copy, folder, ".gitignore")
        with contextlib.suppress(OSError, Trouble):
            if not os.path.lexists(place):
                lines = read_file(os.path.join(source, folder, ".gitignore"), IGNORE_BYTES)
                with open(place, "xb") as file:
                    file.write(lines)


class Names:
    """What is below a directory, besides what git knows already.

    Attributes:
        taken: files and links; a repository ends with `/`.
        left_out: what is there, is not ignored, and cannot be taken; a folder ends with `/` and
            stands for all that is in it.
    """

    def __init__(
        self,
        git: Git,
        root: str,
        skeleton: str,
        known: "Mapping[str, tuple[str, str]]",
        parts: "Sequence[str]" = (),
    ) -> None:
        """Prepare it; `skeleton` is a directory that is not there, `known` as git's index has it.

        Modes as git writes them. Nothing outside of `parts` is taken, named or looked into.
        """
        self.taken: list[str] = []
        self.left_out: list[str] = []
        self._git = git
        self._root = root
        self._folders = Folders(root)
        self._skeleton = skeleton
        self._known = known
        self._parts = parts
        self._ignores = os.path.exists(f"{git.directory}/info/exclude")
        self._room = NAMES_BYTES
        os.mkdir(skeleton)

    def find(self) -> "Names":
        """Look at the directory, from the top down."""
        asked, folders = _Patterns(self._git, self._skeleton), self._folders
        with contextlib.closing(asked) as patterns, contextlib.closing(folders):
            level = [""]
            while level:
                found: dict[str, int] = {}
                for folder in level:
                    self._read_ignores(folder)
                    found.update(self._look(folder))
                level = self._sort(found, self._ignored(found, patterns))
        shutil.rmtree(self._skeleton)
        return self

    def _sort(self, found: "dict[str, int]", ignored: "Collection[str]") -> list[str]:
        """Take what is not ignored; return the folders among it."""
        folders: list[str] = []
        for name, kind in found.items():
            if name in ignored:
                continue
            if kind == _SPECIAL:
                self.left_out.append(name)
            elif kind == _FOLDER:
                folders.append(name)
            else:
                self.taken.append(f"{name}/" if kind == _REPOSITORY else name)
        return folders

    def _look(self, folder: str) -> "Iterator[tuple[str, int]]":
        """Return what is in a folder and is not known, each with its kind."""
        try:
            fd = self._folders.open(folder, os.O_DIRECTORY)
            with contextlib.ExitStack() as opened:
                opened.callback(os.close, fd)
                for entry in opened.enter_context(os.scandir(fd)):
                    name = os.path.join(folder, entry.name)
                    self._room -= len(name) + 1
                    if self._room < 0:
                        break
                    kind = self._kind(folder, name, entry) if self._concerns(name, entry) else None
                    if kind is not None:
                        yield name, kind
        except OSError:
            self.left_out.append(f"{folder or '.'}/")
        if self._room < 0:
            self.left_out.append(f"{folder or '.'}/")

    def _concerns(self, name: str, entry: "os.DirEntry[str]") -> bool:
        if is_within(name, self._parts):
            return True
        above = any(is_within(part, (name,)) for part in self._parts)
        return above and entry.is_dir(follow_symlinks=False)

    def _kind(self, folder: str, name: str, entry: "os.DirEntry[str]") -> int | None:
        """Return what an entry is; None = it is not asked about."""
        if entry.name == ".git":
            if folder:  # of no repository, or nobody would look in here
                self.left_out.append(name)
            return None
        if entry.is_dir(follow_symlinks=False):
            if self._known.get(name, ("", ""))[0] == REPOSITORY:
                return None
            if not fits(f"{name}/"):
                self.left_out.append(f"{name}/")
                return None
            return _REPOSITORY if _is_repository(f"{self._root}/{name}") else _FOLDER
        if name in self._known:
            return None
        if entry.is_symlink() or entry.is_file(follow_symlinks=False):
            if fits(name):
                return _FILE
            self.left_out.append(name)
            return None
        return _SPECIAL

    def _read_ignores(self, folder: str) -> None:
        """Put a folder's ignore file into the skeleton, as git would read it."""
        place = os.path.join(self._root, folder, ".gitignore")
        try:
            if not stat.S_ISREG(os.lstat(place).st_mode):
                return  # git follows no link either
            lines = read_file(place, IGNORE_BYTES)
        except FileNotFoundError:
            return
        except (OSError, Trouble):
            # Nobody knows what is not to be shown, so nothing is.
            lines = b"*\n"
            self.left_out.append(f"{folder or '.'}/")
        self._ignores = True
        beside = os.path.join(self._skeleton, folder)
        os.makedirs(beside, exist_ok=True)
        with open(os.path.join(beside, ".gitignore"), "wb") as file:
            file.write(lines)

    def _ignored(self, found: "dict[str, int]", patterns: "_Patterns") -> "Collection[str]":
        """Return the names that git ignores."""
        if not self._ignores or not found:
            return ()
        for name, kind in found.items():
            if kind in {_FOLDER, _REPOSITORY}:  # patterns may be for folders alone
                os.makedirs(os.path.join(self._skeleton, name), exist_ok=True)
        return patterns.matching(list(found))


class _Patterns:
    """Git, as it says which names are ignored; one process, however often it is asked."""

    def __init__(self, git: Git, skeleton: str) -> None:
        self._git, self._skeleton = git, skeleton
        self._process: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            with self._process:
                pass

    def matching(self, names: "Sequence[str]") -> set[str]:
        """Return the names that a pattern ignores."""
        if self._process is None:
            self._process = self._git.start(
                "check-ignore", "--no-index", "--stdin", "-z", "--verbose", "--non-matching",
                tree=self._skeleton,
            )  # fmt: skip
        found: set[str] = set()
        some: list[str] = []
        size = 0
        for name in names:
            if size > ASKED_BYTES:
                found |= self._ask(self._process, some)
                some, size = [], 0
            some.append(name)
            size += len(os.fsencode(name)) + len("./\0")
        return found | self._ask(self._process, some)

    @staticmethod
    def _ask(process: "subprocess.Popen[bytes]", names: "Sequence[str]") -> set[str]:
        asks, answers = process.stdin, process.stdout
        assert asks is not None
        assert answers is not None
        asks.write(joined(f"./{name}" for name in names))  # one may begin with `:`
        asks.flush()
        said, wanted = bytearray(), _FIELDS * len(names)
        while wanted > 0:
            piece = os.read(answers.fileno(), ASKED_BYTES)
            if not piece:
                raise Trouble("`git check-ignore` failed")
            said += piece
            wanted -= piece.count(0)
            if len(said) > ANSWER_BYTES:  # each answer repeats a pattern, however long that is
                raise Trouble("its ignore files have patterns that are too long")
        fields = split(bytes(said))
        told = zip(names, fields[::_FIELDS], fields[2::_FIELDS], strict=True)
        # Of a name that no pattern matches there is no source; `!` is one that brings it back.
        return {name for name, source, pattern in told if source and not pattern.startswith("!")}


def _is_repository(path: str) -> bool:
    """Say whether git would take a folder for a repository; opens nothing but a `.git` file."""
    inside = os.path.join(path, ".git")
    try:
        mode = os.lstat(inside).st_mode
    except OSError:
        return False
    if stat.S_ISREG(mode):
        with contextlib.suppress(OSError, Trouble):
            return read_file(inside, PATH_BYTES).startswith(_GITFILE)
        return True  # who knows
    if stat.S_ISDIR(mode):
        has = [os.path.lexists(os.path.join(inside, name)) for name in _PARTS]
        return has[0] and (has[1] or all(has[2:]))
    return stat.S_ISLNK(mode)


_PARTS = ("HEAD", "commondir", "objects", "refs")
