"""The program that copies a task's directory and, later, finds what changed: in a sandbox only.

Runs as `python -I -S tree.py ORDER`, standard library alone, with JSON as its order and its
answer. Git works in a directory that no agent can write, and is never asked to read a work tree
but for its names: contents are hashed as they are, so that no filter, hook or monitor has a turn.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from cmesh.runner.tree_git import COPY_BYTES, Git, Trouble, joined, objects, split
else:
    # A script under `-I`, in a sandbox that shows this directory and not the package's others.
    # Last, so that the modules of the standard library stay what they are.
    sys.path.append(os.path.dirname(__file__))
    from tree_git import COPY_BYTES, Git, Trouble, joined, objects, split

__all__ = ["main"]

FICLONE = 0x40049409  # linux/fs.h
LISTED, NAME_CHARACTERS = 200, 300
"""Names that an answer lists, each cut to so much; it counts them all."""

LINK, FILE, PROGRAM, REPOSITORY = "120000", "100644", "100755", "160000"
"""Modes of a tree's entries, as git writes them."""


_TELLING = {
    ".claude", ".codex", ".gemini", ".cursor", ".opencode", ".vscode", ".idea", ".github",
    ".gitlab", ".circleci", ".husky", ".githooks", ".devcontainer", ".direnv", ".zed", ".cargo",
}  # fmt: skip
_TELLING_FILES = {
    ".mcp.json", "claude.md", "claude.local.md", "agents.md", "agents.override.md", "gemini.md", ".cursorrules", ".envrc", ".gitattributes",
    ".gitmodules", ".gitlab-ci.yml", ".pre-commit-config.yaml", "lefthook.yml", "makefile",
    "gnumakefile", "justfile", "package.json", "setup.py", "conftest.py", "sitecustomize.py",
    "usercustomize.py", "build.rs", "jenkinsfile", "dockerfile", "tox.ini", "noxfile.py",
    "build.gradle", "build.gradle.kts", "pyproject.toml", "cargo.toml", "setup.cfg", ".npmrc",
    "cmakelists.txt", "rakefile", "gemfile", "gradlew", "pom.xml", "docker-compose.yml",
    "compose.yaml", "meson.build", "flake.nix", "opencode.json", ".travis.yml", ".gitconfig",
}  # fmt: skip
"""What is run, or read as an instruction, by who merely opens, builds or tests a tree."""


class Tree:
    """Names below a directory and what git would call them.

    Attributes:
        entries: mode and, once known, object of each name.
        left_out: names that are there and not taken: no file, or not to be read.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.entries: dict[str, tuple[str, str]] = {}
        self.left_out: list[str] = []
        self._parents = {"": True}

    def look(self, names: "Iterable[str]", known: "Mapping[str, tuple[str, str]]") -> None:
        """Take these names; what cannot be read stays as it is in `known`."""
        for name in names:
            before = known.get(name)
            if name.endswith("/") or (before and before[0] == REPOSITORY):
                self._repository(name, before)
                continue
            try:
                mode = self._mode(name)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                    continue
                mode = ""
            if mode:
                self.entries[name] = (mode, "")
                continue
            self.left_out.append(name)
            if before:
                self.entries[name] = before

    def _repository(self, name: str, before: "tuple[str, str] | None") -> None:
        # Of another repository only the commit is known that the outer one names.
        if before:
            self.entries[name] = before
        with contextlib.suppress(OSError):
            if os.listdir(os.path.join(self.root, name)):
                self.left_out.append(name)

    def _mode(self, name: str) -> str:
        """Return the mode of what can be read under a name; empty = nothing of the kind."""
        if not self._is_real(os.path.dirname(name)):
            raise OSError(errno.ENOTDIR, "part of it is a link", name)
        path = os.path.join(self.root, name)
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            return LINK
        if not stat.S_ISREG(found.st_mode) or not os.access(path, os.R_OK):
            return ""
        return PROGRAM if found.st_mode & stat.S_IXUSR else FILE

    def _is_real(self, parent: str) -> bool:
        if parent not in self._parents:
            real = self._is_real(os.path.dirname(parent))
            path = os.path.join(self.root, parent)
            self._parents[parent] = real and not os.path.islink(path)
        return self._parents[parent]

    def hash(self, git: Git, tmp: str) -> str:
        """Put all contents into `git` that it does not have; return the tree's object."""
        paths: dict[str, str] = {}
        for name, (mode, _oid) in self.entries.items():
            if mode == LINK:
                paths[name] = _write(f"{tmp}/link-{len(paths)}", os.readlink(f"{self.root}/{name}"))
            elif mode != REPOSITORY and not _oid:
                paths[name] = os.path.join(self.root, name)
        ids = dict(zip(paths, objects(git, paths.values()), strict=True))
        asked = "".join(f"{oid}\n" for oid in dict.fromkeys(ids.values())).encode()
        answers = git.run("cat-file", "--batch-check", data=asked).decode().splitlines()
        missing = {line.split()[0] for line in answers if line.endswith(" missing")}
        objects(git, (path for name, path in paths.items() if ids[name] in missing), write=True)
        self.entries |= {name: (self.entries[name][0], oid) for name, oid in ids.items()}
        lines = [f"{mode} {oid} 0\t{name}" for name, (mode, oid) in self.entries.items()]
        git.run("read-tree", "--empty")
        git.run("update-index", "-z", "--index-info", data=joined(lines))
        return git.run("write-tree", "--missing-ok").decode().strip()


