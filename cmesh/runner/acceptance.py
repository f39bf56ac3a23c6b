"""The acceptance command of a task: what to start for it, in a sandbox as its agent's.

What stands in it is planned before the agent begins, and kept where no agent can write.
"""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cmesh.errors import TaskRefused
from cmesh.runner.command import DEFAULT_LANG
from cmesh.runner.launch import Launch
from cmesh.runner.programs import Needs, Programs, needs_of
from cmesh.sandbox.plan import plan
from cmesh.sandbox.profile import SandboxSpec, is_below
from cmesh.sandbox.tier import Enforcement

__all__ = ["PLACES", "Command", "command_of", "record"]

PLACES = ("accept", "accept/home", "accept/tmp")
"""Directories in the task's own that are the command's; no agent sees them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run.

    Attributes:
        argv: as the caller gave it, the program by its absolute path unless it is the tree's.
        search_path: its `PATH`: the owner's.
        needs: what must be there to read for the program.
    """

    argv: tuple[str, ...]
    search_path: str
    needs: Needs


def command_of(argv: Sequence[str], directory: str, programs: Programs) -> Command:
    """Return what to run for an acceptance command in a directory. Blocks on the disk.

    A name is looked for on the owner's `PATH`, now: what a task puts there later is not it. A
    path with a `/` that is relative, or lies in the directory, is a program of the tree.

    Raises:
        TaskRefused: there is no such program on this machine.
    """
    name = argv[0]
    search_path = programs.search_path
    if "/" in name and is_below(posixpath.normpath(posixpath.join(directory, name)), [directory]):
        return Command(argv=tuple(argv), search_path=search_path, needs=Needs())
    program = programs.find(name)
    if not program:
        raise TaskRefused(
            f"the acceptance command's program `{name}` is not on the worker",
            hint="its owner installs it there, or lists another command in the rule's `accept`",
        )
    return Command(
        argv=(program, *argv[1:]), search_path=search_path, needs=needs_of(program, search_path)
    )


def record(
    command: Command,
    launch: Launch,
    agents: SandboxSpec,
    found: Enforcement,
) -> Mapping[str, object]:
    """Return the launch record of a command; JSON values only.

    Args:
        command: what to run.
        launch: what is started for the agent, complete.
        agents: the agent's sandbox, of which the places to write and the way out are not taken.
        found: what holds it.

    Raises:
        SandboxUnavailable: nothing here can hold it.
    """
    task = str(Path(agents.home).parent)
    home, tmp = (f"{task}/{place}" for place in PLACES[1:])
    spec = replace(
        agents,
        home=home,
        tmp=tmp,
        write=(),
        read=(*agents.read, *command.needs.read),
        links=(*agents.links, *command.needs.links),
        port=None,
    )
    env = {"PATH": command.search_path, "LANG": DEFAULT_LANG, "HOME": home, "TMPDIR": tmp}
    # Where only Landlock holds it git would stop at files of `/etc` that it may not read.
    env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1"} if spec.copy else {}
    return {
        "argv": command.argv,
        "cwd": launch.cwd,
        "judged": launch.judged,
        "env": env,
        "sandbox": plan(spec, found),
    }
