"""The program that copies a task's directory and, later, finds what changed: in a sandbox only.

Runs as `python -I -S tree.py ORDER`, standard library alone, with JSON as its order and its
answer. Git works in a directory that no agent can write and never sees a work tree: names are found
here, contents are hashed as they are, so that no filter, hook or monitor has a turn.
"""

import contextlib
import errno
import json
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from collections.abc import Container, Iterable, Mapping, Sequence
    from typing import Any

    from cmesh.runner.tree_bundle import bundle, unpack
    from cmesh.runner.tree_copy import FILE, LINK, PROGRAM, copy_files
    from cmesh.runner.tree_git import COPY_BYTES, NAMES_BYTES, Git, Trouble, joined, objects, split
    from cmesh.runner.tree_names import REPOSITORY, Names, complete, fits, is_within
    from cmesh.runner.tree_restore import differing, go_on, pointed, restore
    from cmesh.runner.tree_source import borrow, init, read_head, take, tracked, write
else:
    # A script under `-I`, in a sandbox that shows this directory and not the package's others.
    # Last, so that the modules of the standard library stay what they are.
    sys.path.append(os.path.dirname(__file__))
    from tree_bundle import bundle, unpack
    from tree_copy import FILE, LINK, PROGRAM, copy_files
    from tree_git import COPY_BYTES, NAMES_BYTES, Git, Trouble, joined, objects, split
    from tree_names import REPOSITORY, Names, complete, fits, is_within
    from tree_restore import differing, go_on, pointed, restore
    from tree_source import borrow, init, read_head, take, tracked, write

__all__ = ["FILE", "LINK", "PROGRAM", "is_telling", "main"]

LISTED, NAME_CHARACTERS = 200, 300
"""Names that an answer lists, each cut to so much; it counts them all."""

_FOLDER = "040000"

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
    "compose.yaml", "meson.build", "flake.nix", "opencode.json", ".travis.yml", ".gitconfig", "head",
}  # fmt: skip
"""What is run, or read as an instruction, by who merely opens, builds or tests a tree."""


