"""A patch is put into a work tree whole or not at all, whatever is in the way or dies."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cmesh.errors import PatchConflict
from cmesh.patch.judge import APPLYING
from cmesh.patch.repository import Repository
from cmesh.patch.write import put, take_back
from tests.system.patch.trees import Tree, state
from tests.system.runner.copying import git

ROOT = Path(__file__).resolve().parents[3]
CHANGE = (
    "echo two >>code; printf 'a\\0b' >new; mkdir -p .claude/deep; echo {} >.claude/deep/s.json;"
    " rm -r sub; ln -s code link; chmod -x tool; printf x >>tool; touch empty"
)


def work(tree: Tree) -> dict[str, tuple[str, object]]:
    """Return the work tree and, of git's own directory, what a person would miss."""
    return {name: what for name, what in state(tree.place).items() if name != ".git"}


def test_all_of_a_patch_is_put_there_and_a_second_time_is_told(tree: Tree) -> None:
    patch = tree.patch(CHANGE)
    index = (tree.place / ".git/index").read_bytes()
    with tree.look(patch) as seen:
        put(seen)
    assert (tree.place / "code").read_text() == "one\n" * 20 + "two\n"
    assert (tree.place / "new").read_bytes() == b"a\0b"
    assert (tree.place / ".claude/deep/s.json").read_text() == "{}\n"
    assert not (tree.place / "sub").exists()
    assert (tree.place / "link").readlink() == Path("code")
    assert not os.access(tree.place / "tool", os.X_OK)
    assert (tree.place / "empty").read_bytes() == b""
    # Neither the index nor anything else of git's is touched.
    assert (tree.place / ".git/index").read_bytes() == index
    assert not (tree.place / ".git/cmesh-apply").exists()
    assert tree.objections(patch) == {"already_applied": []}
    # What git makes of it is what the worker made.
    git(tree.place, "add", "--all")
    same = git(tree.place, "diff", "--cached", "--binary", "--full-index", "--no-renames")
    assert same.encode() == patch.strip()


def test_names_that_are_no_text_are_put_there_as_they_are(tree: Tree) -> None:
    patch = tree.patch(
        "printf x >\"$(printf 'n\\351')\"; printf y >\"$(printf 'a\\nb')\"; echo z >' -n'"
    )
    with tree.look(patch) as seen:
        assert seen.applies
        put(seen)
    assert (tree.place / os.fsdecode(b"n\xe9")).read_text() == "x"
    assert (tree.place / "a\nb").read_text() == "y"
    assert (tree.place / " -n").read_text() == "z\n"