def make(order: "Mapping[str, Any]") -> "dict[str, object]":
    """Copy a directory as it is, without what git ignores, and keep what it was beside it.

    Where it is a git repository, the copy is one too: with a git directory of its own, the same
    commit checked out, and the source's objects read where the order says.
    """
    source, copy, base = order["source"], order["copy"], order["base"]
    theirs = os.path.join(source, ".git")
    head, branch, kind = _head(order, theirs) if order["objects"] else ("", "", "sha1")
    git = Git(order, base, f"{base}/index")
    _init(order, base, kind)
    for path in (base, f"{copy}/.git") if order["objects"] else (base,):
        if path != base:
            _init(order, path, kind)
        _borrow(order, theirs, path)
    if head:
        git.run("read-tree", head)
    known = _known(git)
    tree = Tree(source)
    tree.look(_names(git, source), known)
    size = _copy(tree, copy, order["bytes"], order["files"])
    copied = Tree(copy)
    copied.look([*tree.entries], known)
    found = copied.hash(git, order["tmp"])
    clean = head and git.run("rev-parse", f"{head}^{{tree}}").decode().strip() == found
    if order["objects"]:
        _check_out(Git(order, f"{copy}/.git"), head, branch)
    return {
        "commit": head,
        "tree": found,
        "dirty": bool(head) and not clean,
        "files": len(copied.entries),
        "bytes": size,
        "left_out": _listed([*tree.left_out, *copied.left_out]),
        "left_out_count": len(tree.left_out) + len(copied.left_out),
    }


def compare(order: "Mapping[str, Any]") -> "dict[str, object]":
    """Write what differs in a copy from what it was made of, new files too, as a patch."""
    base, copy = order["base"], order["copy"]
    git = Git(order, base, f"{base}/index")
    old = git.run("write-tree", "--missing-ok").decode().strip()
    known = _known(git)
    tree = Tree(copy)
    tree.look(_names(git, copy), known)
    new = tree.hash(Git(order, base, f"{base}/index.now"), order["tmp"])
    raw = git.run("diff-tree", "-r", "-z", "--raw", "--no-renames", "--full-index", old, new)
    fields = raw.decode("utf-8", "replace").split("\0")[:-1]
    changed = list(zip(fields[::2], fields[1::2], strict=True))
    telling = [name for words, name in changed if _is_telling(name, words.split()[1])]
    return {
        "tree": new,
        "bytes": git.patch(old, new, order["patch"], order["limit"]),
        "files": len(changed),
        "changed": _listed([f"{words[-1]} {name}" for words, name in changed]),
        "flagged": _listed(telling),
        "flagged_count": len(telling),
        "left_out": _listed(tree.left_out),
        "left_out_count": len(tree.left_out),
    }


def _head(order: "Mapping[str, Any]", theirs: str) -> tuple[str, str, str]:
    """Return the source's commit, the name of its branch and its kind of hash.

    The only commands on a git directory that others may have written; none of them looks at a
    work tree or an index.
    """
    git = Git(order, theirs)
    head = branch = ""
    kind = git.run("rev-parse", "--show-object-format").decode().strip()
    with contextlib.suppress(Trouble):  # a branch without a commit
        head = git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}").decode().strip()
    with contextlib.suppress(Trouble):  # no branch is checked out
        branch = git.run("symbolic-ref", "--quiet", "HEAD").decode().strip()
    return head, branch, kind


def _init(order: "Mapping[str, Any]", path: str, kind: str) -> None:
    os.makedirs(path, 0o700, exist_ok=True)
    Git(order, path).run("init", "--quiet", "--template=", f"--object-format={kind}")
    os.makedirs(f"{path}/info", 0o700, exist_ok=True)


