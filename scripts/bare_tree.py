"""A bare Debian in a folder, with a release in it, for trials: made once, entered by pivot_root.

It has Python with venv, bubblewrap, git and nothing else, and lies in .cache/release. Needs root,
mmdebstrap, unshare, nsenter and pivot_root.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEBIAN", "ENTER", "User", "as_user", "furnish", "make", "timed"]

ROOT = Path(__file__).resolve().parent.parent
DEBIAN = ROOT / ".cache" / "release" / "bare"
PACKAGES = "python3,python3-venv,ca-certificates,bubblewrap,git"
NEEDED = ("mmdebstrap", "unshare", "nsenter", "pivot_root")
# What of this machine leads to the package index.
PASSED = ("PIP_", "HTTP", "http", "NO_PROXY", "no_proxy", "SSL_CERT")
OF_THE_INDEX = (
    "etc/resolv.conf",
    "etc/hosts",
    "etc/pip.conf",
    "etc/ssl/certs/ca-certificates.crt",
)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An ordinary user of the tree."""

    name: str
    uid: int

    @property
    def home(self) -> Path:
        """The home directory, as the tree's own processes see it."""
        return Path("/home") / self.name


def make(who: str) -> None:
    """Make the tree if it is not there; `who` asks. Blocks for minutes at first."""
    if os.geteuid() != 0 or not all(map(shutil.which, NEEDED)):
        sys.exit(
            f"{who}: this needs root and {', '.join(NEEDED)}\nhint: apt-get install mmdebstrap util-linux"
        )
    if not (DEBIAN / "etc").exists():
        argv = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(DEBIAN)]
        timed(who, "a bare Debian", argv)


def furnish(dist: Path, users: Sequence[User]) -> None:
    """Put the release, users with empty homes, and the way to the index into the tree."""
    passwd = DEBIAN / "etc" / "passwd"
    places = [DEBIAN / user.home.relative_to("/") for user in users]
    for place in (*places, DEBIAN / "release"):
        shutil.rmtree(place, ignore_errors=True)
    for user, home in zip(users, places, strict=True):
        if f"\n{user.name}:" not in passwd.read_text("utf-8"):
            with passwd.open("a", encoding="utf-8") as file:
                file.write(f"{user.name}:x:{user.uid}:{user.uid}::{user.home}:/bin/bash\n")
        home.mkdir(parents=True)
        os.chown(home, user.uid, user.uid)
    shutil.copytree(dist, DEBIAN / "release")
    for name in OF_THE_INDEX:
        if (source := Path("/") / name).exists():
            shutil.copyfile(source, DEBIAN / name)


def as_user(user: User, command: Sequence[str], more: Mapping[str, str] | None = None) -> list[str]:
    """Return the command line that runs a command of the tree's as a user, in a clean environment."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    kept.pop("PIP_FIND_LINKS", None)
    kept |= {"HOME": str(user.home), "PATH": "/usr/local/bin:/usr/bin:/bin", "SHELL": "/bin/bash"}
    kept |= {"LANG": "C.UTF-8", **(more or {})}
    variables = [f"{name}={value}" for name, value in kept.items()]
    argv = ["setpriv", f"--reuid={user.uid}", f"--regid={user.uid}", "--clear-groups"]
    return [*argv, "--inh-caps=-all", "env", "-i", *variables, *command]


def timed(who: str, what: str, argv: Sequence[str], *, quiet: bool = False) -> str:
    """Run a command, print how long it took, and return its output; ends the program if it fails."""
    began = time.monotonic()
    output = subprocess.PIPE if quiet else None
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=output, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode:
        sys.exit(
            f"{who}: {what} failed with {done.returncode}: {done.stdout or 'see the lines above'}"
        )
    print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)
    return done.stdout or ""
