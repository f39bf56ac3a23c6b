"""What this machine is: system, processors, memory, tools, graphics. Blocks; for a thread.

Tools are found as a login shell finds them, and asked for their version once for each state of
their file. What cannot be found out is left out, never guessed.
"""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cmesh.protocol.machine import GPUS_MOST, TOOLS, Machine
from cmesh.runner.programs import Programs
from cmesh.text import one_line

__all__ = ["Surveyor", "version_number"]

TOOL_LIMIT_S = 5.0
"""How long one tool may take to say its version."""

GPU_LIMIT_S = 5.0

_SYSTEMS = {"Darwin": "macos"}
_ARCHES = {"amd64": "x86_64", "AMD64": "x86_64", "arm64": "aarch64", "ARM64": "aarch64"}
_ASKED_BY = {"go": ("version",)}  # all others know --version
_NAMES = {"python": ("python3", "python")}
_NUMBER = re.compile(r"(?<![\w.])v?(\d[\w.+~-]{0,60})|(?<=go)(\d[\w.]{0,60})", re.ASCII)
_NO_WORD = re.compile(r"[^A-Za-z0-9._+-]+")
_VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}


class Surveyor:
    """Looks at this machine; remembers what is slow to ask. One thread at a time."""

    def __init__(self) -> None:
        self._programs = Programs()
        self._gpus: tuple[tuple[str, ...], str] = ((), "")
        self._asked = False

    def look(self, *, whole: bool) -> Machine:
        """Return all about the machine but runners and labels.

        With `whole`, and the first time, the login shell and the graphics processors are asked
        anew: up to about a minute where programs hang. Otherwise only a tool whose file has
        changed is asked.
        """
        if whole or not self._asked:
            if self._asked:
                self._programs = Programs()
            self._gpus = _gpus(self._programs)
            self._asked = True
        gpus, by = self._gpus
        return _system().model_copy(
            update={"tools": self._tools(), "gpus": gpus[:GPUS_MOST], "gpu_by": by}
        )

    def _tools(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for tool in TOOLS:
            programs = (self._programs.find(name) for name in _NAMES.get(tool, (tool,)))
            program = next((one for one in programs if one), "")
            if program:
                found[tool] = self._version(tool, program)
        return found

    def _version(self, tool: str, program: str) -> str:
        arguments = _ASKED_BY.get(tool, ("--version",))
        try:
            line = self._programs.version(program, arguments, _env(tool), limit_s=TOOL_LIMIT_S)
        except OSError:  # it goes just now
            return ""
        return version_number(line)


def version_number(line: str) -> str:
    """Return the version in what a program says of itself; empty = there is none.

    >>> version_number("git version 2.43.0")
    '2.43.0'
    """
    found = _NUMBER.search(line)
    return (found[1] or found[2]).rstrip(".+~-") if found else ""


def _env(tool: str) -> Mapping[str, str]:
    """Return what a tool needs to find itself: programs are asked in a home of their own."""
    if tool != "cargo":
        return {}
    home = Path("~").expanduser()
    return {"RUSTUP_HOME": str(home / ".rustup"), "CARGO_HOME": str(home / ".cargo")}


def _system() -> Machine:
    name, release = platform.system(), _os_release()
    version = release.get("VERSION_ID", "")
    if name == "Darwin":
        version = platform.mac_ver()[0]
    arch = platform.machine()
    return Machine(
        os=_SYSTEMS.get(name, _word(name.lower())),
        distribution=_word(release.get("ID", "")),
        os_version=_word(version),
        arch=_ARCHES.get(arch, _word(arch)),
        cpus=_cpus(),
        memory=_memory(),
    )


def _word(text: str) -> str:
    """Return a text in the form that a peer takes."""
    return _NO_WORD.sub("-", text).strip("-._+")[:60]


def _os_release() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _cpus() -> int | None:
    """Return how many processors this process may use (sched_setaffinity(2))."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count()


def _memory() -> int | None:
    """Return the bytes of memory there are, or that this process's control groups leave it."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    return min([there, *_limits()])


def _limits() -> list[int]:
    """Return the limits of the control groups around this process (cgroup v2, `memory.max`)."""
    try:
        lines = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return []
    own = next((line[3:] for line in lines if line.startswith("0::")), "")
    found: list[int] = []
    place = Path("/sys/fs/cgroup" + own)
    for group in (place, *place.parents) if own else ():
        try:
            text = (group / "memory.max").read_text("utf-8").strip()
        except OSError:
            continue
        if text.isdecimal():
            found.append(int(text))
    return found


def _gpus(programs: Programs) -> tuple[tuple[str, ...], str]:
    """Return the graphics processors, and how they are known."""
    smi = programs.find("nvidia-smi")
    if smi:
        names = _ask_nvidia(smi, programs.search_path)
        if names:
            return names, "nvidia-smi"
    nodes = sorted(Path("/dev/dri").glob("renderD*"))
    return tuple(_vendor(node.name) for node in nodes), "/dev/dri" if nodes else ""


def _ask_nvidia(program: str, search_path: str) -> tuple[str, ...]:
    try:
        answer = subprocess.run(  # noqa: S603 - found where the owner's login shell looks
            [program, "--query-gpu=name", "--format=csv,noheader"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GPU_LIMIT_S,
            check=True,
            cwd="/",
            env={"PATH": search_path},
        )
    except (OSError, subprocess.SubprocessError):
        return ()  # the program alone is no graphics processor
    lines = answer.stdout.decode("utf-8", "replace").splitlines()
    return tuple(one_line(line, 80) for line in lines if line.strip())


def _vendor(node: str) -> str:
    try:
        vendor = Path(f"/sys/class/drm/{node}/device/vendor").read_text("utf-8").strip()
    except OSError:
        return node
    return f"{_VENDORS.get(vendor, _word(vendor))} {node}"
