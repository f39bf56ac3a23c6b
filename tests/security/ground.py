"""Runs the escape attempts under one tier through the real supervisor, and judges from outside.

A program: `python -m tests.security.ground BASE TIER` makes a user's machine in BASE, runs one
task there, and prints as JSON which attempts got through. Runs as the user that tasks run as.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cmesh.model import Profile, TaskId
from cmesh.policy.profiles import BUILT_IN
from cmesh.runner.confine import Sandboxes
from cmesh.runner.evidence import Exit
from cmesh.runner.launch import Launch
from cmesh.runner.programs import Needs
from cmesh.runner.supervise import Supervisor
from cmesh.sandbox.landlock import KNOWN_ABI, supported_abi
from cmesh.sandbox.tier import Enforcement

__all__ = ["PYTHON", "TIERS", "main"]

PYTHON = "/usr/bin/python3"
RUN_LIMIT_S = 110
LEFT_LOOKS, LEFT_PAUSE_S = 100, 0.1
ABI = min(supported_abi(), KNOWN_ABI)
TIERS: Mapping[int, Enforcement] = {
    3: Enforcement(landlock_abi=ABI, bwrap=True, seccomp=True, netns=True),
    2: Enforcement(landlock_abi=ABI, seccomp=True),
    1: Enforcement(bwrap=True, seccomp=True, netns=True),
    0: Enforcement(),
}
OUTER = (3, 1)
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Ground:
    """One user's machine: a home, cmesh's state in it, a directory for the task."""

    base: Path
    mark: str

    @property
    def home(self) -> Path:
        return self.base / "owner"

    @property
    def directory(self) -> Path:
        return self.home / "app"

    def make(self) -> None:
        secret = f"secret of {self.mark}\n"
        for name in (".ssh/id_rsa", ".ssh/movable", ".aws/credentials", ".config/gh/hosts.yml",
                     "state/key", "state/store", "state/victims_store", "state/tasks/another/stdout",
                     "config/config.toml", "secret", "../other/secret"):  # fmt: skip
            self._write(name, secret)
        for name in (".bashrc", ".git/hooks/x", ".git/config", ".claude/x"):
            self._write(name if name == ".bashrc" else f"app/{name}", "# empty\n")
        self._write("app/note", "a note\n")
        (self.directory / "link").symlink_to("../secret")
        (self.home / ".config/systemd/user").mkdir(parents=True)
        (self.home / "state/victims").mkdir()
        shutil.copy(HERE / "inside.py", self.directory)
        for private in (".ssh", "state", "state/victims", "state/tasks"):
            (self.home / private).chmod(0o700)
        os.utime(self.home / ".bashrc", (1000, 1000))
        os.utime(self.directory / "note", (1000, 1000))

    def facts(self, victim: Mapping[str, object], *, alone: bool) -> dict[str, object]:
        return {
            **victim,
            "home": str(self.home),
            "other_home": str(self.base / "other"),
            "state": str(self.home / "state"),
            "victims_state": str(self.home / "state/victims"),
            "config": str(self.home / "config"),
            "secret": f"secret of {self.mark}",
            "setuid": str(self.base / "setuid"),
            "mark": self.mark,
            "alone": alone,
        }

    def judges(self, seen: Mapping[str, Any]) -> dict[str, Callable[[], bool]]:
        """Return, by attempt, how its effect shows outside; these have the last word."""
        home, app, mark = self.home, self.directory, self.mark
        judges: dict[str, Callable[[], bool]] = {
            "write_a_file_in_the_home": (home / "write_a_file_in_the_home").exists,
            "append_to_bashrc": lambda: "append" in (home / ".bashrc").read_text(),
            "write_a_systemd_unit": lambda: any((home / ".config/systemd/user").iterdir()),
            "truncate_the_store": lambda: not (home / "state/victims_store").stat().st_size,
            "move_a_file_out": (home / "move_a_file_out").exists,
            "move_a_secret_in": lambda: not (home / ".ssh/movable").exists(),
            "write_in_the_directory": (app / "write_in_the_directory").exists,
            "change_a_file_of_the_directory": lambda: "change" in (app / "note").read_text(),
            "write_a_git_hook": (app / ".git/hooks/post-checkout").exists,
            "change_the_git_configuration": lambda: "core" in (app / ".git/config").read_text(),
            "write_claude_settings": (app / ".claude/settings.json").exists,
            "write_mcp_servers": (app / ".mcp.json").exists,
            "write_claude_md": (app / "CLAUDE.md").exists,
            "write_through_the_descriptor_of_the_directory": (app / "written").exists,
            "write_in_shared_memory": Path(f"/dev/shm/{mark}-shm").exists,
            "write_in_the_shared_tmp": Path(f"/tmp/{mark}-tmp").exists,
            "write_a_cron_job": Path(f"/etc/cron.d/{mark}").exists,
            "set_the_host_name": lambda: socket.gethostname() == "escaped",
            "signal_everybody": lambda: bool(seen["signals"]),
            "signal_by_input": lambda: bool(seen["signals"]),
            "limit_a_process": lambda: seen["limited"],
            "renice_a_process": lambda: seen["reniced"],
            "bind_a_process_to_a_cpu": lambda: seen["bound"],
            "set_the_io_priority_of_a_process": lambda: seen["priority"],
            "open_the_ssh_directory_to_all": lambda: _mode(home / ".ssh") != 0o700,
            "close_the_state_directory": lambda: _mode(home / "state/victims") != 0o700,
            "change_a_mode_in_the_directory": lambda: _mode(app / "note") == 0o777,
            "change_the_time_of_a_file": lambda: (home / ".bashrc").stat().st_mtime != 1000,
            "change_the_time_of_a_file_in_the_directory": lambda: (
                (app / "note").stat().st_mtime != 1000
            ),
            "set_an_attribute": lambda: bool(os.listxattr(home / ".bashrc")),
        }
        for name in SOCKETS:
            judges[name] = lambda name=name: name in seen["heard"]
        return judges

    def _write(self, name: str, text: str) -> None:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


SOCKETS = (
    "connect_to_a_unix_socket", "connect_to_an_abstract_socket",
    "send_a_datagram_to_a_unix_socket", "send_from_a_pair_of_datagram_sockets",
    "connect_to_a_loopback_port", "connect_to_a_loopback_port_by_ipv6",
    "connect_with_multipath_tcp", "connect_with_the_first_data",
    "connect_with_the_first_data_of_a_message",
    "connect_to_the_allowed_port_at_another_address", "connect_to_the_allowed_port_of_the_machine",
    "connect_to_the_machines_own_address", "listen_on_a_port", "send_udp", "send_udp_by_ipv6",
)  # fmt: skip


def main() -> None:
    """Run one task with all attempts under a tier, and print what came of it."""
    base, tier = Path(sys.argv[1]), int(sys.argv[2])
    if tier == 0 and os.getuid() == 0:
        sys.exit("without a sandbox, root would change this machine")
    ground = Ground(base, f"cmesh-{uuid.uuid4().hex[:12]}")
    ground.make()
    with subprocess.Popen(
        [sys.executable, str(HERE / "victim.py"), str(base), ground.mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"TOKEN": f"secret of {ground.mark}"},
        cwd=ground.home,
    ) as victim:
        assert victim.stdin is not None
        assert victim.stdout is not None
        offered: dict[str, Any] = json.loads(victim.stdout.readline())
        facts = ground.facts(offered, alone=tier in OUTER)
        (ground.directory / "facts.json").write_text(json.dumps(facts))
        said, exit_, left = asyncio.run(_run(ground, TIERS[tier], cast("int", offered["allowed"])))
        os.kill(victim.pid, signal.SIGCONT)
        victim.stdin.close()
        seen = json.loads(victim.stdout.read() or '{"heard": [], "signals": 1, "limited": true, '
                          '"reniced": true, "bound": true, "priority": true}')  # fmt: skip
    for name, judge in ground.judges(seen).items():
        said[name]["through"] = judge()
    said["outlive_the_task"]["through"] = left > 0
    print(json.dumps({"attempts": said, "exit": exit_.exit_code, "error": exit_.error,
                      "enforcement": exit_.enforcement, "heard": seen["heard"]}))  # fmt: skip


async def _run(
    ground: Ground, found: Enforcement, allowed: int
) -> tuple[dict[str, dict[str, Any]], Exit, int]:
    news = asyncio.Event()
    supervisor = Supervisor(ground.home / "state/tasks", on_change=lambda _task: news.set())
    sandboxes = Sandboxes((ground.home / "state", ground.home / "config"), lambda: found)
    await sandboxes.find()
    task_id = TaskId(str(uuid.uuid4()))
    own = supervisor.directory(task_id)
    launch = Launch(
        argv=(PYTHON, "-I", "-S", "inside.py", "facts.json"),
        cwd=str(ground.directory),
        env={"PATH": os.defpath, "HOME": f"{own}/home", "TMPDIR": f"{own}/tmp"},
        stdin=b"",
        runtime_s=RUN_LIMIT_S,
        output_bytes=1_000_000,
        # Where bubblewrap may not start there are no PID namespaces either.
        containment="pid_namespace" if found.bwrap else "best_effort",
    )
    needs = Needs(read=(str(ground.base / "setuid"),))
    if found.tier:
        launch = sandboxes.confine(launch, BUILT_IN[Profile.QUERY], needs)
        # The one port of a task that has a relay, which is not what is tried here.
        rules: dict[str, Any] = cast("Any", launch.sandbox)["order"]["landlock"] or {}
        rules["ports"] = [allowed]
    await supervisor.start()
    supervisor.prepare(task_id, launch)
    await supervisor.spawn(task_id)
    async with asyncio.timeout(RUN_LIMIT_S + 10):
        while (exit_ := supervisor.look(task_id).exit) is None:
            news.clear()
            if supervisor.look(task_id).exit is None:
                await news.wait()
    left = await _left(supervisor, task_id)
    out = supervisor.read_spool(task_id, 0, 1_000_000).decode()
    errors = supervisor.read_spool(task_id, 0, 10_000, stream="stderr").decode()
    assert not errors, errors
    await supervisor.close()
    lines = [json.loads(line) for line in out.splitlines()]
    return {line.pop("name"): line for line in lines}, exit_, left


async def _left(supervisor: Supervisor, task_id: TaskId) -> int:
    """Count the task's processes once the shim, and the kernel behind it, are through."""
    left = 0
    for _ in range(LEFT_LOOKS):
        left = supervisor.count_processes(task_id)
        if not left:
            break
        await asyncio.sleep(LEFT_PAUSE_S)
    return left


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


if __name__ == "__main__":
    main()
