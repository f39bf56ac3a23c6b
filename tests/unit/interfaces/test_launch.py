"""What a daemon writes down of its start, and what of it is believed."""

import json
import os
import sys
from pathlib import Path

import pytest

from cmesh import __version__
from cmesh.errors import DaemonError, UnsafePermissions
from cmesh.interfaces import launch

GOOD = {"interpreter": "/usr/bin/python3", "version": "1.0", "kind": "service", "pid": 7}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path


def put(state: Path, value: object) -> Path:
    path = state / "launch.json"
    path.write_text(json.dumps(value), "utf-8")
    path.chmod(0o600)
    return path


def test_a_daemon_writes_down_its_interpreter_version_and_kind(state: Path) -> None:
    launch.record_launch(state, "detached")
    assert launch.read_launch(state) == launch.Launch(
        interpreter=sys.executable, version=__version__, kind="detached", pid=os.getpid()
    )
    assert (state / "launch.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "change",
    [
        {"interpreter": "python3"},
        {"interpreter": ["/bin/sh", "-c", "true"]},
        {"kind": "other"},
        {"pid": 1},
        {"pid": True},
        {"version": None},
        {"program": "cmesh"},
        {"program": ["/bin/cmesh"]},
    ],
)
def test_what_no_daemon_writes_is_not_believed(state: Path, change: dict[str, object]) -> None:
    put(state, GOOD)
    assert launch.read_launch(state).pid == 7
    put(state, GOOD | change)
    with pytest.raises(DaemonError, match="does not say how"):
        launch.read_launch(state)


def test_a_link_that_moved_starts_what_it_leads_to_now(state: Path) -> None:
    for name in ("old", "new"):
        (state / name / "bin").mkdir(parents=True)
        (state / name / "bin" / "cmesh").touch()
    link = state / "cmesh"
    link.symlink_to(state / "old" / "bin" / "cmesh")
    old, new = (str(state / name / "bin" / "python") for name in ("old", "new"))
    put(state, GOOD | {"interpreter": old, "program": str(link)})
    found = launch.read_launch(state)
    assert (found.starts(old), found.starts(new)) == (True, False)
    link.unlink()
    link.symlink_to(state / "new" / "bin" / "cmesh")
    assert found.starts(new)
    put(state, GOOD | {"interpreter": old})
    assert not launch.read_launch(state).starts(new), "a unit that names an interpreter"


def test_a_file_others_can_write_is_not_believed(state: Path) -> None:
    put(state, GOOD).chmod(0o666)
    with pytest.raises(UnsafePermissions):
        launch.read_launch(state)


def test_a_missing_or_torn_file_is_an_error_with_a_next_step(state: Path) -> None:
    with pytest.raises(DaemonError) as missing:
        launch.read_launch(state)
    assert "cmesh up" in missing.value.hint
    put(state, GOOD).write_text('{"interp', "utf-8")
    with pytest.raises(DaemonError):
        launch.read_launch(state)


def test_the_mark_of_a_replacement_comes_and_goes(state: Path) -> None:
    launch.begin_replacing(state)
    launch.begin_replacing(state)
    assert launch.is_replacing(state)
    launch.end_replacing(state)
    launch.end_replacing(state)
    assert not launch.is_replacing(state)
