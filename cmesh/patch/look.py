"""Whether a patch would apply to a tree, and everything a person should know before it does.

Changes nothing of theirs: what is written is in a private directory that the caller removes.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cmesh.errors import (
    BranchExists,
    CmeshError,
    DirtyTree,
    PatchApplied,
    PatchConflict,
    PatchRefused,
    WrongBase,
)
from cmesh.patch.judge import (
    Base,
    Change,
    Entry,
    Numbers,
    Objection,
    blocking,
    change_trouble,
    collisions,
    dirty,
    flagged,
    name_trouble,
)
from cmesh.patch.repository import Found, Repository
from cmesh.patch.sent import sent_entries
from cmesh.patch.trial import Trial, Tried

__all__ = ["Look", "look"]

SHOWN_ID = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was found.

    Attributes:
        repository: where it would be applied.
        base: how that stands to what the patch was made of.
        numbers: the paths in it and their lines.
        objections: why it is not applied; none = it would be.
        changes: what it would do; empty while something keeps that from being found out.
        flagged: what to read first, by names and modes as they were found here.
        collisions: new names that some systems take for another.
        found: what is under its paths now, for the work tree.
        trial: has the new contents.
        tree: the tree of the commit, for a branch.
        sent: what the paths held that were sent with the task; None = it was not there.
    """

    repository: Repository
    base: Base
    numbers: Sequence[Numbers] = ()
    objections: Sequence[Objection] = ()
    changes: Sequence[Change] = ()
    flagged: Sequence[str] = ()
    collisions: Sequence[str] = ()
    found: Mapping[str, Found] = field(default_factory=dict[str, Found])
    trial: Trial | None = None
    tree: str = ""
    sent: Mapping[str, Entry | None] = field(default_factory=dict[str, Entry | None])

    @property
    def applies(self) -> bool:
        """Say whether nothing speaks against it."""
        return not self.objections


def look(
    place: Path,
    patch: bytes,
    commit: str,
    directory: str,
    branch: str = "",
    sent: bytes | None = None,
) -> Look:
    """Try a patch against the repository that `directory` is in. Blocks.

    Args:
        place: empty, private to this user, the caller's to remove.
        patch: not empty.
        commit: the base that its worker names; empty = it was made of no repository, and its
            paths are below `directory` itself.
        directory: any in the work tree.
        branch: the branch it would be committed on, at its base; empty = the work tree.
        sent: the changes on that commit that it is made of, which the tree has; None = none.

    Raises:
        UsageError: there is no such directory.
        WrongBase: there is no repository.
        CmeshError: git is missing or fails.
    """
    repository = Repository(directory, based=bool(commit))
    seen = Look(repository=repository, base=repository.base(commit))
    if os.path.lexists(repository.place):
        hint = "`cmesh apply` takes it back first; a check changes nothing"
        return _against(seen, PatchConflict("an apply was cut off in this tree", hint=hint))
    below = "" if commit else repository.prefix
    objects = repository.objects if branch else ""
    try:
        trial = Trial(place, patch, kind=_kind(seen.base, repository), below=below, objects=objects)
        numbers = trial.numbers()
    except PatchRefused as error:
        return _against(seen, error)
    seen = replace(seen, numbers=numbers, trial=trial)
    objections = [*_names(numbers), *_wrong_base(seen.base, branch, sent=sent is not None)]
    if objections:
        return replace(seen, objections=objections)
    try:
        if sent is not None:
            seen = replace(seen, sent=sent_entries(place / "sent", sent, commit, repository))
        return _on_branch(seen, trial, branch) if branch else _in_tree(seen, trial)
    except PatchRefused as error:
        return _against(seen, error)


def _against(seen: Look, error: CmeshError) -> Look:
    return replace(seen, objections=[*seen.objections, _objection(error)])


def _objection(error: CmeshError, names: Sequence[str] = ()) -> Objection:
    return Objection(code=error.code, why=error.message, names=names, next=error.hint)


def _kind(base: Base, repository: Repository) -> str:
    if base.commit:
        return "sha256" if len(base.commit) == 64 else "sha1"
    return repository.kind


def _names(numbers: Sequence[Numbers]) -> list[Objection]:
    troubles = {one.name: name_trouble(one.name) for one in numbers}
    bad = [f"{name}: {why}" for name, why in troubles.items() if why]
    return [_objection(PatchRefused("it has paths that no patch may have"), bad)] if bad else []


def _wrong_base(base: Base, branch: str, *, sent: bool) -> list[Objection]:
    if base.relation == "missing":
        short = base.commit[:SHOWN_ID]
        return [_objection(WrongBase(f"the base commit {short} is not in this repository"))]
    if branch and sent:
        why = "it was made of uncommitted changes, which no branch has"
        return [_objection(WrongBase(why, hint="apply it to the work tree, without --branch"))]
    if branch and not base.commit:
        why = "it was made of a directory without a commit: there is none to begin a branch at"
        return [_objection(WrongBase(why, hint="apply it to the work tree, without --branch"))]
    return []


