"""A real `systemd --user` for tests: as an ordinary user, in a control group of its own."""

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.system.daemon.machine import as_user

LIMIT_S = 20.0
POLL_S = 0.05
# systemd looks whether it is the machine's: in a mount namespace of ours it may find so.
_START = """
set -e
mkdir -p /run/systemd
mount -t tmpfs tmpfs /run/systemd
mkdir /run/systemd/system
for group in "$@"; do echo $$ > "$group/cgroup.procs"; done
exec setpriv --reuid "$USER_ID" --regid "$GROUP_ID" --clear-groups \
    systemd --user --log-target=console --unit=basic.target
"""


def hierarchies() -> list[Path]:
    """Return where control groups are made: one place, or two where the old way is there too."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [place for place in (root / "systemd", root / "unified") if place.is_dir()]


@contextlib.contextmanager
def user_manager(base: Path, user: pwd.struct_passwd) -> Generator[Path]:
    """Run a manager of `user`'s units with home `base`; yields its runtime directory.

    Skips where that cannot be: not root, no systemd, or no control groups to write.
    """
    needed = ("systemd", "systemctl", "unshare", "setpriv")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"no systemd to start here: {', '.join(missing) or 'not root'}")
    runtime = base / "run"
    runtime.mkdir(mode=0o700)
    groups = [place / f"cmesh-test-{os.getpid()}-{base.name}" for place in hierarchies()]
    try:
        for group in groups:
            group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    for path in (base, runtime, *groups, *(one / "cgroup.procs" for one in groups)):
        os.chown(path, user.pw_uid, user.pw_gid)
    with (base / "systemd.log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _START, "sh",
             *map(str, groups)],
            env={
                "PATH": os.environ["PATH"], "HOME": str(base), "XDG_RUNTIME_DIR": str(runtime),
                "USER_ID": str(user.pw_uid), "GROUP_ID": str(user.pw_gid),
            },
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_ready(process, runtime, base)
        yield runtime
    finally:
        process.terminate()
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _end(groups)


def systemctl(
    runtime: Path, user: pwd.struct_passwd, *words: str, check: bool = True
) -> "subprocess.CompletedProcess[str]":
    """Run `systemctl --user` as the user."""
    return subprocess.run(
        ["systemctl", "--user", *words],
        env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(runtime)},
        capture_output=True, text=True, check=check, timeout=LIMIT_S * 2, **as_user(user),
    )  # fmt: skip


def _wait_ready(process: "subprocess.Popen[bytes]", runtime: Path, base: Path) -> None:
    private = runtime / "systemd" / "private"
    for _ in range(int(LIMIT_S / POLL_S)):
        if private.exists():
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)
            break
    pytest.fail((base / "systemd.log").read_text("utf-8", "replace"))


def _end(groups: list[Path]) -> None:
    """End what is left in the groups, and only that; then take them away."""
    for group in groups:
        for _ in range(int(LIMIT_S / POLL_S)):
            pids = [
                int(pid)
                for file in group.rglob("cgroup.procs")
                for pid in file.read_text("ascii").split()
            ]
            if not pids:
                break
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
        for place in sorted(group.rglob("*"), reverse=True):
            if place.is_dir():
                with contextlib.suppress(OSError):
                    place.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
