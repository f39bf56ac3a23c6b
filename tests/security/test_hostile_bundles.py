"""Bundles of a hostile caller: nothing of one is read before git has checked all, and none is kept."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cmesh.model import Changes
from cmesh.sandbox.tier import Enforcement
from tests.system.runner.conftest import anyio_backend, containment, worker
from tests.system.runner.copying import commit, edit, git
from tests.system.runner.support import Worker

__all__ = ["anyio_backend", "containment", "worker"]

pytestmark = [pytest.mark.anyio, pytest.mark.system]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = Path(os.path.realpath(tmp_path)) / "app"
    place.mkdir()
    (place / "code").write_text("one\n")
    commit(place)
    return place


@pytest.fixture
def theirs(place: Path) -> Path:
    """Return the caller's clone, a commit ahead."""
    theirs = place.parent / "theirs"
    git(place, "clone", "--quiet", str(place), str(theirs))
    (theirs / "code").write_text("two\n")
    git(theirs, "commit", "--quiet", "--all", "--message=ahead")
    return theirs


def raw(place: Path, *argv: str, data: bytes = b"") -> bytes:
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.defpath}
    who = ("-c", "user.name=me", "-c", "user.email=me@example.com")
    return subprocess.run(
        ["/usr/bin/git", *who, *argv],
        cwd=place, env=quiet, input=data, capture_output=True, check=True,
    ).stdout  # fmt: skip


def bundled(theirs: Path, *more: str) -> bytes:
    return raw(theirs, "bundle", "create", "--quiet", *more, "-", "HEAD", "^origin/main")


def committed(theirs: Path, tree: bytes) -> bytes:
    """Return a bundle whose commit has a tree of these bytes, whatever git thinks of it."""
    oid = raw(theirs, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", data=tree)
    made = raw(theirs, "commit-tree", "-m", "x", "-p", "origin/main", oid.decode().strip())
    raw(theirs, "update-ref", "HEAD", made.decode().strip())
    return bundled(theirs)


def named(theirs: Path, mode: bytes, name: bytes) -> bytes:
    blob = raw(theirs, "hash-object", "-w", "--stdin", data=b"x\n").decode().strip()
    return committed(theirs, mode + b" " + name + b"\0" + bytes.fromhex(blob))


def other(theirs: Path) -> bytes:
    made = bundled(theirs)
    git(theirs, "commit", "--quiet", "--allow-empty", "--message=another")
    return made


def without_its_base(theirs: Path) -> bytes:
    git(theirs, "commit", "--quiet", "--allow-empty", "--message=between")
    (theirs / "code").write_text("three\n")
    git(theirs, "commit", "--quiet", "--all", "--message=last")
    return raw(theirs, "bundle", "create", "--quiet", "-", "HEAD", "^HEAD~1")


def without_a_file(theirs: Path) -> bytes:
    names = [git(theirs, "rev-parse", name) for name in ("HEAD", "HEAD^{tree}", "origin/main")]
    head = f"# v2 git bundle\n-{names[2]} first\n{names[0]} HEAD\n\n"
    pack = raw(theirs, "pack-objects", "--stdout", "-q", data="\n".join(names[:2]).encode())
    return head.encode() + pack


HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "no bundle": (lambda _: b"\0" * 4096, "is no git bundle"),
    "no end": (lambda _: b"# v2 git bundle\n" + b"-" * 200_000, "is no git bundle"),
    "an option": (
        lambda theirs: bundled(theirs).replace(b"bundle\n", b"bundle\n--upload-pack=x y\n", 1),
        "of another kind",
    ),
    "a filter": (lambda theirs: bundled(theirs, "--version=3").replace(
        b"@object-format=sha1", b"@filter=blob:none", 1), "of another kind"),
    "another commit": (other, "has not the commit that was announced"),
    "cut off": (lambda theirs: bundled(theirs)[:-30], "`git index-pack`"),
    "one bit": (lambda theirs: bundled(theirs)[:-40] + bundled(theirs)[-40:][::-1], "`git index-pack`"),
    "a base that is not here": (without_its_base, "is made on commits that are not here"),
    "a missing file": (without_a_file, "is refused: `git"),
    "a .git folder": (lambda theirs: named(theirs, b"100644", b".GIT"), "is refused: `git"),
    "a way out": (lambda theirs: named(theirs, b"100644", b".."), "is refused: `git"),
    "a path": (lambda theirs: named(theirs, b"100644", b"a/b"), "is refused: `git"),
}  # fmt: skip


async def sent(
    worker: Worker, place: Path, found: Enforcement, theirs: Path, data: bytes
) -> tuple[str, str]:
    """Let a task begin with a bundle; return how it ended, and what it saw."""
    head = git(theirs, "rev-parse", "HEAD")
    changes = Changes(commit=head, sha256="0" * 64, bytes=0, bundle=True)
    laid = {"git/changes": b"", "git/bundle": data}
    script = "cat code; git log --format=%s; git fsck"
    done = await edit(
        worker, place, found, script, base="changes", changes=changes, bundle=True, laid=laid
    )
    return str(done.exit), done.output


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_bundle_is_refused_with_one_sentence(
    worker: Worker, place: Path, found: Enforcement, theirs: Path, name: str
) -> None:
    make, words = HOSTILE[name]
    before = git(place, "count-objects", "-v")
    exit_, seen = await sent(worker, place, found, theirs, make(theirs))
    assert words in exit_
    assert seen == ""
    assert git(place, "count-objects", "-v") == before


async def test_an_honest_one_is_the_tasks_own_with_its_history(
    worker: Worker, place: Path, found: Enforcement, theirs: Path
) -> None:
    before = git(place, "count-objects", "-v")
    exit_, seen = await sent(worker, place, found, theirs, bundled(theirs))
    assert seen == "two\nahead\nfirst\n", exit_
    assert git(place, "count-objects", "-v") == before
    # What is large when it is unpacked is not held in memory.
    (theirs / "zeros").write_bytes(bytes(200_000_000))
    git(theirs, "add", "zeros")
    git(theirs, "commit", "--quiet", "--message=large")
    exit_, seen = await sent(worker, place, found, theirs, bundled(theirs))
    assert seen.startswith("two\nlarge\n"), exit_
