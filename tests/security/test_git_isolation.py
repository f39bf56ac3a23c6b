"""What an agent leaves in its copy, or somebody in the source, runs nothing outside of a sandbox.

Each plant is something that git runs or follows. One test shows that it does, with git as a
person runs it there; the others let cmesh make the copy and the patch, and look for its mark.
"""

import os
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from cmesh.model import TaskId
from cmesh.runner.copies import read_changed, read_made
from cmesh.runner.task_files import delete_tree
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
    (place / "note.txt").write_text("a note\n")
    commit(place)
    return place


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Return a file that a plant makes when it is run by this user, outside of a sandbox."""
    place = Path(os.path.realpath(tmp_path)) / "marks"
    place.mkdir()
    place.chmod(0o777)
    return place / "ran"


def ran(mark: Path) -> list[str]:
    return sorted(path.name for path in mark.parent.iterdir())


# As shell, in a work tree: `$RUN` is a program that leaves its mark and says nothing.
PLANTS: Mapping[str, str] = {
    "fsmonitor": 'git config core.fsmonitor "$RUN"',
    "filter": """
        git config filter.x.clean "$RUN; cat"; git config filter.x.smudge "$RUN; cat"
        git config filter.x.required true; echo '* filter=x' >.gitattributes""",
    "filter process": """
        git config filter.x.process "$RUN"; echo '* filter=x' >.gitattributes""",
    "textconv": """
        git config diff.x.textconv "$RUN"; echo '* diff=x' >.gitattributes""",
    "external diff": 'git config diff.external "$RUN"',
    "external diff of a kind": """
        git config diff.x.command "$RUN"; echo '* diff=x' >.gitattributes""",
    "hooks": """
        for hook in pre-commit post-checkout post-index-change reference-transaction \\
            pre-auto-gc post-rewrite; do
            mkdir -p .git/hooks; printf '#!/bin/sh\\n%s\\n' "$RUN" >.git/hooks/$hook
            chmod +x .git/hooks/$hook
        done""",
    "hooks path": """
        mkdir own; printf '#!/bin/sh\\n%s\\n' "$RUN" >own/post-index-change
        chmod +x own/post-index-change; git config core.hooksPath own""",
    "included configuration": """
        printf '[core]\\n\\tfsmonitor = %s\\n' "$RUN" >shared; git config include.path ../shared""",
    "aliases and pagers": """
        git config core.pager "$RUN"; git config alias.status "!$RUN"
        git config core.sshCommand "$RUN"; git config core.gitProxy "$RUN" """,
    "nested repository": """
        git init -q inner; echo x >inner/file; git -C inner config core.fsmonitor "$RUN"
        git -C inner add file; git -C inner -c user.name=x -c user.email=x@x commit -qm x""",
    "nested repository without a commit": """
        git init -q inner; echo x >inner/file; git -C inner config core.fsmonitor "$RUN" """,
    "submodule": """
        git init -q ../other || git init -q other; there=$(ls -d ../other other 2>/dev/null | head -1)
        (cd "$there"; echo x >file; git add file; git -c user.name=x -c user.email=x@x commit -qm x)
        git -c protocol.file.allow=always submodule add -q "$(cd "$there"; pwd)" sub
        git config submodule.sub.update "!$RUN"; git -C sub config core.fsmonitor "$RUN" """,
    "bare repository": """
        git init -q --bare bare.git; git -C bare.git config core.fsmonitor "$RUN"
        git -C bare.git config core.worktree ..; printf '#!/bin/sh\\n%s\\n' "$RUN" >bare.git/hooks/x""",
    "bare repository at the top": """
        git init -q --bare .; git config --file config core.fsmonitor "$RUN" """,
    "git directory elsewhere": """
        mv .git elsewhere; echo 'gitdir: elsewhere' >.git
        git config --file elsewhere/config core.fsmonitor "$RUN" """,
    "work tree elsewhere": 'git config core.worktree /; git config core.fsmonitor "$RUN"',
    "editor and credentials": """
        git config core.editor "$RUN"; git config credential.helper "!$RUN"
        git config core.askPass "$RUN"; git config gpg.program "$RUN"; git config commit.gpgSign true""",
}


def script(plant: str, mark: Path) -> str:
    """Return shell that plants, and says at its end that it got there."""
    run = f"touch {mark}"
    path = f"export HOME=${{TMPDIR:-/tmp}} RUN='{run}'"
    return f"{path}; set -e; {PLANTS[plant]}\necho changed >>note.txt; echo planted"


GIT_RUNS = {
    "fsmonitor", "filter", "textconv", "external diff", "external diff of a kind", "hooks",
    "included configuration", "nested repository",
}  # fmt: skip
"""Plants for which a person's own `git` in the tree shows that they are alive."""