def _in_tree(seen: Look, trial: Trial) -> Look:
    """Try it on the bytes of the work tree."""
    repository = seen.repository
    found = repository.look([one.name for one in seen.numbers])
    seen = replace(seen, found=found)
    odd = [f"{name}: {one.odd}" for name, one in found.items() if one.odd]
    if odd:
        return _against_names(seen, PatchConflict("paths cannot be patched as they are here"), odd)
    seeds = trial.seed(found)
    there = trial.apply(reverse=True).entries is not None
    tried = trial.apply()
    same = tried.entries is not None and not trial.changes(tried.entries)
    # Lines that repeat can let a patch go on a second time, and a new one look as if it were there.
    if same or (there and (tried.entries is None or not _is_base(seen, seeds))):
        return _against(seen, PatchApplied("the patch is in this tree already"))
    index, head = repository.tracked, repository.tree(repository.head)
    changed = dirty(seeds, index, head, repository.modified() if _differ(seeds, index) else ())
    # What was sent is what the patch is made on: only what has changed since is in its way.
    sent = seen.sent
    changed = [name for name in changed if name not in sent or sent[name] != seeds[name]]
    if changed:
        # Without a base there is no commit to begin a branch at.
        hint = DirtyTree.default_hint if seen.base.commit else "commit these changes, then repeat"
        why = DirtyTree(
            "paths that it touches have uncommitted changes, or are not tracked", hint=hint
        )
        seen = _against_names(seen, why, changed)
    return _judged(seen, trial, tried, set(index))


def _differ(seeds: Mapping[str, Entry | None], index: Mapping[str, Entry]) -> bool:
    return any(entry != index.get(name) for name, entry in seeds.items())


def _is_base(seen: Look, seeds: Mapping[str, Entry | None]) -> bool:
    """Say whether the touched paths are as the patch's base commit has them."""
    commit = seen.base.commit
    base = {**seen.repository.tree(commit), **seen.sent}
    return bool(commit) and all(base.get(name) == entry for name, entry in seeds.items())


def _on_branch(seen: Look, trial: Trial, branch: str) -> Look:
    """Try it on the tree of its base commit."""
    git, ref = seen.repository.git, f"refs/heads/{branch}"
    if branch.startswith("-") or branch == "HEAD" or not _is_ref(seen.repository, ref):
        return _against(seen, BranchExists("it is no name for a branch"))
    if git.line("symbolic-ref", "--quiet", ref):
        return _against(seen, BranchExists("the branch is there, as a name for another one"))
    base = seen.repository.tree(seen.base.commit)
    trial.seed_entries({one.name: base.get(one.name) for one in seen.numbers})
    seen = _judged(seen, trial, trial.apply(), set(base))
    if seen.applies and not seen.changes:
        return _against(seen, PatchApplied("the patch changes nothing of its base"))
    if seen.applies:
        seen = replace(seen, tree=trial.tree(seen.base.commit, seen.changes))
    there = git.line("rev-parse", "--verify", "--quiet", ref)
    if there:
        same = seen.tree and git.line("rev-parse", f"{there}^{{tree}}") == seen.tree
        why = "the patch is on this branch already" if same else "the branch exists already"
        seen = _against(seen, PatchApplied(why) if same else BranchExists(why))
    return seen


def _is_ref(repository: Repository, ref: str) -> bool:
    return repository.git.result("check-ref-format", ref).returncode == 0


def _judged(seen: Look, trial: Trial, tried: Tried, tracked: set[str]) -> Look:
    """Judge what came of it."""
    if tried.entries is None:
        names = [f"{name}: {why}" for name, why in tried.conflicts.items()]
        return _against_names(seen, PatchConflict("it does not fit what is here"), names)
    changes = trial.changes(tried.entries)
    troubles = {change.name: change_trouble(change) for change in changes}
    bad = [f"{name}: {why}" for name, why in troubles.items() if why]
    if bad:
        why = PatchRefused("it makes what no patch may make")
        seen = _against_names(seen, why, bad)
    if both := blocking(changes):
        why = PatchRefused("it makes a file and a folder of one name")
        seen = _against_names(seen, why, both)
    elif both := blocking(changes, tracked):
        why = PatchConflict("a file is in the way of a folder, or a folder of a file")
        seen = _against_names(seen, why, both)
    alike = collisions(changes, tracked)
    if alike and seen.repository.git.line("config", "--type=bool", "core.ignorecase") == "true":
        why = PatchConflict("it makes names that this file system takes for one")
        seen = _against_names(seen, why, alike)
    return replace(seen, changes=changes, flagged=flagged(changes), collisions=alike)


def _against_names(seen: Look, error: CmeshError, names: Sequence[str]) -> Look:
    return replace(seen, objections=[*seen.objections, _objection(error, names)])
