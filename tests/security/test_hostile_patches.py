"""A patch that means harm, and a repository that has been prepared: nothing of either works.

A worker signs what its agent left, and a hostile worker signs what it likes. Each patch here is
made by hand, tried in a work tree and for a branch, and changes nothing. Each plant is a thing that
git runs in a repository; one test shows that it does, the others that cmesh runs none.
"""

import base64
import contextlib
import hashlib
import os
import subprocess
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from cmesh.errors import PatchConflict, WrongBase
from cmesh.patch.branch import commit as commit_branch
from cmesh.patch.git import Failed, Git
from cmesh.patch.look import look
from cmesh.patch.repository import Repository
from cmesh.patch.write import put, take_back
from tests.system.patch.trees import Tree, state
from tests.system.runner.copying import git

pytestmark = pytest.mark.system

ZERO = "0" * 40
WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "me"), ("EMAIL", "me@example.com"))
}


def new_file(name: str, text: str = "evil", mode: str = "100644", header: str = "") -> bytes:
    """Return a patch that makes a file, by the name as it stands in the patch."""
    where = header or f"a/{name} b/{name}"
    return (
        f"diff --git {where}\nnew file mode {mode}\nindex {ZERO}..{'1' * 40}\n"
        f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+{text}\n\\ No newline at end of file\n"
    ).encode()


def oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def binary(name: str, kind: str, old: bytes, new: bytes, data: bytes, size: int = 0) -> bytes:
    """Return a binary patch of a file, whose `data` inflate to what it says, or to `size`."""
    packed, lines = zlib.compress(data), bytearray()
    for at in range(0, len(packed), 52):
        piece = packed[at : at + 52]
        letter = ord("A") + len(piece) - 1 if len(piece) <= 26 else ord("a") + len(piece) - 27
        lines += bytes([letter]) + base64.b85encode(piece + b"\0" * (-len(piece) % 4)) + b"\n"
    mode = "" if old else "new file mode 100644\n"
    head = f"diff --git a/{name} b/{name}\n{mode}index {oid(old) if old else ZERO}..{oid(new)}"
    head += f"{' 100644' if old else ''}\nGIT binary patch\n{kind} {size or len(data)}\n"
    return head.encode() + lines + b"\nliteral 0\nHcmV?d00001\n\n"


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


CODE = b"one\n" * 20
COPY_ALL = b"\x90\x50"  # of a delta: the 80 bytes that there are, once more


def delta(times: int, says: int = 0) -> bytes:
    """Return a delta of `CODE` that repeats it."""
    return varint(len(CODE)) + varint(says or len(CODE) * times) + COPY_ALL * times


LINK_AND_THROUGH = new_file("out", "/tmp", "120000") + new_file("out/evil")
LINK_INSIDE_AND_THROUGH = new_file("in", "sub", "120000") + new_file("in/evil")
GITLINK = (
    f"diff --git a/mod b/mod\nnew file mode 160000\nindex {ZERO}..{'1' * 40}\n"
    f"--- /dev/null\n+++ b/mod\n@@ -0,0 +1 @@\n+Subproject commit {'1' * 40}\n"
).encode()
RENAME = b"diff --git a/%s b/%s\nsimilarity index 100%%\nrename from %s\nrename to %s\n"

