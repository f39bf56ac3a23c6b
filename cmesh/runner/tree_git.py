"""Git as it is run on what an agent could write: in a sandbox, and on names and bytes alone.

Standard library only: `cmesh.runner.tree` loads it there. Its git directory is one that no agent
can write, or one of which nothing but the current commit is asked; no setting of a user, a system
or a tree counts.
"""

import errno
import os
import stat
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from typing import Any

__all__ = [
    "COPY_BYTES", "NAMES_BYTES", "QUIET", "Git", "Trouble", "joined", "objects", "read_file", "split",
]  # fmt: skip

COPY_BYTES = 1024 * 1024
CONTENT_BYTES = 1024 * 1024 * 1024
"""A longer file is not made of what git has; it is in memory on its way."""

NAMES_BYTES = 64 * 1024 * 1024
"""The names of a tree in all."""

_PLAIN = (
    "core.fsmonitor=false", "core.hooksPath=/dev/null", "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null", "core.untrackedCache=false", "core.looseCompression=1",
    "core.bare=true", "diff.external=", "submodule.recurse=false", "protocol.allow=never",
    "gc.auto=0", "maintenance.auto=false", "core.protectHFS=true", "core.protectNTFS=true",
)  # fmt: skip

QUIET = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",  # known since 2.39.4
    # INVARIANT: `protocol.NAME.allow` of a repository outweighs `protocol.allow`, but not this.
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_NO_REPLACE_OBJECTS": "1",
}


class Trouble(Exception):
    """Why there is no copy or no patch, in words for its owner."""