def _borrow(order: "Mapping[str, Any]", theirs: str, path: str) -> None:
    """Let a git directory read the source's objects, and ignore what that one ignores."""
    if not order["objects"]:
        return
    if os.path.exists(f"{order['objects']}/info/alternates"):
        raise Trouble(
            "its repository borrows objects of another one (`.git/objects/info/alternates`);"
            " `git repack -a -d` and removing that file makes it whole"
        )
    _write(f"{path}/objects/info/alternates", f"{order['objects']}\n")
    for name in ("shallow", "info/exclude"):
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(f"{theirs}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                _write(f"{path}/{name}", file.read(COPY_BYTES))


def _check_out(git: Git, head: str, branch: str) -> None:
    """Make a commit the current one without touching a file."""
    if branch:
        git.run("symbolic-ref", "HEAD", branch)
    if head:
        # Without a branch HEAD itself names the commit.
        git.run("update-ref", *(() if branch else ("--no-deref",)), "HEAD", head)
        git.run("read-tree", head)
    git.run("config", "--file", f"{git.directory}/config", "core.bare", "false")


def _known(git: Git) -> dict[str, tuple[str, str]]:
    """Return what the index names: mode and object of each."""
    known: dict[str, tuple[str, str]] = {}
    for line in split(git.run("ls-files", "--stage", "-z")):
        words, _, name = line.partition("\t")
        mode, oid, _stage = words.split()
        known[name] = (mode, oid)
    return known


def _names(git: Git, root: str) -> "Sequence[str]":
    """Return the names that git knows and those it does not ignore; a repository ends with `/`."""
    others = git.run("ls-files", "--others", "--exclude-standard", "-z", tree=root, cwd=root)
    return [*dict.fromkeys([*split(git.run("ls-files", "-z")), *split(others)])]


def _copy(tree: Tree, target: str, most_bytes: int, most_files: int) -> int:
    """Copy what a tree names; return the bytes of its files."""
    if len(tree.entries) > most_files:
        raise Trouble(f"it has {len(tree.entries)} files, more than the {most_files} of a copy")
    size = 0
    for name, (mode, oid) in tree.entries.items():
        if oid and mode != REPOSITORY:
            continue  # it cannot be read
        source, place = os.path.join(tree.root, name), os.path.join(target, name)
        os.makedirs(place if mode == REPOSITORY else os.path.dirname(place), 0o755, exist_ok=True)
        if mode == LINK:
            os.symlink(os.readlink(source), place)
        elif mode != REPOSITORY:
            with contextlib.suppress(FileNotFoundError):  # it went away since it was listed
                size += _copy_file(source, place, mode, size, most_bytes)
    return size


def _copy_file(source: str, place: str, mode: str, before: int, most: int) -> int:
    """Copy one file and return its size, by sharing its blocks where the disk can."""
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    target = os.open(
        place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777 if mode == PROGRAM else 0o666
    )
    with open(fd, "rb") as old, open(target, "wb") as new:
        size = os.fstat(fd).st_size
        if before + size > most:
            raise Trouble(f"its files have more than the {most} bytes of a copy")
        try:
            fcntl.ioctl(new.fileno(), FICLONE, fd)
        except OSError:
            shutil.copyfileobj(old, new, COPY_BYTES)
    return size


def _listed(names: "Sequence[str]") -> list[str]:
    shown = [os.fsencode(name).decode("utf-8", "replace") for name in names[:LISTED]]
    return [name[:NAME_CHARACTERS] for name in shown]


def _is_telling(name: str, mode: str) -> bool:
    """Say whether a changed file works by being there; a link may lead anywhere."""
    *folders, last = name.lower().split("/")
    runs = last in _TELLING_FILES or last.endswith(".pth")  # Python runs lines of those
    return mode == LINK or runs or not _TELLING.isdisjoint([*folders, last])


def _write(path: str, content: str | bytes) -> str:
    with open(path, "wb") as file:
        file.write(os.fsencode(content) if isinstance(content, str) else content)
    return path


def main(text: str) -> int:
    """Do what an order says; its answer goes to standard output, why not to standard error."""
    order = json.loads(text)
    try:
        answer = make(order) if order["do"] == "make" else compare(order)
    except (Trouble, OSError) as error:
        where = f": `{error.filename}`" if isinstance(error, OSError) and error.filename else ""
        words = error.strerror if isinstance(error, OSError) else str(error)
        sys.stderr.write(f"{words or type(error).__name__}{where}\n")
        return 1
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    os.umask(0o022)  # the copy's modes are those of any other work tree
    sys.exit(main(sys.argv[1]))
