"""Commits on their way to a worker that lacks them: packed by the caller, unpacked for one copy.

A bundle is another machine's word: git checks each object in the task's own object directory, and
the source's repository never gets one. Standard library only.
"""

import os
import re
import shutil

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from cmesh.runner.tree_git import Git, Trouble
    from cmesh.runner.tree_source import init, write
else:
    from tree_git import Git, Trouble
    from tree_source import init, write

__all__ = ["bundle", "unpack"]

HEAD_BYTES = 64 * 1024
"""Of a bundle before its pack: a line for each commit that it needs or has."""

_REF = "refs/heads/sent"
_VERSION = rb"# v(2|3) git bundle"
_KIND = rb"@object-format=(sha1|sha256)"
_NEEDED = rb"-([0-9a-f]{40}(?:[0-9a-f]{24})?)(?: .*)?"
_TIP = rb"([0-9a-f]{40}(?:[0-9a-f]{24})?) \S+"
"""Lines of a bundle's head (gitformat-bundle(5)); few tasks have one, so they are compiled late."""


def bundle(order: "Mapping[str, Any]") -> "dict[str, object]":
    """Write the commits that a worker lacks as a bundle, and what they change as text beside it.

    The text is for a look for secrets: a pack is compressed. Git sees objects alone here.
    """
    base, commit, limit = order["base"], order["commit"], order["limit"]
    init(order, base, order["kind"])
    write(f"{base}/objects/info/alternates", f"{order['objects']}\n")
    git = Git(order, base)
    asked = "".join(f"{oid}^{{commit}}\n" for oid in order["have"]).encode()
    said = git.run("cat-file", "--batch-check=%(objectname) %(objecttype)", data=asked).decode()
    have = [line.split()[0] for line in said.splitlines() if line.endswith(" commit")]
    git.run("update-ref", _REF, commit)
    parts = (_REF, "--not", *have)
    size = git.write(order["bundle"], limit, "bundle", "create", "--quiet", "-", *parts)
    told = 0
    if size <= limit:
        told = git.write(
            order["log"], order["log_limit"],
            "log", "--patch", "--format=%H", "--no-ext-diff", "--no-textconv", "--no-color",
            "--no-renames", "-m", "--first-parent", *parts,
        )  # fmt: skip
    return {"bytes": size, "log": told, "thin": bool(have)}


def unpack(order: "Mapping[str, Any]", git: Git, own: str) -> None:
    """Put the commits of a bundle beside the objects that a copy borrows, each checked.

    `own` is the copy's git directory, which gets them too.

    Raises:
        Trouble: it is no such bundle, has other commits, or an object that git refuses.
    """
    fd = os.open(order["bundle"], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        tips, needed, length = _read_head(os.pread(fd, HEAD_BYTES, 0))
        if order["commit"] not in tips:
            raise Trouble("the bundle that its caller sent has not the commit that was announced")
        _require_all(git, needed)
        os.lseek(fd, length, os.SEEK_SET)
        # `--strict` is fsck for each object, and asks for all that one names.
        _git(git, "index-pack", "--stdin", "--fix-thin", "--strict", stdin=fd)
    finally:
        os.close(fd)
    _git(git, "rev-list", "--objects", "--quiet", order["commit"], "--not", *needed)
    pack = f"{git.directory}/objects/pack"
    for name in os.listdir(pack):
        # Not by a link: its task may write to what is its own.
        shutil.copyfile(f"{pack}/{name}", f"{own}/objects/pack/{name}")


def _read_head(data: bytes) -> tuple[list[str], list[str], int]:
    """Return the commits that a bundle has and needs, and where its pack begins."""
    end = data.find(b"\n\n")
    lines = data[: max(end, 0)].split(b"\n")
    if end < 0 or not re.fullmatch(_VERSION, lines[0]):
        raise Trouble("what its caller sent is no git bundle")
    tips: list[str] = []
    needed: list[str] = []
    for line in lines[1:]:
        if (found := re.fullmatch(_NEEDED, line)) is not None:
            needed.append(found[1].decode())
        elif (found := re.fullmatch(_TIP, line)) is not None:
            tips.append(found[1].decode())
        elif not re.fullmatch(_KIND, line):  # `@filter`: it would not have all
            raise Trouble("what its caller sent is a git bundle of another kind")
    return tips, needed, end + 2


def _require_all(git: Git, needed: "Sequence[str]") -> None:
    asked = "".join(f"{oid}^{{commit}}\n" for oid in needed).encode()
    said = git.run("cat-file", "--batch-check=%(objecttype)", data=asked).decode().splitlines()
    if any(kind != "commit" for kind in said):
        raise Trouble("the bundle that its caller sent is made on commits that are not here")


def _git(git: Git, *argv: str, stdin: "int | None" = None) -> None:
    try:
        git.feed(*argv, stdin=stdin)
    except Trouble as error:
        raise Trouble(f"the bundle that its caller sent is refused: {error}") from None
