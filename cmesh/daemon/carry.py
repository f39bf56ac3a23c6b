"""Uncommitted changes of this machine's owner, made ready to travel with a task.

Made of the bytes of the work tree, by the program that also makes copies: git reads no tree and
runs nothing that a repository has configured. What would not arrive exactly is refused.
"""

import asyncio
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as parsed

from cmesh.daemon.arguments import Context, DelegateArguments
from cmesh.errors import ChangesRefused, SecretFound, TaskRefused, UsageError
from cmesh.model import Changes, Profile
from cmesh.patch.repository import Repository
from cmesh.patch.trial import PATHS_MOST
from cmesh.protocol.spec import CHANGES_BYTES
from cmesh.redact import Redactor, Stream
from cmesh.runner.copies import COPY_FILES, COPY_MOST_BYTES, FILE_BYTES, find_git
from cmesh.runner.orders import run_order
from cmesh.store.store import Store
from cmesh.text import one_line

__all__ = ["Carried", "carried_by"]

CARRY_LIMIT_S = 25.0
"""How long it may take to find out what has changed; a call of an agent waits 45 s in all."""

REPOSITORIES_MOST, DEPTH_MOST = 20, 3
"""Submodules that are looked into, and how deep they may lie in one another."""

SHOWN = 3
_SECTION = re.compile(rb"^diff --git ", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What travels, stored as a blob; `root` is the top of the work tree it is of."""

    root: str
    changes: Changes


@parsed(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the program says; see `tree.carry`."""

    bytes: int
    changed: int
    repositories: dict[str, str]
    untracked: list[str]
    left_out: list[str]
    pointers: list[str]


_FOUND = TypeAdapter(_Found)


async def carried_by(
    store: Store,
    redactor: Redactor,
    context: Context,
    arguments: DelegateArguments,
    *,
    own: bool,
) -> Carried | None:
    """Store the uncommitted changes that a call sends along; None = it sends none.

    `own`: a task of this machine asks, which sends none. Raises as `_carry`, and `UsageError` when
    they do not go with the other arguments.
    """
    if not arguments.with_changes:
        if arguments.untracked:
            raise UsageError("`untracked` is about changes that are sent", hint="--with-changes")
        return None
    if arguments.profile not in {Profile.EDIT, Profile.BUILD} or arguments.base != "head":
        raise UsageError(
            "changes are put into the copy of profile `edit` or `build`, on your own commit",
            hint="ask for one of these, without `base`",
        )
    if own:
        raise TaskRefused("a task sends no changes of its directory", hint="delegate without")
    return await _carry(store, redactor, context.project, untracked=arguments.untracked)


async def _carry(store: Store, redactor: Redactor, project: str, *, untracked: bool) -> Carried:
    """Store the uncommitted changes of the repository that `project` is in.

    Args:
        store: keeps the patch before anything refers to it.
        redactor: knows what is a secret.
        project: absolute; empty = nobody knows.
        untracked: files that git does not track go along; ignored ones never do.

    Raises:
        UsageError: there is no project.
        WrongBase: it is in no repository.
        ChangesRefused: they would not arrive exactly; says why.
        SecretFound: a secret is in them; says where.
        DiskFull: there is no room for them.
    """
    if not project:
        raise UsageError("nobody knows in which directory you work", hint="call it from there")

    def made() -> tuple[str, str, bytes]:
        repository = Repository(project)
        with tempfile.TemporaryDirectory(prefix="cmesh-carry-") as aside:
            found = _look(repository, Path(aside), untracked=untracked)
            _require_exact(repository, found, Path(aside), untracked=untracked)
            data = (Path(aside) / "patch").read_bytes()
        _require_clean(data, redactor)
        return repository.root, repository.head, data

    root, commit, data = await asyncio.to_thread(made)
    sha256 = await store.blob(data)
    changes = Changes(commit=commit, sha256=sha256, bytes=len(data), bundle=True)
    return Carried(root=root, changes=changes)


def _look(repository: Repository, aside: Path, *, untracked: bool) -> _Found:
    if not repository.head:
        raise ChangesRefused("nothing is committed there: changes are sent on a commit")
    for name in ("home", "tmp"):
        (aside / name).mkdir()
    exclude = repository.git.line("rev-parse", "--git-path", "info/exclude")
    order: Mapping[str, object] = {
        "do": "carry",
        "program": find_git(),
        "home": f"{aside}/home",
        "tmp": str(aside / "tmp"),
        "base": f"{aside}/base",
        "patch": f"{aside}/patch",
        "source": repository.root,
        "theirs": repository.directory,
        "exclude": str(Path(repository.root, exclude)),
        "objects": repository.objects,
        "kind": repository.kind,
        "commit": repository.head,
        "untracked": untracked,
        "limit": CHANGES_BYTES,
        "bytes": COPY_MOST_BYTES,
        "files": COPY_FILES,
        "file_bytes": FILE_BYTES,
    }
    try:
        return _FOUND.validate_json(run_order(order, CARRY_LIMIT_S))
    except subprocess.TimeoutExpired as error:
        why = f"it took more than {CARRY_LIMIT_S:.0f} s to find out what has changed"
        raise ChangesRefused(why, hint="commit and push instead") from error


def _require_exact(
    repository: Repository, found: _Found, aside: Path, *, untracked: bool, depth: int = 0
) -> None:
    """Refuse what the far side would not have as it is here."""
    if found.left_out:
        names = _names(found.left_out)
        raise ChangesRefused(f"these cannot be sent as they are: {names}")
    if found.untracked and not untracked:
        raise ChangesRefused(
            f"files that git does not track would stay behind: {_names(found.untracked)}",
            hint="say --untracked (`untracked = true`) to send them, or add them to .gitignore",
        )
    if found.pointers:
        names = _names(found.pointers)
        raise ChangesRefused(f"git LFS keeps the content of what has changed elsewhere: {names}")
    if found.bytes > CHANGES_BYTES or found.changed > PATHS_MOST:
        raise ChangesRefused(
            f"they have more than {CHANGES_BYTES} bytes or {PATHS_MOST} paths",
            hint="commit and push instead",
        )
    if len(found.repositories) > REPOSITORIES_MOST or (found.repositories and depth > DEPTH_MOST):
        raise ChangesRefused("it has too many submodules to tell whether they are clean")
    for number, (name, commit) in enumerate(found.repositories.items()):
        inner = aside / f"inner-{number}"
        inner.mkdir()
        submodule = Repository(os.path.join(repository.root, name))  # noqa: PTH118 - a name of git's
        inside = _look(submodule, inner, untracked=False)
        if submodule.head != commit or inside.changed or inside.untracked or inside.left_out:
            raise ChangesRefused(
                f"submodule `{one_line(name, 200)}` is not as the commit has it, and only its"
                " commit would be there",
                hint="commit and push it first",
            )
        _require_exact(submodule, inside, inner, untracked=False, depth=depth + 1)


def _require_clean(data: bytes, redactor: Redactor) -> None:
    """Refuse a patch with secrets in it; says how many, and in which of its parts."""
    starts = [match.start() for match in _SECTION.finditer(data)]
    places: list[str] = []
    hits = 0
    for start, end in pairwise([*starts, len(data)]):
        stream = Stream(redactor)
        stream.feed(data[start:end])
        stream.finish()
        if stream.hits:
            hits += stream.hits
            first = data[start:end].split(b"\n", 1)[0].removeprefix(b"diff --git a/")
            name = first[: (len(first) - len(b" b/")) // 2]
            places.append(redactor.text(name.decode("utf-8", "replace"))[0])
    if hits:
        raise SecretFound(
            f"nothing was sent: {hits} secrets are in your changes, in {_names(places)}",
            hint="take them out, or into a file that git ignores",
        )


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name, 200) for name in names[:SHOWN])
    rest = len(names) - SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