@pytest.mark.parametrize("plant", sorted(GIT_RUNS))
def test_git_itself_runs_what_is_planted(plant: str, place: Path, mark: Path) -> None:
    subprocess.run(
        ["/bin/sh", "-c", script(plant, mark)], cwd=place, check=True, capture_output=True
    )
    mark.unlink(missing_ok=True)
    for argv in (["add", "--all"], ["status"], ["diff", "HEAD"], ["commit", "-qm", "x"]):
        subprocess.run(
            ["/usr/bin/git", "-c", "user.name=x", "-c", "user.email=x@x", *argv],
            cwd=place, check=False, capture_output=True,
        )  # fmt: skip
    assert ran(mark) == ["ran"]


@pytest.mark.parametrize("plant", PLANTS)
async def test_what_a_task_plants_is_never_run_and_its_patch_is_made(
    worker: Worker, place: Path, mark: Path, found: Enforcement, plant: str
) -> None:
    done = await edit(worker, place, found, script(plant, mark))
    assert done.output.endswith("planted\n"), (done.own / "stderr").read_text()
    assert (done.exit.compared, ran(mark)) == ("yes", [])
    assert "+changed\n" in done.patch
    unchanged(place)


@pytest.mark.parametrize("plant", PLANTS)
async def test_what_is_planted_in_the_source_is_never_run(
    worker: Worker, place: Path, mark: Path, found: Enforcement, plant: str
) -> None:
    subprocess.run(
        ["/bin/sh", "-c", script(plant, mark)], cwd=place, check=True, capture_output=True
    )
    mark.unlink(missing_ok=True)
    done = await edit(worker, place, found, "echo more >>note.txt; git status; git diff; echo end")
    assert ran(mark) == []
    assert (done.exit.verdict, done.exit.compared) == ("exited", "yes")
    assert done.output.endswith("end\n")
    assert "+more\n" in done.patch


def unchanged(place: Path) -> None:
    """The source, its configuration, hooks, refs and objects are as they were."""
    assert (place / "note.txt").read_text() == "a note\n"
    assert git(place, "status", "--porcelain") == ""
    assert git(place, "for-each-ref", "--format=%(refname)") == "refs/heads/main"


async def test_a_copy_shares_nothing_that_can_be_written(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    attempts = """
        git config user.name evil; git config user.email e@e; git branch evil; git tag evil
        mkdir -p .git/hooks; echo x >.git/hooks/pre-commit; echo x >>.git/info/exclude
        for path in $(cat .git/objects/info/alternates)/*; do
            echo x >$path/evil && echo "wrote $path"; chmod 777 $path; rm -rf $path; done
        git commit -qam own; git log --format=%s; git gc -q; git repack -adq; git log --format=%s"""
    before = state(place / ".git")
    done = await edit(worker, place, found, attempts)
    assert "wrote" not in done.output
    assert "first" in done.output  # its history is there to read
    assert state(place / ".git") == before
    unchanged(place)
    # What it committed is still a change of the copy, and none was made here.
    assert (done.exit.compared, done.patch) == ("yes", "")


def state(place: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in place.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mode, path.read_bytes()) for path in files}