class Tree:
    """Names below a directory and what git would call them.

    Attributes:
        entries: mode and, once known, object of each name.
        sizes: bytes of each file among them.
        left_out: names that are there and not taken: no file, not to be read, too much.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.entries: dict[str, tuple[str, str]] = {}
        self.sizes: dict[str, int] = {}
        self.left_out: list[str] = []
        self._parents = {"": True}
        self._user = os.geteuid()
        self._paths: dict[str, str] = {}  # where the content of an object is

    def look(self, names: "Iterable[str]", known: "Mapping[str, tuple[str, str]]") -> None:
        """Take these names; what cannot be read stays as it is in `known`."""
        for name in names:
            before = known.get(name)
            if name.endswith("/") or (before and before[0] == REPOSITORY):
                self._repository(name, before)
                continue
            try:
                mode = self._mode(name) if fits(name) else ""
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                    continue
                mode = ""
            if mode == _FOLDER:
                continue  # what is in it has names of its own
            if mode:
                self.entries[name] = (mode, "")
            else:
                self.leave_out(name, before)

    def keep(self, names: "Container[str]") -> None:
        """Take these names, and no other; what is not there has no entry."""
        self.entries = {name: entry for name, entry in self.entries.items() if name in names}

    def leave_out(self, name: str, before: "tuple[str, str] | None") -> None:
        """Take a name as it was before, if it was."""
        self.left_out.append(name)
        self.entries.pop(name, None)
        if before:
            self.entries[name] = before

    def trim(self, known: "Mapping[str, tuple[str, str]]", most: int, most_new: int) -> None:
        """Leave out what is too much to be read: above `most` bytes in all, a new file above its."""
        for name, size in self.sizes.items():
            if size > most or (name not in known and size > most_new):
                self.leave_out(name, known.get(name))
            else:
                most -= size

    def trim_changed(self, known: "Mapping[str, tuple[str, str]]", most: int) -> None:
        """Leave out changed files above `most` bytes; only after `hash`."""
        for name, size in self.sizes.items():
            before = known.get(name)
            if size > most and before and self.entries.get(name, before)[1] != before[1]:
                self.leave_out(name, before)

    def _repository(self, name: str, before: "tuple[str, str] | None") -> None:
        # Of another repository only the commit is known that the outer one names.
        if before:
            self.entries[name] = before
        with contextlib.suppress(OSError), os.scandir(os.path.join(self.root, name)) as inside:
            if next(inside, None):
                self.left_out.append(name)

    def _mode(self, name: str) -> str:
        """Return the mode of what can be read under a name; empty = nothing of the kind."""
        if not self._is_real(os.path.dirname(name)):
            raise OSError(errno.ENOTDIR, "part of it is a link", name)
        path = os.path.join(self.root, name)
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            return LINK
        if stat.S_ISDIR(found.st_mode):
            return _FOLDER
        # Who owns a file is asked by its own bit alone, whatever a list beside it says.
        own = found.st_uid == self._user and found.st_mode & stat.S_IRUSR
        if not stat.S_ISREG(found.st_mode) or not (own or os.access(path, os.R_OK)):
            return ""
        self.sizes[name] = found.st_size
        return PROGRAM if found.st_mode & stat.S_IXUSR else FILE

    def _is_real(self, parent: str) -> bool:
        if parent not in self._parents:
            real = self._is_real(os.path.dirname(parent))
            path = os.path.join(self.root, parent)
            self._parents[parent] = real and not os.path.islink(path)
        return self._parents[parent]

    def hash(self, git: Git, tmp: str) -> None:
        """Find the objects of all entries; none is written."""
        paths: dict[str, str] = {}
        for name, (mode, _oid) in self.entries.items():
            if mode == LINK:
                paths[name] = write(f"{tmp}/link-{len(paths)}", os.readlink(f"{self.root}/{name}"))
            elif mode != REPOSITORY and not _oid:
                paths[name] = os.path.join(self.root, name)
        ids = dict(zip(paths, objects(git, paths.values()), strict=True))
        self._paths = {oid: paths[name] for name, oid in ids.items()}
        self.entries |= {name: (self.entries[name][0], oid) for name, oid in ids.items()}

    def keep_contents(self, git: Git, stored: "Container[str]" = ()) -> None:
        """Put all contents into `git` that it does not have; it has those of `stored`."""
        wanted = {
            oid for _mode, oid in self.entries.values() if oid in self._paths and oid not in stored
        }
        asked = "".join(f"{oid}\n" for oid in sorted(wanted)).encode()
        # What is not asked about an object, its length say, git need not open it for.
        said = git.run("cat-file", "--batch-check=%(objectname)", data=asked) if wanted else b""
        missing = [line.split()[0] for line in said.decode().splitlines() if " " in line]
        objects(git, (self._paths[oid] for oid in missing), write=True)

    def store(self, git: Git) -> str:
        """Name all of it in the index of `git`; return the tree's object."""
        lines = [f"{mode} {oid} 0\t{name}" for name, (mode, oid) in self.entries.items()]
        git.run("read-tree", "--empty")
        git.run("update-index", "-z", "--index-info", data=joined(lines))
        # INVARIANT: git drops names that it takes for `.git`, in silence, and so would the patch.
        kept = set(split(git.run("ls-files", "-z")))
        for name in [name for name in self.entries if name not in kept]:
            self.leave_out(name, None)
        return git.run("write-tree", "--missing-ok").decode().strip()


def make(order: "Mapping[str, Any]") -> "dict[str, object]":
    """Copy a directory without what git ignores, and keep what it was beside it.

    Where it is a git repository, the copy is one too: with a git directory of its own, the same
    commit checked out, and the source's objects read where the order says. It holds that commit,
    with the changes of what is tracked where the order says so. Without one it holds all files.
    A follow-up turn has the same again, and in it what the turn before has changed.
    """
    source, copy, base = order["source"], order["copy"], order["base"]
    theirs = os.path.join(source, ".git")
    head, branch, kind = read_head(order, theirs) if order["objects"] else ("", "", "sha1")
    sent, earlier = order.get("changes", ""), order.get("earlier")
    head, branch = _started_on(order, head, branch)
    git = Git(order, base, f"{base}/index")
    init(order, base, kind)
    # A history would show what the parts of a directory leave out.
    parts, own = order["parts"], f"{copy}/.git" if order["objects"] and not order["parts"] else ""
    for path in (base, own) if own else (base,):
        if path != base:
            init(order, path, kind)
        borrow(order, theirs, path)
    if head:
        _read(order, git, head, own)
    known = {name: entry for name, entry in _known(git).items() if is_within(name, parts)}
    tree = Tree(source)
    found = Names(git, source, f"{order['tmp']}/copied", known, parts).find()
    tree.look([*known, *found.taken], known)
    tree.left_out += found.left_out
    _require_ignored(tree.entries, order.get("binds", ()))
    # A daemon before this one has ordered no base: then it is the directory.
    committed = bool(head) and order.get("from") in {"head", "changes"}
    dirty = bool(head and found.taken)
    if head and "from" in order:
        tree.keep(known if committed else {*known, *tracked(order, theirs)})
    size, gone = copy_files(source, tree.entries, copy, order["bytes"], order["files"])
    tree.left_out += gone
    copied = Tree(copy)
    copied.look([*tree.entries], known)
    copied.hash(git, order["tmp"])
    if committed:
        changed = differing(known, copied.entries)
        kept = restore(git, changed, copied.entries, copy, order["bytes"] - size)
        copied.entries = {**known, **kept}
        # What is in another repository is not in a commit of this one.
        tree.left_out = [
            name for name in tree.left_out if known.get(name, (REPOSITORY,))[0] == REPOSITORY
        ]
        copied.left_out = []
        dirty = dirty or len(changed) > len(kept)
    else:
        dirty = dirty or (bool(head) and copied.entries != known)
    complete(source, copy, parts, order["wanted"])
    copied.keep_contents(git)
    # The index says what is committed already, and most copies are of nothing else.
    plain = committed and not sent and not parts and copied.entries == known
    now = git.object(f"{head}^{{tree}}") if plain else copied.store(git)
    if earlier:
        _go_on(order, now, order["bytes"] - size)
    if own:
        _check_out(Git(order, own), head, branch, f"{base}/index" if plain else "")
    return {
        "commit": head,
        "tree": now,
        # What lies there besides says nothing of a copy of what was sent.
        "dirty": dirty and not sent,
        "base": order["from"] if committed else "working-tree",
        "files": len(copied.entries),
        "bytes": size,
        "left_out": _listed([*tree.left_out, *copied.left_out]),
        "left_out_count": len(tree.left_out) + len(copied.left_out),
    }