class Git:
    """Git on one private directory; `index` is the file it keeps names in."""

    def __init__(self, order: "Mapping[str, Any]", directory: str, index: str = "") -> None:
        self.program = order["program"]
        self.directory = directory
        options = [word for setting in _PLAIN for word in ("-c", setting)]
        self._argv = [self.program, *options]
        self._env = {**QUIET, "HOME": order["home"], "GIT_DIR": directory}
        if index:
            self._env["GIT_INDEX_FILE"] = index

    def run(self, *argv: str, data: bytes = b"", nothing: int = 0) -> bytes:
        """Return what a command writes; `nothing` is a status besides 0 that is no failure."""
        done = subprocess.run(  # noqa: S603 - git, from the system's directories
            [*self._argv, *argv],
            input=data, capture_output=True, check=False, env=self._env, cwd="/",
        )  # fmt: skip
        return _said(argv[0], done, nothing)

    def feed(self, *argv: str, stdin: int | None = None) -> bytes:
        """Run a command that reads from a descriptor, or from nothing; as `run`."""
        done = subprocess.run(  # noqa: S603 - as above
            [*self._argv, *argv],
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            capture_output=True, check=False, env=self._env, cwd="/",
        )  # fmt: skip
        return _said(argv[0], done)

    def object(self, name: str) -> str:
        """Return the object that git knows by a name."""
        return self.run("rev-parse", "--verify", name).decode().strip()

    def start(self, *argv: str, tree: str) -> "subprocess.Popen[bytes]":
        """Start a command that is asked and answers by pipes.

        `tree` is the work tree it reads: never one that others could write.
        """
        return subprocess.Popen(  # noqa: S603 - as above
            [*self._argv, *argv],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**self._env, "GIT_WORK_TREE": tree}, cwd=tree,
        )  # fmt: skip

    def contents(self, oids: "Iterable[str]") -> "Generator[bytes]":
        """Yield what objects hold, in their order; to be closed.

        Raises:
            Trouble: one is not there, or has more than `CONTENT_BYTES`.
        """
        import tempfile  # half of what a step loads, and most read no object

        wanted = [*oids]
        left = len(wanted)
        with tempfile.TemporaryFile(dir=self._env["HOME"]) as asked:
            asked.write("".join(f"{oid}\n" for oid in wanted).encode())
            asked.seek(0)
            with subprocess.Popen(  # noqa: S603 - as above
                [*self._argv, "cat-file", "--batch"],
                stdin=asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=self._env, cwd="/",
            ) as reader:  # fmt: skip
                try:
                    assert reader.stdout is not None
                    while head := reader.stdout.readline():
                        oid, kind, *size = head.decode().split()
                        if kind == "missing":
                            raise Trouble(f"object {oid} of its commit is not in its repository")
                        if int(size[0]) > CONTENT_BYTES:
                            raise Trouble(f"object {oid} has more than {CONTENT_BYTES} bytes")
                        left -= 1
                        yield reader.stdout.read(int(size[0]))
                        reader.stdout.read(1)
                finally:
                    reader.kill()
        if left:
            raise Trouble("`git cat-file` failed")

    def patch(self, old: str, new: str, path: str, limit: int) -> int:
        """Write the difference of two trees into a file; return its length, or more than `limit`."""
        return self.write(
            path, limit,
            "diff-tree", "-r", "-p", "--binary", "--full-index", "--no-renames", "--no-ext-diff",
            "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/", old, new,
        )  # fmt: skip

    def write(self, path: str, limit: int, *argv: str) -> int:
        """Write what a command says into a new file; return its length, or more than `limit`."""
        size = 0
        with open(path, "xb") as file, subprocess.Popen(  # noqa: S603 - as above
            [*self._argv, *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=self._env, cwd="/",
        ) as writer:  # fmt: skip
            assert writer.stdout is not None
            while size <= limit and (data := writer.stdout.read(COPY_BYTES)):
                size += len(data)
                file.write(data)
            if size > limit:
                writer.kill()
                file.truncate(0)
            elif writer.wait():
                raise Trouble(f"`git {argv[0]}` failed")
        return size


def _said(command: str, done: "subprocess.CompletedProcess[bytes]", nothing: int = 0) -> bytes:
    """Return what a command wrote; raises `Trouble` with its last word where it failed."""
    if done.returncode not in {0, nothing}:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
        raise Trouble(f"`git {command}`: {said[-1][:300]}")
    return done.stdout


def read_file(path: str, most: int) -> bytes:
    """Return what is in a file; whatever else has its name is not read.

    Raises:
        OSError: it cannot be opened, is a link, or no file.
        Trouble: it has more than `most` bytes.
    """
    # INVARIANT: a pipe that nobody writes to holds up whoever opens it any other way.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no file", path)
        data = file.read(most + 1)
    if len(data) > most:
        raise Trouble(f"`{path}` has more than {most} bytes")
    return data


def objects(git: Git, paths: "Iterable[str]", *, write: bool = False) -> list[str]:
    """Return the objects of files, as their bytes are."""
    data = "".join(f"{_quoted(path)}\n" for path in paths)
    if not data:
        return []
    options = ("-w",) if write else ()
    said = git.run("hash-object", *options, "--no-filters", "--stdin-paths", data=os.fsencode(data))
    return said.decode().split()


def _quoted(path: str) -> str:
    """Return a path as git reads it from a line: as C writes it where it needs that."""
    # INVARIANT: git takes a carriage return before a line's end away, and would read another
    # file: one that is a link, say, which nobody has looked at under that name.
    if not path.startswith('"') and "\n" not in path and not path.endswith("\r"):
        return path
    text = "".join(f"\\{ord(one):03o}" if one in '"\\\n\r' else one for one in path)
    return f'"{text}"'


def split(data: bytes) -> list[str]:
    """Return names that end with NUL each; raises `Trouble` when there are too many."""
    if len(data) > NAMES_BYTES:
        raise Trouble("it has too many names")
    return os.fsdecode(data).split("\0")[:-1]


def joined(lines: "Iterable[str]") -> bytes:
    """Return lines as git takes them with `-z`."""
    return os.fsencode("".join(f"{line}\0" for line in lines))