async def test_names_that_lead_out_are_links_in_the_patch_and_nothing_is_read_through_them(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    secret = place.parent / "secret"
    secret.write_text("the secret of another directory\n")
    attempts = f"""
        ln -s {secret} one; ln -s /etc/passwd two; mkdir real; echo x >real/file; git add real
        rm -r real; ln -s {place.parent} real; rm note.txt; ln -s {secret} note.txt
        mkfifo pipe; printf '{place.parent}\\n' >.git/objects/info/alternates"""
    done = await edit(worker, place, found, attempts)
    assert done.exit.compared == "yes"
    assert "another directory" not in done.patch
    assert "root:" not in done.patch
    changed = read_changed(done.own)
    assert changed is not None
    assert set(changed.flagged) == {"one", "two", "real", "note.txt"}


@pytest.fixture
def cleared(tmp_path: Path) -> Iterator[None]:
    """Leave pytest nothing that is too deep for it."""
    yield
    delete_tree(tmp_path)


@pytest.mark.usefixtures("cleared")
async def test_what_fills_or_blocks_a_copy_costs_its_own_names_and_goes_with_it(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    attempts = f"""
        echo changed >>note.txt; mkdir many inner inner/.git inner/.git/refs inner/.git/objects
        for pipe in .gitignore .gitattributes many/.gitignore inner/.git/HEAD inner/.git/config; do
            mkfifo $pipe; done
        truncate -s 1T huge; for number in $(seq 40); do truncate -s 1000M sparse$number; done
        (cd many; seq {FILES} | xargs touch)
        for object in $(find $(cat .git/objects/info/alternates) -type f); do
            ln $object linked 2>/dev/null && echo LINKED; done
        step=$(printf 'd/%.0s' $(seq 1000))
        for round in 1 2; do mkdir -p $step; cd -P $step; done; touch deepest; echo planted"""
    done = await edit(worker, place, found, attempts)
    assert done.output == "planted\n", (done.own / "stderr").read_text()
    assert done.exit.compared == "yes"
    made, changed = read_made(done.own), read_changed(done.own)
    assert made is not None
    assert changed is not None
    assert "+changed\n" in done.patch
    assert changed.files == FILES + 2  # the note, and `huge` of what its limit let it have
    assert changed.left_out_count == 4 + 40 + 1
    assert {".gitignore", "many/.gitignore", "inner/", "sparse40"} <= set(changed.left_out)
    worker.supervisor.discard(TaskId(done.own.name))
    await worker.eventually(lambda: not any(done.own.parent.glob(".gone-*")))
    assert not done.own.exists()
    unchanged(place)


FILES = 500


async def test_an_unreadable_and_a_strange_name_break_no_patch(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    attempts = r"""
        printf x >"$(printf 'a\nb')"; printf x >'"quoted"'; printf x >'-option'; printf x >'a\b'
        printf x >"$(printf '\377')"; mkdir closed; echo x >closed/file; chmod 000 closed
        echo changed >>note.txt; echo secret >shut; chmod 000 shut"""
    done = await edit(worker, place, found, attempts)
    assert done.exit.compared == "yes"
    changed = read_changed(done.own)
    assert changed is not None
    if os.getuid() != 0:
        assert (changed.files, changed.left_out) == (6, ["shut"])
    assert "+changed\n" in done.patch


async def test_a_source_that_was_swapped_since_it_was_judged_is_not_copied(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    def swap() -> None:
        place.rename(place.with_name("before"))
        place.mkdir()

    done = await edit(worker, place, found, "echo ran", between=swap)
    assert (done.exit.verdict, done.output) == ("spawn_failed", "")
    assert "another directory now" in done.exit.error


async def test_what_git_ignores_is_not_shown_to_a_task(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    (place / ".gitignore").write_text("*.env\n")
    (place / ".git" / "info" / "exclude").write_text("private\n")
    for name in ("app.env", "private", "other"):
        (place / name).write_text(f"{name}\n")
    git(place, "update-ref", "-d", "HEAD")  # without a commit all is copied but that
    done = await edit(worker, place, found, "ls -A; cat app.env private")
    assert done.output.split() == [".git", ".gitignore", "note.txt", "other"]
    made = read_made(done.own)
    assert made is not None
    assert (made.files, made.commit) == (3, "")


async def test_only_this_user_may_enter_a_copy(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    done = await edit(worker, place, found, "true")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in done.own.iterdir()}
    assert {modes[name] for name in ("copy", "git", "home", "tmp")} == {0o700}
    assert {modes[name] for name in ("before", "after")} == {0o600}
