"""The daemon as a task of the Windows Task Scheduler (its "Task Scheduler Schema", version 1.2).

Written from Microsoft's description of the elements. The daemon itself does not run on Windows
yet, so this is the form only: nobody has registered it.
"""

import subprocess
from pathlib import Path
from xml.etree import ElementTree as Tree

from cmesh.setup.service.unit import Change, Standing, Unit

__all__ = ["changes", "removal", "standing", "start", "status", "task_file", "task_text"]

_SPACE = "http://schemas.microsoft.com/windows/2004/02/mit/task"


def task_file(name: str, state: Path) -> Path:
    """Return where the task's description is kept; the scheduler has a copy of its own."""
    return state / f"{name}-task.xml"


def task_text(unit: Unit) -> str:
    """Return the task's description; it gets its user's environment, which tasks do not see."""
    task = Tree.Element("Task", {"version": "1.2", "xmlns": _SPACE})
    about = Tree.SubElement(task, "RegistrationInfo")
    Tree.SubElement(about, "Description").text = "cmesh daemon"
    trigger = Tree.SubElement(Tree.SubElement(task, "Triggers"), "LogonTrigger")
    Tree.SubElement(trigger, "Enabled").text = "true"
    who = Tree.SubElement(Tree.SubElement(task, "Principals"), "Principal", {"id": "Author"})
    Tree.SubElement(who, "LogonType").text = "InteractiveToken"
    Tree.SubElement(who, "RunLevel").text = "LeastPrivilege"
    _settings(Tree.SubElement(task, "Settings"))
    run = Tree.SubElement(Tree.SubElement(task, "Actions", {"Context": "Author"}), "Exec")
    Tree.SubElement(run, "Command").text = unit.argv[0]
    Tree.SubElement(run, "Arguments").text = subprocess.list2cmdline(unit.argv[1:])
    Tree.indent(task)
    return Tree.tostring(task, encoding="unicode") + "\n"


def changes(unit: Unit, file: Path) -> list[Change]:
    """Return what makes the scheduler keep the task, and start it now."""
    return [
        Change(path=file, write=task_text(unit)),
        Change(argv=("schtasks", "/Create", "/F", "/TN", unit.name, "/XML", str(file))),
        *(Change(argv=argv) for argv in start(unit.name)),
    ]


def removal(name: str, file: Path) -> list[Change]:
    """Return what ends the daemon and makes the scheduler forget it."""
    return [
        Change(argv=("schtasks", "/End", "/TN", name), may_fail=True),
        Change(argv=("schtasks", "/Delete", "/F", "/TN", name), may_fail=True),
        Change(path=file),
    ]


def start(name: str) -> list[tuple[str, ...]]:
    """Return the command that starts the task."""
    return [("schtasks", "/Run", "/TN", name)]


def status(name: str) -> tuple[str, ...]:
    """Return the command whose output `standing` reads."""
    return ("schtasks", "/Query", "/TN", name, "/FO", "CSV", "/NH")


def standing(shown: str) -> Standing:
    """Read what `status` printed; empty = there is no such task."""
    words = [word.strip('"') for word in shown.strip().split('","')]
    stands = words[-1].strip('"') if len(words) > 1 else ""
    return Standing(enabled=bool(stands), active=stands == "Running", detail=stands)


def _settings(settings: Tree.Element) -> None:
    for name, text in (
        ("MultipleInstancesPolicy", "IgnoreNew"),
        ("DisallowStartIfOnBatteries", "false"),
        ("StopIfGoingOnBatteries", "false"),
        ("ExecutionTimeLimit", "PT0S"),  # no limit
    ):
        Tree.SubElement(settings, name).text = text
    again = Tree.SubElement(settings, "RestartOnFailure")
    Tree.SubElement(again, "Interval").text = "PT1M"
    Tree.SubElement(again, "Count").text = "999"