def _started_on(order: "Mapping[str, Any]", head: str, branch: str) -> tuple[str, str]:
    """Return the commit of a copy and its branch: the source's, unless the order has another."""
    earlier = order.get("earlier")
    if not order.get("changes"):
        other = earlier["commit"] if earlier and head else ""
        return (other, "") if other not in {"", head} else (head, branch)
    if not head:
        raise Trouble("it is no repository with a commit, so the caller's changes do not fit it")
    if order["parts"]:
        raise Trouble("its profile shows a part of it only, and changes of all of it were sent")
    return str(order["commit"]), ""


def _go_on(order: "Mapping[str, Any]", now: str, most: int) -> None:
    """Give a copy what the turn before has changed; what it was made of stays what is compared."""
    earlier = order["earlier"]
    if now != earlier["tree"]:
        raise Trouble(
            "the directory is not what the turn before began with, so its changes do not fit:"
            " delegate a new task"
        )
    if earlier["patch"]:
        git = Git(order, order["base"], f"{order['base']}/index.earlier")
        go_on(git, now, earlier["patch"], order["copy"], most)


def _read(order: "Mapping[str, Any]", git: Git, commit: str, own: str) -> None:
    """Name in the index what a commit has, with the changes that were sent, if any.

    The commit comes out of a bundle where one was sent too.
    """
    sent = order.get("changes", "")
    whose = "the caller's changes are" if sent else "the turn before was"
    if sent and order.get("bundle"):
        unpack(order, git, own)
    try:
        git.run("cat-file", "-e", f"{commit}^{{commit}}")
    except Trouble:
        raise Trouble(
            f"the commit {commit[:12]} that {whose} made on is not in its"
            " repository: push it, and fetch it there"
        ) from None
    git.run("read-tree", commit)
    if sent and os.path.getsize(sent):
        git.run("apply", "--cached", "--whitespace=nowarn", "-p1", sent)


def _require_ignored(names: "Iterable[str]", binds: "Sequence[str]") -> None:
    """Refuse to show a folder of the source beside a copy that has it: which one would count?"""
    if binds and any(is_within(name.rstrip("/"), binds) for name in names):
        # Not by its name: the owner's list is not the caller's to know.
        raise Trouble("a folder that its rule lists in `bind_ignored` is not ignored by git")


def compare(order: "Mapping[str, Any]") -> "dict[str, object]":
    """Write what differs in a copy from what it was made of, new files too, as a patch."""
    base, copy = order["base"], order["copy"]
    git = Git(order, base, f"{base}/index")
    old = git.run("write-tree", "--missing-ok").decode().strip()
    known = _known(git)
    tree = Tree(copy)
    # A version before this one, which made the copy, has ordered it without parts.
    parts = order.get("parts", ())
    found = Names(git, copy, f"{order['tmp']}/compared", known, parts).find()
    tree.left_out += [*found.left_out, *found.taken[order["files"] :]]
    tree.look([*known, *found.taken[: order["files"]]], known)
    tree.trim(known, order["bytes"], order["file_bytes"])
    tree.hash(git, order["tmp"])
    tree.trim_changed(known, order["file_bytes"])
    new = old
    if tree.entries != known:
        tree.keep_contents(git, {oid for _mode, oid in known.values()})
        new = tree.store(Git(order, base, f"{base}/index.now"))
    raw = git.run("diff-tree", "-r", "-z", "--raw", "--no-renames", "--full-index", old, new)
    fields = raw.decode("utf-8", "replace").split("\0")[:-1]
    changed = list(zip(fields[::2], fields[1::2], strict=True))
    telling = [name for words, name in changed if is_telling(name, words.split()[1])]
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


