"""Parts of a directory under a real shim: what is not listed cannot be seen or changed."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import cmesh
from cmesh.errors import PathRefused, SandboxUnavailable
from cmesh.model import Profile
from cmesh.policy.profiles import BUILT_IN, NamedProfile
from cmesh.runner.confine import Sandboxes
from cmesh.runner.copies import read_changed, read_made
from cmesh.runner.launch import Launch
from cmesh.runner.programs import Needs
from cmesh.sandbox.probe import find_enforcement
from cmesh.sandbox.tier import Enforcement
from tests.system.runner.copying import commit, edit, judge
from tests.system.runner.support import Worker, new_id

pytestmark = [pytest.mark.anyio, pytest.mark.system]

SECRET = "not for a task"


@pytest.fixture(params=[3, 2, 1])
def found(request: pytest.FixtureRequest) -> Enforcement:
    """Return what there is, and what would be left of it on weaker machines."""
    found = find_enforcement()
    if found.tier != 3:
        pytest.skip(f"no sandbox of tier 3 here: {found.why}")
    weaker = {2: replace(found, bwrap=False, netns=False), 1: replace(found, landlock_abi=0)}
    return weaker.get(request.param, found)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = Path(os.path.realpath(tmp_path)) / "app"
    for folder in ("docs/api", "docsx", "private", "src"):
        (place / folder).mkdir(parents=True)
    (place / "docs/text").write_text("a text\n")
    (place / "docs/api/calls").write_text("calls\n")
    (place / "docs/to-private").symlink_to("../private")
    (place / "docs/to-key").symlink_to(place / "private/key")
    (place / "src/code").write_text("one\n")
    (place / "readme").write_text("read me\n")
    for name in ("private/key", "docsx/key", "key"):
        (place / name).write_text(f"{SECRET}\n")
    return place


def profile(base: Profile, read: Sequence[str] = (), write: Sequence[str] = ()) -> NamedProfile:
    limits = BUILT_IN[base].limits
    return NamedProfile(name="own", base=base, read=tuple(read), write=tuple(write), limits=limits)


async def look(
    worker: Worker, place: Path, found: Enforcement, script: str, own: NamedProfile
) -> tuple[str, str]:
    """Let a script of `query` run to its end; return what it says and why it did not start."""
    task_id = new_id()
    task = worker.supervisor.directory(task_id)
    launch = Launch(
        argv=("/bin/sh", "-c", f"exec 2>&1; {script}"),
        cwd=str(place),
        env={"PATH": os.defpath, "HOME": f"{task}/home", "TMPDIR": f"{task}/tmp"},
        stdin=b"",
        runtime_s=60,
        output_bytes=100_000,
        judged=judge(place),
    )
    sandboxes = Sandboxes([worker.supervisor.tasks_dir])
    sandboxes.found = found
    worker.supervisor.prepare(task_id, sandboxes.confine(launch, own, Needs()))
    await worker.supervisor.spawn(task_id)
    exit_ = await worker.result(task_id)
    return worker.output(task_id).decode(), exit_.error


WAYS = (
    "private/key", "docsx/key", "key", "docs/../key", "docs/../private/key", "docs/to-key",
    "docs/to-private/key", "./docs/api/../../key", "/proc/self/cwd/key", "/proc/1/cwd/key",
    "/proc/self/root{place}/key", "{place}/private/key", "docs/to-private/../key",
)  # fmt: skip


async def test_only_what_is_listed_can_be_read(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    ways = " ".join(ways.format(place=place) for ways in WAYS)
    fds = "for fd in 3 4 5 6 7 8 16 17 18; do cat /proc/self/fd/$fd/key /proc/1/fd/$fd/key; done"
    script = f"cat docs/text docs/api/calls readme; for way in {ways}; do cat $way; done; {fds}"
    own = profile(Profile.QUERY, ("docs", "readme"))
    said, error = await look(worker, place, found, script, own)
    assert error == ""
    assert said.startswith("a text\ncalls\nread me\n")
    assert said.count("cat: ") == len(WAYS) + 18
    assert SECRET not in said
    # The same ways lead there as soon as nothing is narrowed, or they would say nothing.
    whole, error = await look(worker, place, found, script, BUILT_IN[Profile.QUERY])
    assert error == ""
    assert whole.count(SECRET) >= len(WAYS) - 2


async def test_names_are_listed_of_what_is_shown_and_nothing_is_written(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    own = profile(Profile.QUERY, ("docs/api", "readme"))
    script = "ls docs/api; ls -a; ls -a docs; echo x >new; echo x >docs/api/new; echo x >readme"
    said, error = await look(worker, place, found, script, own)
    assert error == ""
    shown = said.split("ls: ")[0].split("/bin/sh: ")[0].split()
    if found.bwrap and found.netns:
        assert shown == ["calls", ".", "..", "docs", "readme", ".", "..", "api"]
    else:  # without mounts what is not allowed is there, and the folder above it is not listed
        assert shown == ["calls"]
    assert sorted(one.name for one in (place / "docs/api").iterdir()) == ["calls"]
    assert (place / "readme").read_text() == "read me\n"
    assert not (place / "new").exists()


@pytest.mark.parametrize(
    ("path", "leads"),
    [
        ("absent", ""),
        ("readme/x", ""),
        ("pipe", ""),
        ("out", "/etc"),
        ("beside", "private"),
        ("above/key", "private"),
    ],
)
async def test_a_path_that_is_not_there_or_is_a_link_starts_nothing(
    worker: Worker, place: Path, found: Enforcement, path: str, leads: str
) -> None:
    if leads:
        (place / path.partition("/")[0]).symlink_to(leads)
    os.mkfifo(place / "pipe")
    own = profile(Profile.QUERY, ("docs", path))
    sandboxes = Sandboxes([worker.supervisor.tasks_dir])
    sandboxes.found = found
    with pytest.raises(PathRefused) as refused:
        sandboxes.require_parts(str(place), judge(place), own)
    assert f"`[profiles.own]` lists `{path}`" in refused.value.message
    assert "take it off the list" in refused.value.message
    # As if it had become so once that was asked: the shim opens it for itself.
    said, error = await look(worker, place, found, "cat docs/text", own)
    assert said == ""
    assert error.endswith("a part of its directory")
    assert path not in error


def test_what_is_there_to_be_shown_is_taken(place: Path, found: Enforcement) -> None:
    sandboxes = Sandboxes([place / "private"])
    sandboxes.found = found
    own = profile(Profile.QUERY, ("docs", "readme", "docs/api/calls"))
    sandboxes.require_parts(str(place), judge(place), own)
    for path in ("private", "private/key"):
        with pytest.raises(PathRefused, match=r"`\[profiles.own\]` lists .*cmesh's own"):
            sandboxes.require_parts(str(place), judge(place), profile(Profile.QUERY, (path,)))


async def test_a_directory_with_cmesh_in_it_is_narrowed_as_any_other(
    worker: Worker, found: Enforcement
) -> None:
    place = Path(os.path.realpath(cmesh.__file__)).parents[1]
    own = profile(Profile.QUERY, ("docs",))
    script = "test -s docs/security.md && echo shown; cat README.md; cat cmesh/daemon/links.py"
    said, error = await look(worker, place, found, script, own)
    assert error == ""
    assert (said.splitlines()[0], said.count("cat: ")) == ("shown", 2)


async def test_what_may_be_read_above_a_directory_does_not_show_it(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    task_id = new_id()
    task = worker.supervisor.directory(task_id)
    launch = Launch(
        argv=("/bin/true",),
        cwd=str(place),
        env={"HOME": f"{task}/home", "TMPDIR": f"{task}/tmp"},
        stdin=b"",
        runtime_s=60,
        output_bytes=1,
    )
    sandboxes = Sandboxes([])
    sandboxes.found = found
    own, needs = profile(Profile.QUERY, ("docs",)), Needs(read=(str(place.parent),))
    if found.tier == 2:
        with pytest.raises(SandboxUnavailable, match="no part of it can be hidden"):
            sandboxes.confine(launch, own, needs)
        return
    script = f"cat docs/text; cat key; cat {place}/private/key; exit 0"
    launch = replace(launch, argv=("/bin/sh", "-c", script), output_bytes=1000)
    worker.supervisor.prepare(task_id, sandboxes.confine(launch, own, needs))
    await worker.supervisor.spawn(task_id)
    assert (await worker.result(task_id)).exit_code == 0
    assert worker.output(task_id) == b"a text\n"


async def test_a_copy_has_the_parts_alone_and_so_has_the_patch(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    (place / ".gitignore").write_text("*.log\n")
    (place / "src/old.log").write_text(f"{SECRET}\n")
    head = commit(place)
    own = profile(Profile.EDIT, ("src", "docs/api", "readme"))
    script = (
        "echo two >>src/code; echo new >src/new; echo x >src/new.log; echo more >>readme;"
        " echo x >key; echo x >docs/other; mkdir private; cat key private/key docs/text;"
        f" cat src/old.log; git log; cat {place}/key; ls -A src"
    )
    done = await edit(worker, place, found, script, own=own)
    assert (done.exit.error, done.exit.compared) == ("", "yes")
    assert done.output.split() == ["code", "new", "new.log"]
    made, changed = read_made(done.own), read_changed(done.own)
    assert made is not None
    assert changed is not None
    assert (made.commit, made.dirty, made.files, made.left_out) == (head, False, 3, [])
    assert changed.changed == ["M readme", "M src/code", "A src/new"]
    assert SECRET not in done.patch
    assert not [name for name in changed.left_out if "src" not in name]
    copied = {str(one.relative_to(done.own / "copy")) for one in (done.own / "copy").rglob("*")}
    assert not [name for name in copied if "key" in name or "private" in name or ".git/" in name]


async def test_only_what_is_listed_can_be_written_in_a_copy(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    commit(place)
    own = profile(Profile.EDIT, (), ("src", "docs/api"))
    script = (
        "cat key; echo two >>src/code; mkdir docs/api/new; echo x >docs/api/new/one;"
        " echo x >>key; echo x >>docs/text; rm readme; ln -s ../key src/link;"
        " echo y >>src/link; git log --format=%s"
    )
    done = await edit(worker, place, found, script, own=own)
    assert (done.exit.error, done.exit.compared) == ("", "yes")
    assert done.output == f"{SECRET}\nfirst\n"
    changed = read_changed(done.own)
    assert changed is not None
    assert changed.changed == ["A docs/api/new/one", "M src/code", "A src/link"]


async def test_what_may_be_written_lies_in_what_may_be_read(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    (place / "docs/drafts").mkdir()  # with nothing in it, as git knows none
    own = profile(Profile.EDIT, ("docs", "src"), ("docs/drafts", "docs/api/calls"))
    script = (
        "cat docs/text; echo new >docs/drafts/new; echo more >>docs/api/calls;"
        " echo x >>docs/text; echo x >>src/code; echo x >docs/api/other; cat key"
    )
    done = await edit(worker, place, found, script, own=own)
    assert (done.exit.error, done.output) == ("", "a text\n")
    changed = read_changed(done.own)
    assert changed is not None
    assert changed.changed == ["M docs/api/calls", "A docs/drafts/new"]


async def test_a_file_that_git_ignores_is_no_part_of_a_copy(
    worker: Worker, place: Path, found: Enforcement
) -> None:
    (place / ".gitignore").write_text("key\n")
    done = await edit(
        worker, place, found, "echo started", own=profile(Profile.EDIT, ("docs", "key"))
    )
    assert done.exit.verdict == "spawn_failed"
    assert "a file that its profile lists is ignored by git" in done.exit.error
    assert (done.output, SECRET in done.exit.error) == ("", False)
