"""Installs a release in a bare Debian and lets a task be delegated there, as a new user would.

    python scripts/bare_trial.py DIST

The Debian has Python with venv, bubblewrap, git and nothing else; it is made once, in
.cache/release. The wheels of the dependencies come from the package index, as for a user.
Prints what each step took. Needs root, mmdebstrap, unshare and pivot_root.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEBIAN = ROOT / ".cache" / "release" / "bare"
PACKAGES = "python3,python3-venv,ca-certificates,bubblewrap,git"
USER, UID = "trial", 4711
HOME = Path("/home") / USER
# What of this machine leads to the package index.
PASSED = ("PIP_", "HTTP", "http", "NO_PROXY", "no_proxy", "SSL_CERT")
LIMIT_S = 900
# A chroot would not do: the kernel gives no user namespace to a process in one.
ENTER = """
set -e
cd "$1"
shift
mount --bind . .
cd "$PWD"
mount --rbind /dev dev
mount -t proc proc proc
mkdir -p outside
pivot_root . outside
umount -l /outside
exec "$@"
"""


def main(arguments: Sequence[str]) -> int:
    """Run the trial; 0 = the task was delegated and its answer came back."""
    [dist] = map(Path, arguments)
    if os.geteuid() != 0 or not all(map(shutil.which, ("mmdebstrap", "unshare", "pivot_root"))):
        sys.exit(
            "bare_trial: this needs root, mmdebstrap, unshare and pivot_root\nhint: apt-get install mmdebstrap util-linux"
        )
    if not (DEBIAN / "etc").exists():
        _timed(
            "a bare Debian",
            ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(DEBIAN)],
        )
    _furnish(dist)
    began = time.monotonic()
    _timed("install.sh", _inside("sh", "/release/install.sh", "--no-agents"))
    _timed("cmesh version", _inside(f"{HOME}/.local/bin/cmesh", "version"))
    told = json.loads(
        _timed("cmesh demo", _inside(f"{HOME}/.local/bin/cmesh", "demo", "--json"), quiet=True)
    )
    took = time.monotonic() - began
    print(f"from the release to a delegated answer, and its audit: {took:.1f} s")
    facts = [fact for step in told["steps"] for fact in step["facts"]]
    print("held by: " + next(fact["text"] for fact in facts if fact["label"] == "held by"))
    return 0


def _furnish(dist: Path) -> None:
    """Put the release, a user with an empty home, and the way to the index into the tree."""
    passwd = DEBIAN / "etc" / "passwd"
    if f"\n{USER}:" not in passwd.read_text("utf-8"):
        with passwd.open("a", encoding="utf-8") as file:
            file.write(f"{USER}:x:{UID}:{UID}::{HOME}:/bin/bash\n")
    home = DEBIAN / HOME.relative_to("/")
    for place in (home, DEBIAN / "release"):
        shutil.rmtree(place, ignore_errors=True)
    home.mkdir(parents=True)
    os.chown(home, UID, UID)
    shutil.copytree(dist, DEBIAN / "release")
    for name in (
        "etc/resolv.conf",
        "etc/hosts",
        "etc/pip.conf",
        "etc/ssl/certs/ca-certificates.crt",
    ):
        if (source := Path("/") / name).exists():
            shutil.copyfile(source, DEBIAN / name)


def _inside(*command: str) -> list[str]:
    """Return the command line that runs a command in the tree, as its user, by pivot_root."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    kept.pop("PIP_FIND_LINKS", None)
    kept |= {"HOME": str(HOME), "PATH": "/usr/bin:/bin", "SHELL": "/bin/bash", "LANG": "C.UTF-8"}
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"]
    argv += [str(DEBIAN), "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    variables = [f"{name}={value}" for name, value in kept.items()]
    return [*argv, "--inh-caps=-all", "env", "-i", *variables, *command]


def _timed(what: str, argv: Sequence[str], *, quiet: bool = False) -> str:
    began = time.monotonic()
    output = subprocess.PIPE if quiet else None
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=output, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode:
        sys.exit(
            f"bare_trial: {what} failed with {done.returncode}: {done.stdout or 'see the lines above'}"
        )
    print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)
    return done.stdout or ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