PATCHES: Mapping[str, bytes] = {
    "above the tree": new_file("../evil"),
    "above the tree from within": new_file("sub/../../evil"),
    "absolute": new_file("/evil", header="a//evil b//evil"),
    "hook": new_file(".git/hooks/pre-commit", mode="100755"),
    "configuration": new_file(".git/config"),
    "nested git directory": new_file("sub/.git/config"),
    "the folder of an apply": new_file(".cmesh-apply/plan.json"),
    "git in capitals": new_file(".GiT/config"),
    "git's short name": new_file("git~1/config"),
    "git with a stream": new_file(".git::$INDEX_ALLOCATION/config"),
    "git with a dot": new_file(".git./config"),
    "git with a hidden letter": new_file(".g\u200cit/config"),
    "quoted git": new_file("x").replace(b"b/x", b'"b/\\056git/config"'),
    "backslash": new_file("x").replace(b"b/x", b'"b/..\\\\evil"').replace(b"a/x", b'"a/..\\\\evil"'),
    "no git header": b"--- a/.git/config\n+++ b/.git/config\n@@ -1 +1,2 @@\n [core]\n+x\n",
    "after garbage": new_file("fine") + b"garbage\n--- a/.git/x\n+++ b/.git/x\n@@ -0,0 +1 @@\n+x\n",
    "link to an absolute path": new_file("link", "/etc/passwd", "120000"),
    "link above": new_file("sub/link", "../../evil", "120000"),
    "link above by a link": new_file("link", "sub/../../evil", "120000"),
    "link into git": new_file("link", ".git/hooks", "120000"),
    "through its own link": LINK_AND_THROUGH,
    "through its own link inside": LINK_INSIDE_AND_THROUGH,
    "through a link that is there": new_file("outside/evil"),
    "through a link to git": new_file("gitlink/hooks/evil"),
    "submodule": GITLINK,
    "submodule with its file": new_file(".gitmodules", '[submodule "x"]') + GITLINK,
    "file and folder": new_file("a") + new_file("a/b"),
    "twice": new_file("a") + new_file("a"),
    "rename": RENAME % (b"code", b"evil", b"code", b"evil"),
    "rename of git's": RENAME % (b".git/config", b"evil", b".git/config", b"evil"),
    "copy": (RENAME % (b"code", b"evil", b"code", b"evil")).replace(b"rename", b"copy"),
    "no patch": b"echo evil\n",
    "empty hunk": b"diff --git a/code b/code\n@@ -1 +1 @@\n",
    "cut short": new_file("evil")[:-35],
    "long name": new_file("/".join(["d" * 200] * 30)),
    "deep name": new_file("/".join(["d"] * 300)),
    "many paths": b"".join(new_file(f"evil{at}") for at in range(5_001)),
    "zip that says less than it is": binary("evil", "literal", b"", b"", b"\0" * (1 << 20), 10),
    "zip that says more than it is": binary("evil", "literal", b"", b"", b"\0" * 100, 3 << 30),
    "delta that says a terabyte": binary("code", "delta", CODE, b"more", delta(10, 1 << 40)),
}  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(Path(os.path.realpath(tmp_path)) / "app")
    outside = tmp_path / "outside"
    outside.mkdir()
    (tree.place / "outside").symlink_to(outside)
    (tree.place / "gitlink").symlink_to(".git")
    git(tree.place, "add", "--all")
    git(tree.place, "commit", "--quiet", "--message=links")
    tree.base = git(tree.place, "rev-parse", "HEAD")
    return tree


@pytest.mark.parametrize("branch", ["", "try"])
@pytest.mark.parametrize("name", PATCHES)
def test_no_patch_that_means_harm_is_applied(tree: Tree, name: str, branch: str) -> None:
    before = state(tree.place.parent)
    objections = tree.objections(PATCHES[name], branch=branch)
    assert objections.keys() & {"patch_refused", "patch_conflict"}, objections
    assert state(tree.place.parent) == before


@pytest.mark.parametrize(
    "name",
    ["above the tree", "hook", "git in capitals", "quoted git", "after garbage", "submodule",
     "link to an absolute path", "link above", "link into git", "absolute", "many paths"],
)  # fmt: skip
def test_what_could_only_be_meant_as_harm_is_refused_as_such(tree: Tree, name: str) -> None:
    assert "patch_refused" in tree.objections(PATCHES[name])


def test_the_patches_do_harm_where_nobody_looks(tree: Tree, tmp_path: Path) -> None:
    """Show that the ground is one: what is refused here is a patch that git itself takes."""
    file = tmp_path / "patch"
    for name in ("link to an absolute path", "link above", "link into git", "submodule"):
        file.write_bytes(PATCHES[name])
        git(tree.place, "apply", "--check", str(file))


