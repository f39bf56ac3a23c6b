"""What is taken from the git directory of a source, which others may have written.

Git reads none of its settings, and nothing of it that is no file: what matters is read here and
put into a directory of our own, with the source's objects beside it.
"""

import contextlib
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from collections.abc import Mapping
    from typing import Any

    from cmesh.runner.tree_git import COPY_BYTES, NAMES_BYTES, Git, Trouble, read_file, split
else:
    from tree_git import COPY_BYTES, NAMES_BYTES, Git, Trouble, read_file, split

__all__ = ["borrow", "init", "read_head", "take", "tracked"]

REF_BYTES = 4096


def init(order: "Mapping[str, Any]", path: str, kind: str) -> None:
    """Make a git directory with nothing in it; git makes one of a kind, which is copied then."""
    os.makedirs(path, 0o700, exist_ok=True)
    plain = f"{order['tmp']}/plain-{kind}"
    if not os.path.isdir(plain):
        os.mkdir(plain, 0o700)
        Git(order, plain).run("init", "--quiet", "--template=", f"--object-format={kind}")
        os.makedirs(f"{plain}/info", 0o700, exist_ok=True)
    for folder, _folders, files in os.walk(plain):
        there = os.path.join(path, os.path.relpath(folder, plain))
        os.makedirs(there, 0o700, exist_ok=True)
        for name in files:
            take(os.path.join(folder, name), os.path.join(there, name), COPY_BYTES)


def borrow(order: "Mapping[str, Any]", theirs: str, path: str) -> None:
    """Let a git directory read the source's objects, and ignore what that one ignores.

    Raises:
        OSError, Trouble: the source's directory cannot be used; says why.
    """
    if not order["objects"]:
        return
    if os.path.exists(f"{order['objects']}/info/alternates"):
        raise Trouble(
            "its repository borrows objects of another one (`.git/objects/info/alternates`);"
            " `git repack -a -d` and removing that file makes it whole"
        )
    write(f"{path}/objects/info/alternates", f"{order['objects']}\n")
    for name in ("shallow", "info/exclude"):
        take(f"{theirs}/{name}", f"{path}/{name}", COPY_BYTES)


def read_head(order: "Mapping[str, Any]", theirs: str) -> tuple[str, str, str]:
    """Return the source's commit, the name of its branch and its kind of hash.

    Raises:
        OSError, Trouble: the source's directory cannot be used; says why.
    """
    _require_plain(order["objects"])
    place = f"{order['tmp']}/head"
    os.mkdir(place, 0o700)
    take(f"{theirs}/config", f"{place}.conf", COPY_BYTES)
    kind = _setting(order, place, "extensions.objectformat") or "sha1"
    init(order, place, kind)
    write(f"{place}/objects/info/alternates", f"{order['objects']}\n")
    pointer = read_file(f"{theirs}/HEAD", REF_BYTES)
    write(f"{place}/HEAD", pointer)
    take(f"{theirs}/packed-refs", f"{place}/packed-refs", NAMES_BYTES)
    branch = os.fsdecode(pointer).removeprefix("ref:").strip()
    if branch.startswith("refs/") and not {"", ".", ".."} & set(branch.split("/")):
        os.makedirs(os.path.dirname(f"{place}/{branch}"), exist_ok=True)
        with contextlib.suppress(NotADirectoryError):
            take(f"{theirs}/{branch}", f"{place}/{branch}", REF_BYTES)
    _take_table(order, theirs, place)
    git = Git(order, place)
    head = name = ""
    with contextlib.suppress(Trouble):  # a branch without a commit
        head = git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}").decode().strip()
    with contextlib.suppress(Trouble):  # no branch is checked out
        name = git.run("symbolic-ref", "--quiet", "HEAD").decode().strip()
    return head, name, kind


def tracked(order: "Mapping[str, Any]", theirs: str) -> list[str]:
    """Return the names that a source's index has, which need not be committed.

    Raises:
        Trouble: nobody here can read that index.
    """
    place = f"{order['tmp']}/their-index"
    take(f"{theirs}/index", place, NAMES_BYTES)
    if not os.path.exists(place):
        return []
    return split(Git(order, order["base"], place).run("ls-files", "-z"))


def _take_table(order: "Mapping[str, Any]", theirs: str, place: str) -> None:
    """Take the names of a repository that keeps them in tables, where this git knows those."""
    form = _setting(order, place, "extensions.refstorage")
    if not form or form == "files":
        return
    os.mkdir(f"{place}/reftable")
    for name in os.listdir(f"{theirs}/reftable"):
        take(f"{theirs}/reftable/{name}", f"{place}/reftable/{name}", NAMES_BYTES)
    for key, value in (("core.repositoryformatversion", "1"), ("extensions.refstorage", form)):
        Git(order, place).run("config", "--file", f"{place}/config", key, value)


def _setting(order: "Mapping[str, Any]", place: str, key: str) -> str:
    """Return one setting of the source, empty = it has none; what it includes is not read."""
    git = Git(order, place)
    said = git.run("config", "--file", f"{place}.conf", "--no-includes", "--get", key, nothing=1)
    return said.decode().strip()


def _require_plain(objects: str) -> None:
    """Refuse an object directory with pipes and the like in it: git would wait for one."""
    for folder, folders, files in os.walk(objects):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):  # git finds out for itself what it cannot read
                mode = os.stat(path).st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    raise Trouble(
                        f"its repository has `{name}` among its objects, which is no file"
                    )


def take(source: str, place: str, most: int) -> None:
    """Copy a file as it is, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        write(place, read_file(source, most))


def write(path: str, content: str | bytes) -> str:
    """Write a file and return its path."""
    with open(path, "wb") as file:
        file.write(os.fsencode(content) if isinstance(content, str) else content)
    return path
