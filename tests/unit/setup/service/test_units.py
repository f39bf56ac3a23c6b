"""What each service manager is given: read back by its own tools or by its own rules."""

import plistlib
import shlex
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as Tree

import pytest

from cmesh.errors import ServiceFailed
from cmesh.interfaces.launch import HANDED_OVER as THE_DAEMON_S
from cmesh.setup.service import launchd, systemd, windows_task
from cmesh.setup.service.unit import HANDED_OVER, Change, Unit, is_unit_name, unit_name

STATE = '/home/me and you/50% "odd" $HOME\\dir'
UNIT = Unit(
    name="cmesh",
    argv=(f"{STATE}/bin/python", "-I", "-m", "cmesh", "daemon", "--service"),
    environment={"CMESH_STATE_DIR": STATE, "PATH": "/usr/bin:/bin"},
    down_mark=f"{STATE}/down",
    log=f"{STATE}/daemon.log",
)
PLAIN = Unit(
    name="cmesh",
    argv=("/bin/true", "daemon", "--service"),
    environment={"PATH": "/usr/bin"},
    down_mark="/tmp/state/down",
    log="/tmp/state/daemon.log",
)
TASK_ELEMENTS = {
    "Task": ["RegistrationInfo", "Triggers", "Principals", "Settings", "Actions"],
    "RegistrationInfo": ["Description"],
    "Triggers": ["LogonTrigger"],
    "LogonTrigger": ["Enabled"],
    "Principals": ["Principal"],
    "Principal": ["LogonType", "RunLevel"],
    "Settings": [
        "MultipleInstancesPolicy",
        "DisallowStartIfOnBatteries",
        "StopIfGoingOnBatteries",
        "ExecutionTimeLimit",
        "RestartOnFailure",
    ],
    "RestartOnFailure": ["Interval", "Count"],
    "Actions": ["Exec"],
    "Exec": ["Command", "Arguments"],
}
"""By "Task Scheduler Schema Elements": each element with the children that it may have here."""

HARDENING = (
    "RestrictNamespaces", "SystemCallFilter", "PrivateUsers", "ProtectKernelTunables", "NoNewPriv",
    "ProtectProc", "PrivateTmp", "RestrictAddressFamilies", "ProtectSystem", "LockPersonality",
)  # fmt: skip


def value(text: str, key: str) -> str:
    [found] = [line for line in text.splitlines() if line.startswith(f"{key}=")]
    return found.partition("=")[2]


def test_both_ends_know_the_same_status_of_a_hand_over() -> None:
    assert HANDED_OVER == THE_DAEMON_S


def test_a_unit_file_says_what_keeps_tasks_alive_and_nothing_that_weakens_a_sandbox() -> None:
    text = systemd.unit_text(UNIT)
    assert value(text, "KillMode") == "process"
    assert value(text, "OOMPolicy") == "continue"
    assert value(text, "RestartForceExitStatus") == "75"
    assert not [word for word in HARDENING if word in text]


def test_odd_paths_come_out_of_systemd_s_quoting_as_they_went_in() -> None:
    text = systemd.unit_text(UNIT)
    # systemd takes `%%` and `$$` for one; the rest is a shell's quoting here.
    line = value(text, "ExecStart").replace("%%", "%").replace("$$", "$")
    words = shlex.split(line.replace("\\$", "$"))
    assert words[:3] == ["/usr/bin/env", "-i", "XDG_RUNTIME_DIR=%t"]
    assert words[3:5] == [f"CMESH_STATE_DIR={STATE}", "PATH=/usr/bin:/bin"]
    assert tuple(words[5:]) == UNIT.argv
    assert value(text, "ConditionPathExists") == f"!{STATE}/down".replace("%", "%%")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_itself_finds_nothing_wrong(tmp_path: Path) -> None:
    file = tmp_path / "cmesh.service"
    file.write_text(systemd.unit_text(PLAIN), "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(file)],
        capture_output=True, text=True, check=False, timeout=30,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "cmesh.service" in line]
    assert not said, done.stderr


@pytest.mark.parametrize("character", ["\n", "\r", "\0"])
def test_what_no_unit_file_can_hold_is_refused(character: str) -> None:
    with pytest.raises(ServiceFailed):
        Unit(name="cmesh", argv=(f"/a{character}b",), environment={}, down_mark="/d", log="/l")


def test_an_agent_of_launchd_abandons_its_process_group() -> None:
    read = plistlib.loads(launchd.plist_text(UNIT).encode())
    assert read["AbandonProcessGroup"] is True
    assert read["KeepAlive"] == {"SuccessfulExit": False}
    assert read["ProgramArguments"][:2] == ["/usr/bin/env", "-i"]
    assert tuple(read["ProgramArguments"][4:]) == UNIT.argv
    assert f"CMESH_STATE_DIR={STATE}" in read["ProgramArguments"]
    assert read["Umask"] == 0o077
    assert launchd.plist_file("cmesh", Path("/h")).stem == read["Label"]


def test_a_windows_task_has_known_elements_in_order() -> None:
    root = Tree.fromstring(windows_task.task_text(UNIT))
    space = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
    for element in root.iter():
        children = [child.tag.removeprefix(space) for child in element]
        assert children == TASK_ELEMENTS.get(element.tag.removeprefix(space), [])
    assert root.findtext(f".//{space}Command") == UNIT.argv[0]
    assert root.findtext(f".//{space}ExecutionTimeLimit") == "PT0S"
    assert root.findtext(f".//{space}DisallowStartIfOnBatteries") == "false"


def test_names_are_apart_for_each_state_directory() -> None:
    default = Path("/home/me/.local/state/cmesh")
    names = [unit_name(Path(path), default) for path in (str(default), "/other", "/third")]
    assert names[0] == "cmesh"
    assert len(set(names)) == 3
    assert all(is_unit_name(name) for name in names)
    assert not is_unit_name("cmesh; rm -rf /")


def test_what_managers_print_is_read(tmp_path: Path) -> None:
    shown = (
        "UnitFileState=enabled\nActiveState=active\nSubState=running\nMainPID=42\nResult=success"
    )
    stands = systemd.standing(shown, linger=tmp_path)
    assert (stands.enabled, stands.active, stands.pid, stands.lingers) == (True, True, 42, False)
    assert not systemd.standing("").active
    stands = launchd.standing("\tstate = running\n\tpid = 77\n")
    assert (stands.enabled, stands.active, stands.pid) == (True, True, 77)
    assert not launchd.standing("").enabled
    stands = windows_task.standing('"\\cmesh","N/A","Running"\r\n')
    assert (stands.enabled, stands.active) == (True, True)
    assert not windows_task.standing("").enabled


def test_each_plan_begins_with_the_file_and_each_removal_takes_it_away() -> None:
    file = Path("/f")
    plans: list[tuple[list[Change], list[Change]]] = [
        (systemd.changes(UNIT, file, linger=True), systemd.removal("cmesh", file)),
        (launchd.changes(UNIT, file, uid=5), launchd.removal("cmesh", file, uid=5)),
        (windows_task.changes(UNIT, file), windows_task.removal("cmesh", file)),
    ]
    for made, removed in plans:
        assert made[0].label == "write /f"
        assert [step.label for step in removed if step.path] == ["remove /f"]
    assert plans[0][0][-1].label == "run loginctl enable-linger"