@pytest.mark.parametrize("kind", ["literal", "delta"])
def test_few_bytes_that_become_very_many_are_refused_for_what_they_become(
    tree: Tree, kind: str
) -> None:
    times = (100 << 20) // len(CODE)
    new = CODE * times
    name, old, data = ("code", CODE, delta(times)) if kind == "delta" else ("new", b"", new)
    patch = binary(name, kind, old, new, data)
    assert len(patch) < 1 << 20
    with tree.look(patch) as seen:
        assert [(one.code, one.why) for one in seen.objections] == [
            ("patch_refused", "the patch makes files that are too long")
        ]
    honest = binary(name, kind, old, CODE * 3, delta(3) if old else CODE * 3)
    assert tree.objections(honest) == {}


HOOKS = """
    mkdir -p .git/hooks
    for hook in applypatch-msg pre-applypatch post-applypatch pre-commit prepare-commit-msg \
        commit-msg post-commit post-checkout post-index-change reference-transaction update \
        post-update pre-auto-gc post-rewrite fsmonitor-watchman; do
        printf '#!/bin/sh\\n%s\\n' "$RUN" >.git/hooks/$hook; chmod +x .git/hooks/$hook
    done"""
PLANTS: Mapping[str, str] = {
    "hooks": HOOKS,
    "hooks path": f"{HOOKS}; mv .git/hooks own; git config core.hooksPath own",
    "fsmonitor": 'git config core.fsmonitor "$RUN"',
    "filter": """
        git config filter.x.clean "$RUN; cat"; git config filter.x.smudge "$RUN; cat"
        git config filter.x.required true; echo '* filter=x' >.git/info/attributes""",
    "filter process": """
        git config filter.x.process "$RUN"; echo '* filter=x' >.git/info/attributes""",
    "included filter": """
        printf '[filter "x"]\\n\\tclean = %s; cat\\n\\tsmudge = %s; cat\\n' "$RUN" "$RUN" >.git/more
        git config include.path more; echo '* filter=x' >.git/info/attributes""",
    "drivers": """
        git config diff.external "$RUN"; git config diff.x.textconv "$RUN"
        git config diff.x.command "$RUN"; git config merge.x.driver "$RUN"
        echo '* diff=x merge=x' >.git/info/attributes""",
    "signing and editors": """
        git config gpg.program "$RUN"; git config commit.gpgSign true; git config core.editor "$RUN"
        git config core.pager "$RUN"; git config sequence.editor "$RUN" """,
}
PATCH = "echo two >>code; echo '* filter=x' >.gitattributes; echo x >new"


def plant(tree: Tree, name: str, mark: Path) -> None:
    run = mark.parent.parent / "run"
    run.write_text(f"#!/bin/sh\ntouch {mark}\n")
    run.chmod(0o755)
    env = {"PATH": os.defpath, "RUN": str(run), "HOME": str(run.parent)}
    subprocess.run(["/bin/sh", "-ec", PLANTS[name]], cwd=tree.place, env=env, check=True)


@pytest.mark.parametrize("name", PLANTS)
def test_what_a_repository_has_configured_is_never_run(
    tree: Tree, tmp_path: Path, name: str
) -> None:
    mark = tmp_path / "marks" / "ran"
    mark.parent.mkdir()
    patch = tree.patch(PATCH)
    plant(tree, name, mark)
    # Other times than the index has make git read a file, through its filter.
    (tree.place / "tool").touch()
    (tree.place / "code").touch()
    (tree.place / "sub/note").write_text("mine\n")
    who = {"PATH": os.defpath, "HOME": str(tmp_path)}
    who |= {
        f"GIT_{role}_{key}": "a@b" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")
    }
    with tree.look(patch, branch="try") as seen:
        assert seen.applies, seen.objections
        commit_branch(seen, "try", "subject", who)
    with tree.look(patch) as seen:
        assert seen.applies, seen.objections
        put(seen)
    assert not take_back(Repository(str(tree.place)))
    assert (tree.place / "code").read_text().endswith("two\n")
    assert list(mark.parent.iterdir()) == []


