"""Steps done and taken back, with a `systemctl` that only writes down what it is told."""

import json
import stat
from pathlib import Path

import pytest

from cmesh.errors import ConfigError, ServiceFailed
from cmesh.setup.service import manager
from cmesh.setup.service.kept import Kept, read_kept, record_kept, start_kept
from cmesh.setup.service.manager import Surroundings
from cmesh.setup.service.unit import Change, Unit

UNIT = Unit(
    name="cmesh", argv=("/opt/cmesh", "daemon"), environment={"A": "b"}, down_mark="/d", log="/l"
)
SHOWN = "UnitFileState=enabled\\nActiveState=active\\nSubState=running\\nMainPID=7"


class Ground:
    """A home with a fake `systemctl`; `fail` makes one of its verbs end with an error."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state, self.home, self._bin = base / "state", base / "home", base / "bin"
        for directory in (self.state, self.home, self._bin, base / "run" / "systemd"):
            directory.mkdir(parents=True)
        (base / "run" / "systemd" / "private").touch()
        self._told = base / "told"
        self.fail("none")
        path = f"{self._bin}:/usr/bin:/bin"
        monkeypatch.setenv("PATH", path)
        monkeypatch.setenv("XDG_DATA_HOME", str(base / "data"))
        self.record = base / "data" / "cmesh" / "installed.json"
        self.around = Surroundings(
            home=self.home,
            environment={"PATH": path, "XDG_RUNTIME_DIR": str(base / "run")},
            state=self.state,
        )

    def fail(self, verb: str) -> None:
        program = self._bin / "systemctl"
        program.write_text(
            f'#!/bin/sh\necho "$*" >> {self._told}\ncase "$*" in\n'
            f'*" {verb}"*) echo "no bus" >&2; exit 1;;\n*" show "*) printf "{SHOWN}";;\nesac\n',
            "utf-8",
        )
        program.chmod(stat.S_IRWXU)

    def told(self) -> list[str]:
        return self._told.read_text("utf-8").splitlines() if self._told.exists() else []

    def install(self) -> list[str]:
        said: list[str] = []
        steps = manager.plan("systemd", UNIT, self.around)
        manager.apply("systemd", UNIT, steps, self.around, said.append)
        return said


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    return Ground(tmp_path, monkeypatch)


def test_installed_twice_it_is_written_once_and_recorded_once(ground: Ground) -> None:
    file = ground.home / ".config/systemd/user/cmesh.service"
    assert ground.install()[0] == f"write {file}"
    before = file.stat().st_ino
    assert not [line for line in ground.install() if line.startswith("write")]
    assert file.stat().st_ino == before
    assert ground.told()[:2] == ["--user daemon-reload", "--user enable cmesh.service"]
    [entry] = json.loads(ground.record.read_text("utf-8"))["entries"]
    assert (entry["kind"], entry["path"]) == ("service", str(file))
    kept = read_kept(ground.state)
    assert kept is not None
    assert kept.program == "/opt/cmesh"
    found = manager.fact(ground.around, UNIT)
    assert (found.installed, found.current, found.enabled, found.active) == (True,) * 4
    file.write_text("[Service]\n", "utf-8")
    assert not manager.fact(ground.around, UNIT).current


def test_removed_nothing_of_it_is_left(ground: Ground) -> None:
    ground.install()
    kept = read_kept(ground.state)
    assert kept is not None
    ground.fail("disable")  # the manager may be gone: what is ours goes all the same
    manager.remove(kept, manager.removal_plan(kept), ground.around, lambda _: None)
    assert not Path(kept.file).exists()
    assert read_kept(ground.state) is None
    assert list(ground.state.iterdir()) == []
    assert json.loads(ground.record.read_text("utf-8"))["entries"] == []


def test_a_step_that_fails_says_which_and_can_be_taken_back(ground: Ground) -> None:
    ground.fail("enable")
    with pytest.raises(ServiceFailed, match=r"enable cmesh\.service` failed: no bus"):
        ground.install()
    kept = read_kept(ground.state)
    assert kept is not None
    manager.remove(kept, manager.removal_plan(kept), ground.around, lambda _: None)
    assert not Path(kept.file).exists()


def test_a_home_that_cannot_be_written_is_told(ground: Ground) -> None:
    (ground.home / ".config").write_text("a file, no directory", "utf-8")
    with pytest.raises(ServiceFailed, match="cannot be written"):
        ground.install()
    assert ground.told() == []


def test_a_record_of_a_newer_form_is_left_alone(ground: Ground) -> None:
    ground.record.parent.mkdir(parents=True, mode=0o700)
    ground.record.write_text('{"version": 99, "entries": []}', "utf-8")
    with pytest.raises(ConfigError):
        ground.install()
    assert json.loads(ground.record.read_text("utf-8"))["version"] == 99


def test_the_manager_is_that_of_the_machine(ground: Ground) -> None:
    assert manager.which(ground.around, "linux") == "systemd"
    assert manager.which(ground.around, "macos") == "launchd"
    assert manager.which(ground.around, "windows") == "windows"
    elsewhere = Surroundings(home=ground.home, environment={"XDG_RUNTIME_DIR": "/nowhere"},
                             state=ground.state)  # fmt: skip
    assert manager.which(elsewhere, "linux") is None


def test_starting_says_why_not(ground: Ground) -> None:
    kept = Kept(manager="systemd", name="cmesh", file="/f", program="/p")
    environment = dict(ground.around.environment)
    assert start_kept(kept, environment) == ""
    assert ground.told() == ["--user reset-failed cmesh.service", "--user start cmesh.service"]
    ground.fail("start")
    assert start_kept(kept, environment) == "no bus"


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '{"manager": "systemd"}',
        '{"manager": "sh", "name": "cmesh", "file": "/bin/sh", "program": "/p"}',
        '{"manager": "systemd", "name": "x; y", "file": "/bin/sh", "program": "/p"}',
        '{"manager": "systemd", "name": "cmesh", "file": "/not/there", "program": "/p"}',
    ],
)  # fmt: skip
def test_a_file_that_names_no_unit_names_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "service.json").write_text(text, "utf-8")
    assert read_kept(tmp_path) is None


def test_what_is_recorded_is_read_back_and_private(tmp_path: Path) -> None:
    file = tmp_path / "unit"
    file.touch()
    kept = Kept(manager="systemd", name="cmesh", file=str(file), program="/p")
    record_kept(tmp_path, kept)
    assert read_kept(tmp_path) == kept
    assert stat.S_IMODE((tmp_path / "service.json").stat().st_mode) == 0o600


def test_a_plan_says_whether_it_would_change_a_file(tmp_path: Path) -> None:
    file = tmp_path / "f"
    steps = [Change(path=file, write="text"), Change(argv=("x",))]
    assert not manager.is_written(steps)
    file.write_text("text", "utf-8")
    assert manager.is_written(steps)