def test_an_interrupted_run_takes_itself_back(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = tree.patch(CHANGE)
    before, real = work(tree), os.rename

    def rename(*argv: object, **more: object) -> None:
        if str(argv[0]).rpartition("/")[2].startswith("new-") and argv[1] == "tool":
            raise KeyboardInterrupt
        real(*argv, **more)  # type: ignore[call-overload]

    with tree.look(patch) as seen:
        monkeypatch.setattr(os, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            put(seen)
    assert work(tree) == before


def test_a_folder_becomes_a_file_and_a_file_a_folder(tree: Tree) -> None:
    patch = tree.patch("rm -r sub; echo now >sub; rm code; mkdir -p code/in; echo x >code/in/x")
    with tree.look(patch) as seen:
        put(seen)
    assert (tree.place / "sub").read_text() == "now\n"
    assert (tree.place / "code/in/x").read_text() == "x\n"


def test_a_path_that_cannot_be_written_leaves_all_as_it_was(tree: Tree) -> None:
    patch = tree.patch(
        "rm -r sub; echo now >sub; echo two >>code; echo a >.a; mkdir z; echo z >z/z"
    )
    (tree.place / "sub" / "mine").write_text("what nobody tracks\n")
    before = work(tree)
    with tree.look(patch) as seen:
        assert seen.applies
        with pytest.raises(PatchConflict, match="nothing was changed"):
            put(seen)
    assert work(tree) == before


def test_a_path_that_changes_after_the_look_is_not_overwritten(tree: Tree) -> None:
    patch = tree.patch(CHANGE)
    with tree.look(patch) as seen:
        (tree.place / "tool").write_text("mine\n")
        before = work(tree)
        with pytest.raises(PatchConflict, match="somebody changed a path"):
            put(seen)
    assert work(tree) == before


def test_a_new_path_that_appears_after_the_look_is_not_overwritten(tree: Tree) -> None:
    patch = tree.patch(CHANGE)
    with tree.look(patch) as seen:
        (tree.place / "new").write_text("mine\n")
        before = work(tree)
        with pytest.raises(PatchConflict):
            put(seen)
    assert work(tree) == before


def test_a_folder_that_becomes_a_link_after_the_look_is_not_followed(
    tree: Tree, tmp_path: Path
) -> None:
    patch = tree.patch("mkdir deep; echo x >deep/x; echo two >>sub/note")
    outside = tmp_path / "outside"
    outside.mkdir()
    with tree.look(patch) as seen:
        (tree.place / "deep").symlink_to(outside)
        before = work(tree)
        with pytest.raises(PatchConflict):
            put(seen)
    assert list(outside.iterdir()) == []
    assert work(tree) == before


DYING = """
import os, sys, tempfile
from pathlib import Path
from cmesh.patch.look import look
from cmesh.patch.write import put
place, patch, base = sys.argv[1:]
def dies(real):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return real(*args, **kwargs)
    return call
def run():
    aside = tempfile.mkdtemp(dir=Path(patch).parent)
    seen = look(Path(aside), Path(patch).read_bytes(), base, place)
    for name in ("rename", "unlink", "mkdir", "rmdir", "link"):
        setattr(os, name, dies(getattr(os, name)))
    put(seen)
    os._exit(0)
for line in sys.stdin:
    left = int(line)
    if not (child := os.fork()):
        run()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextmanager
def dying(tree: Tree, patch: bytes, file: Path) -> Generator[Callable[[int], int]]:
    """Put a patch there in processes that end before a given step; each tells its status."""
    file.write_bytes(patch)
    argv = [sys.executable, "-c", DYING, str(tree.place), str(file), tree.base]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(left: int) -> int:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{left}\n")
            return int(process.stdout.readline())

        yield run
        process.stdin.close()


def test_a_run_that_dies_at_any_step_is_taken_back_or_done(tree: Tree, tmp_path: Path) -> None:
    patch = tree.patch(CHANGE)
    before, died = work(tree), 0
    with dying(tree, patch, tmp_path / "patch") as run:
        for step in range(100):
            if (status := run(step)) == 0:
                break
            assert status == 9
            died += 1
            if Repository(str(tree.place)).place.exists():
                assert tree.objections(patch) == {"patch_conflict": []}
                assert take_back(Repository(str(tree.place)))
            if "already_applied" in tree.objections(patch):
                break  # it died after its last step
            assert work(tree) == before, f"after {step} steps"
    assert died > 12
    assert (tree.place / "new").exists()


def test_what_a_person_changed_after_a_crash_is_kept(tree: Tree, tmp_path: Path) -> None:
    patch = tree.patch("echo two >>code; echo x >new")
    with dying(tree, patch, tmp_path / "patch") as run:
        for step in range(1, 20):
            run(step)
            if (tree.place / "code").read_text().endswith("two\n"):
                break
            take_back(Repository(str(tree.place)))
    (tree.place / "code").write_text("mine\n")
    with pytest.raises(PatchConflict, match="1 of its paths were changed since"):
        take_back(Repository(str(tree.place)))
    assert (tree.place / "code").read_text() == "mine\n"
    kept = [path.read_text() for path in Repository(str(tree.place)).place.glob("old-*")]
    assert kept == ["one\n" * 20]


@pytest.mark.parametrize("plan", ["outside", "other", "nonsense"])
def test_a_planted_plan_leads_nowhere(tree: Tree, tmp_path: Path, plan: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    info = victim.stat()
    stamp = [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_mode]
    steps = {
        "outside": {"path": "../victim", "old": "", "new": "new-0", "was": [], "is_": stamp},
        "other": {"path": "x", "old": "../../../victim", "new": "", "was": [1], "is_": []},
        "nonsense": {},
    }
    place = tree.place / ".git/cmesh-apply"
    place.mkdir()
    (place / "plan.json").write_text(
        f'{{"steps": [{steps[plan]!r}], "made": []}}'.replace("'", '"')
    )
    with pytest.raises(PatchConflict):
        take_back(Repository(str(tree.place)))
    assert victim.read_text() == "mine\n"


def test_two_at_once_are_one_after_the_other(tree: Tree) -> None:
    patch = tree.patch(CHANGE)
    script = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY);"
        " fcntl.flock(fd, fcntl.LOCK_EX); print('has it', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tree.place / ".git")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"has it\n"
        with tree.look(patch) as seen, pytest.raises(PatchConflict, match="another `cmesh apply`"):
            put(seen)
        other.communicate()


def test_only_a_held_lock_is_taken_for_another_apply(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_words: object, **_more: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "a slow disk")

    with tree.look(tree.patch(CHANGE)) as seen:
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(PatchConflict, match="nothing was changed: a slow disk"):
            put(seen)


def test_what_lies_in_the_tree_while_an_apply_is_at_work_is_not_tracked(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Repository, "place", tree.place / APPLYING)  # as on another disk
    told: list[str] = []

    def rename(*words: object, **more: object) -> None:
        told.append(git(tree.place, "status", "--porcelain", "--untracked-files=all"))
        raise OSError(errno.EIO, "enough")

    with tree.look(tree.patch(CHANGE)) as seen:
        monkeypatch.setattr(os, "rename", rename)
        with pytest.raises(PatchConflict):
            put(seen)
    assert told
    assert APPLYING not in "".join(told)
