"""An sshd made for the benchmark, and a warm master connection to it.

Own host key and configuration, loopback, PAM off, an account whose shell is `/bin/sh` where
root may make one. Touches nothing of the machine's own ssh.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

__all__ = ["SshMissing", "ssh_master"]

ACCOUNT = "cmesh-bench"
START_LIMIT_S = 10.0
STOP_LIMIT_S = 5.0
POLL_S = 0.02


class SshMissing(Exception):
    """There is no ssh or sshd to compare with; the message says what to install."""


@contextlib.contextmanager
def ssh_master() -> Generator[Sequence[str]]:
    """Yield the argv that runs `true` through a warm master connection.

    Raises:
        SshMissing: a program is missing, or sshd does not start.
    """
    programs = [shutil.which(name, path=_search_path()) for name in ("sshd", "ssh", "ssh-keygen")]
    sshd, ssh, keygen = programs
    if sshd is None or ssh is None or keygen is None:
        raise SshMissing("apt-get install openssh-server openssh-client")
    account = _account()
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd separates privileges there
    with tempfile.TemporaryDirectory(prefix="cmesh-bench-ssh-") as name:
        base = Path(name)
        base.chmod(0o755)  # sshd reads the key's file as the account it logs in
        yield from _serve((sshd, ssh, keygen), base, account)


def _serve(programs: tuple[str, str, str], base: Path, account: str) -> Generator[Sequence[str]]:
    sshd, ssh, keygen = programs
    for name in ("host", "user"):
        argv = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(base / name)]
        subprocess.run(argv, check=True)
    port = _free_port()
    (base / "config").write_text(_config(base, port), "utf-8")
    for name in ("user.pub", "config"):
        (base / name).chmod(0o644)
    log = base / "log"
    argv = [sshd, "-D", "-f", str(base / "config"), "-E", str(log)]
    server = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        _await_port(server, port, log)
        yield from _with_master(ssh, base, port, account)
    finally:
        server.terminate()
        server.wait(STOP_LIMIT_S)


def _with_master(ssh: str, base: Path, port: int, account: str) -> Generator[Sequence[str]]:
    options = ["-F", "/dev/null", "-S", str(base / "control"), "-p", str(port)]
    quiet = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    login = [*quiet, "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-i", str(base / "user")]
    target = f"{account}@127.0.0.1"
    argv = [ssh, *options, *login, "-M", "-N", "-f", target]
    done = subprocess.run(
        argv,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=START_LIMIT_S,
    )
    if done.returncode:
        raise SshMissing("the master connection could not log in: see its words above")
    try:
        yield [ssh, *options, target, "true"]
    finally:
        subprocess.run([ssh, *options, "-O", "exit", target], check=False, capture_output=True)


def _config(base: Path, port: int) -> str:
    lines = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": base / "host",
        "AuthorizedKeysFile": base / "user.pub",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "PrintMotd": "no",
        "PrintLastLog": "no",
    }
    return "".join(f"{key} {value}\n" for key, value in lines.items())


def _account() -> str:
    """Return who logs in: this user, or as root an ordinary one whose shell is `/bin/sh`."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid()).pw_name
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(ACCOUNT).pw_name
    argv = ["useradd", "--system", "--no-create-home", "--home-dir", "/", "--shell", "/bin/sh"]
    # No password fits `*`; the default `!` would lock the account, and sshd refuses those.
    subprocess.run([*argv, "--password", "*", ACCOUNT], check=True, capture_output=True)
    return ACCOUNT


def _await_port(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(POLL_S)
    raise SshMissing(f"sshd does not serve: {log.read_text('utf-8').strip()[-300:]}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _search_path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