@pytest.mark.parametrize(
    "script",
    [
        "git config core.worktree ../..",
        "cp -r .git sub/bare; git config -f sub/bare/config core.worktree ../..; cd sub/bare",
        "git config extensions.worktreeConfig true; git config --worktree core.worktree ../..",
        "git init --quiet ..; git config core.worktree ../..",
    ],
)
def test_no_setting_of_a_repository_makes_another_directory_its_tree(
    tree: Tree, script: str
) -> None:
    patch = tree.patch("echo evil >.profile")
    subprocess.run(["/bin/sh", "-ec", script], cwd=tree.place, check=True)
    at = "sub/bare" if "bare" in script else "sub"
    with pytest.raises(WrongBase, match="elsewhere"):
        tree.objections(patch, at=at)


def test_a_tree_whose_repository_lies_elsewhere_is_still_one(tree: Tree, tmp_path: Path) -> None:
    """A linked work tree, and a submodule, whose `core.worktree` says no other place."""
    patch = tree.patch("echo two >>code")
    other, module = tmp_path / "other", tree.place / "module"
    git(tree.place, "worktree", "add", "--quiet", str(other))
    git(tree.place, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add",
        str(tree.place), "module")  # fmt: skip
    assert (module / ".git").is_file()
    for place in (other, module):
        with tempfile.TemporaryDirectory() as aside:
            assert look(Path(aside), patch, tree.base, str(place)).objections == ()


@pytest.mark.parametrize(
    "script",
    [
        "echo gitdir: $OTHER/.git >.git",
        "ln -s $OTHER/.git .git",
        "echo gitdir: $OTHER/.git/worktrees/linked >.git",
        # Halves of a linked work tree that nobody but git should make.
        "mkdir f; echo gitdir: $PWD/f >.git; cd f; echo $OLDPWD/.git >gitdir; echo $OTHER/.git >commondir; cp $OTHER/.git/HEAD HEAD",
        "git init --quiet; echo $OTHER/.git >.git/commondir",
        "git init --quiet; rm -r .git/refs; ln -s $OTHER/.git/refs .git/refs",
        "git init --quiet; rm -r .git/objects; ln -s $OTHER/.git/objects .git/objects",
    ],
)
def test_a_directory_whose_git_leads_to_another_ones_repository_is_none(
    tree: Tree, tmp_path: Path, script: str
) -> None:
    patch = tree.patch("echo two >>code")
    git(tree.place, "worktree", "add", "--quiet", str(tmp_path / "linked"))
    project = tmp_path / "project"
    project.mkdir()
    env = {"OTHER": str(tree.place), "PATH": os.defpath, "PWD": str(project)}
    subprocess.run(["/bin/sh", "-ec", script], cwd=project, env=env, check=True)
    with tempfile.TemporaryDirectory() as aside, pytest.raises(WrongBase):
        look(Path(aside), patch, tree.base, str(project), "stolen")


def test_a_git_directory_elsewhere_counts_once_it_names_its_tree(tmp_path: Path) -> None:
    project, own = tmp_path / "project", tmp_path / "own.git"
    git(tmp_path, "init", "--quiet", f"--separate-git-dir={own}", str(project))
    with pytest.raises(WrongBase, match="does not name"):
        Repository(str(project))
    git(own, "config", "core.worktree", str(project))
    assert Repository(str(project)).directory == str(own)


def test_a_planted_name_for_another_branch_is_not_followed(tree: Tree, tmp_path: Path) -> None:
    patch = tree.patch("echo two >>code")
    with tree.look(patch, branch="try") as seen:
        git(tree.place, "symbolic-ref", "refs/heads/try", "refs/heads/victim")
        commit_branch(seen, "try", "x", {"PATH": os.defpath, "HOME": str(tmp_path), **WHO})
    assert git(tree.place, "branch", "--list", "victim") == ""
    git(tree.place, "symbolic-ref", "refs/heads/try", "refs/heads/victim")
    assert tree.objections(patch, branch="try") == {"branch_exists": []}