def carry(order: "Mapping[str, Any]") -> "dict[str, object]":
    """Write what a work tree has besides a commit as a patch: what is tracked, or all.

    The work tree is its owner's, and git does not look at it here either.
    """
    base, source = order["base"], order["source"]
    git = Git(order, base, f"{base}/index")
    init(order, base, order["kind"])
    write(f"{base}/objects/info/alternates", f"{order['objects']}\n")
    take(order["exclude"], f"{base}/info/exclude", COPY_BYTES)
    git.run("read-tree", order["commit"])
    known = _known(git)
    found = Names(git, source, f"{order['tmp']}/carried", known).find()
    own = {*tracked(order, order["theirs"])}
    added = found.taken if order["untracked"] else [name for name in found.taken if name in own]
    tree = Tree(source)
    tree.look([*known, *added], known)
    others = [name for name in tree.left_out if known.get(name, ("", ""))[0] == REPOSITORY]
    left_out = [*tree.left_out, *(found.left_out if order["untracked"] else [])]
    tree.left_out = []
    tree.trim(known, order["bytes"], order["file_bytes"])
    tree.hash(git, order["tmp"])
    tree.trim_changed(known, order["file_bytes"])
    old = git.object(f"{order['commit']}^{{tree}}")
    tree.keep_contents(git)
    new = tree.store(Git(order, base, f"{base}/index.now"))
    raw = git.run("diff-tree", "-r", "-z", "--raw", "--no-renames", "--full-index", old, new)
    fields = os.fsdecode(raw).split("\0")[:-1]
    changed = list(zip((words.split() for words in fields[::2]), fields[1::2], strict=True))
    ids = [(oid, name) for words, name in changed for oid in words[2:4] if set(oid) != {"0"}]
    pointers = pointed(git, ids)
    return {
        "bytes": git.patch(old, new, order["patch"], order["limit"]),
        "changed": len(changed),
        "repositories": {name: known[name][1] for name in others},
        "untracked": _told(name for name in found.taken if name not in own),
        "left_out": _told(name for name in (*left_out, *tree.left_out) if name not in others),
        "pointers": _told(pointers),
    }


def _told(names: "Iterable[str]") -> list[str]:
    return _listed(sorted({*names}))


def _check_out(git: Git, head: str, branch: str, index: str) -> None:
    """Make a commit the current one without touching a file; `index` names what it has, if not empty."""
    if branch:
        git.run("symbolic-ref", "HEAD", branch)
    if head:
        # Without a branch HEAD itself names the commit.
        git.run("update-ref", *(() if branch else ("--no-deref",)), "HEAD", head)
        if index:
            take(index, f"{git.directory}/index", NAMES_BYTES)
        else:
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


def _listed(names: "Sequence[str]") -> list[str]:
    shown = [os.fsencode(name).decode("utf-8", "replace") for name in names[:LISTED]]
    return [name[:NAME_CHARACTERS] for name in shown]


def is_telling(name: str, mode: str) -> bool:
    """Say whether a changed file works by being there; a link may lead anywhere."""
    *folders, last = name.lower().split("/")
    # Python runs lines of `.pth`; a `HEAD` makes a folder a repository, whose `config` git obeys.
    runs = last in _TELLING_FILES or last.endswith(".pth")
    return mode == LINK or runs or not _TELLING.isdisjoint([*folders, last])


_STEPS = {"make": make, "compare": compare, "carry": carry, "bundle": bundle}


def main(text: str) -> int:
    """Do what an order says; its answer goes to standard output, why not to standard error."""
    order = json.loads(text)
    try:
        answer = _STEPS[order["do"]](order)
    except (Trouble, OSError) as error:
        # Not by its name where parts are listed: that is not the caller's to know.
        named = isinstance(error, OSError) and error.filename and not order.get("wanted")
        where = f": `{error.filename}`" if isinstance(error, OSError) and named else ""
        words = error.strerror if isinstance(error, OSError) else str(error)
        sys.stderr.write(f"{words or type(error).__name__}{where}\n")
        return 1
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    os.umask(0o022)  # the copy's modes are those of any other work tree
    sys.exit(main(sys.argv[1]))