@pytest.mark.parametrize("name", PLANTS)
def test_the_plants_are_run_by_git_as_people_use_it(tree: Tree, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "marks" / "ran"
    mark.parent.mkdir()
    plant(tree, name, mark)
    (tree.place / "code").write_text("mine\n")
    for words in (["diff"], ["commit", "--quiet", "--all", "--message=x"]):
        env = {"PATH": os.defpath, "HOME": str(tmp_path)}
        who = ["-c", "user.name=me", "-c", "user.email=me@example.com"]
        subprocess.run(
            ["/usr/bin/git", *who, *words],
            cwd=tree.place,
            env=env,
            check=False,
            capture_output=True,
        )
    assert mark.exists()


@pytest.mark.parametrize("name", ["filter", "filter process", "included filter"])
def test_no_filter_runs_where_git_must_read_a_file_to_know_whether_it_changed(
    tree: Tree, tmp_path: Path, name: str
) -> None:
    mark = tmp_path / "marks" / "ran"
    mark.parent.mkdir()
    patch = tree.patch(PATCH)
    plant(tree, name, mark)
    (tree.place / "code").write_text("mine\n")
    # Files that are younger than the index may have changed within its second: git reads them.
    os.utime(tree.place / ".git/index", (1, 1))
    assert tree.objections(patch) == {
        "dirty_tree": ["code"],
        "patch_conflict": ["code: its lines are others here"],
    }
    assert list(mark.parent.iterdir()) == []
    with contextlib.suppress(
        subprocess.CalledProcessError
    ):  # what says nothing is no filter process
        git(tree.place, "diff-files", "--name-only")
    assert mark.exists(), "this is no ground: git itself runs no filter here"


def test_more_filters_than_git_can_be_told_of_is_an_error_of_the_repository(tree: Tree) -> None:
    patch = tree.patch("echo two >>code")
    with (tree.place / ".git/config").open("a") as file:
        file.write(f'[filter "{"x" * 200_000}"]\n\tclean = true\n')
    (tree.place / "code").write_text("mine\n")
    with pytest.raises(Failed, match="diff-files"):
        tree.objections(patch)


@pytest.mark.parametrize("script", [
    "echo x >$P", "mkdir $P.d; echo x >$P.d/x; ln -s cmesh-apply.d $P",
    "mkdir $P; mkfifo $P/plan.json", "mkdir $P; ln -s /dev/zero $P/plan.json",
    "mkdir $P; mkdir $P/plan.json",
])  # fmt: skip
def test_what_is_no_folder_of_an_apply_is_left_as_it_is(tree: Tree, script: str) -> None:
    place = tree.place / ".git/cmesh-apply"
    env = {"PATH": os.defpath, "P": str(place)}
    subprocess.run(["/bin/sh", "-ec", script], cwd=tree.place, env=env, check=True)
    there = sorted(tree.place.glob(".git/cmesh-apply*/*"))
    with pytest.raises(PatchConflict, match="cmesh-apply"):
        take_back(Repository(str(tree.place)))
    assert os.path.lexists(place)
    assert sorted(tree.place.glob(".git/cmesh-apply*/*")) == there


@pytest.mark.parametrize("url", ["ext::%s", "file://%s"])
def test_a_git_that_fetches_what_is_missing_fetches_nothing_here(
    tree: Tree, tmp_path: Path, url: str
) -> None:
    """A repository may say that its objects are elsewhere; older git knows no word against it."""
    mark, run = tmp_path / "ran", tmp_path / "run"
    run.write_text(f"#!/bin/sh\ntouch {mark}\n")
    run.chmod(0o755)
    code = git(tree.place, "rev-parse", "HEAD:code")
    (tree.place / ".git/objects" / code[:2] / code[2:]).unlink()
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "evil",
        "remote.evil.url": url % (run if url.startswith("ext") else tree.place),
        "remote.evil.uploadpack": str(run),
        "remote.evil.promisor": "true",
        "protocol.ext.allow": "always",
        "protocol.file.allow": "always",
    }.items():
        git(tree.place, "config", key, value)
    old = Git(str(tree.place), GIT_NO_LAZY_FETCH="0")
    assert old.result("cat-file", "-e", code).returncode
    assert not mark.exists()
    del old.env["GIT_ALLOW_PROTOCOL"]
    old.result("cat-file", "-e", code)
    assert mark.exists(), "this is no ground: git fetches nothing"
