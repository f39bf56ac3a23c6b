"""Where cmesh keeps things on this machine, and who may touch them.

Standard library only and quick to import: `cmesh mcp` needs the control
socket's path before anything else is loaded.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from cmesh.errors import UnsafePermissions
from cmesh.platform import directories, files
from cmesh.platform.files import sync

__all__ = [
    "CONFIG_DIR_VARIABLE",
    "STATE_DIR_VARIABLE",
    "config_dir",
    "config_file",
    "control_socket",
    "daemon_environment",
    "data_dir",
    "default_state_dir",
    "ensure_private_dir",
    "git_environment",
    "key_file",
    "log_file",
    "login_environment",
    "login_file",
    "login_home",
    "named_variables",
    "program_link",
    "replace_file",
    "require_private_dir",
    "require_private_file",
    "state_dir",
    "sync",
]

CONFIG_DIR_VARIABLE = "CMESH_CONFIG_DIR"
STATE_DIR_VARIABLE = "CMESH_STATE_DIR"

# sockaddr_un.sun_path holds 108 bytes with its final NUL (Linux unix(7)); macOS has 104.
_SOCKET_PATH_BYTES = 100

# XDG_RUNTIME_DIR takes part in the control socket's path, so both ends need the same one.
_DAEMON_VARIABLES = (
    "LANG",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "CMESH_TESTNET",
)

_LOGIN_VARIABLES = (
    "PATH", "LANG", "LC_ALL", "TERM", "COLORTERM", "TZ",
    "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "BROWSER",
    "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy",
    "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS",
)  # fmt: skip

_GIT_PLACES = {
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
}


def config_dir() -> Path:
    """Return the directory of `config.toml`: the variable, else the platform's default."""
    return _named(CONFIG_DIR_VARIABLE) or directories.config(os.environ, Path.home())


def config_file() -> Path:
    """Return the path of `config.toml`; it need not exist."""
    return config_dir() / "config.toml"


def state_dir() -> Path:
    """Return the directory of the store, the node's state and the task directories."""
    return _named(STATE_DIR_VARIABLE) or directories.state(os.environ, Path.home())


def default_state_dir() -> Path:
    """Return what `state_dir` is where no variable names another one."""
    return directories.state({}, Path.home())


def data_dir() -> Path:
    """Return where the installer keeps environments and its record: the platform's default."""
    return directories.data(os.environ, Path.home())


def program_link() -> Path:
    """Return the path of `cmesh` that outlives upgrades: the installer's link, if it is there."""
    return directories.program(os.environ, Path.home())


def control_socket(state: Path) -> Path:
    """Return the control socket's path for a state directory.

    A path too long for a unix socket is replaced by a short one under the
    runtime directory, derived from the long one, so both ends agree.
    """
    path = state / "control.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return directories.runtime(os.environ) / f"cmesh-{digest}.sock"


def log_file(state: Path) -> Path:
    """Return the path of the daemon's log."""
    return state / "daemon.log"


def key_file(state: Path, runner: str) -> Path:
    """Return where `cmesh runners login` keeps a runner's key; it may not be there."""
    return state / "logins" / f"{runner}.key"


def login_file(state: Path, runner: str) -> Path:
    """Return where the daemon keeps the login of a runner's account; it may not be there."""
    return state / "logins" / f"{runner}.json"


def login_home(state: Path, runner: str) -> Path:
    """Return the home of an agent's own login, which is there as long as that takes."""
    return state / "logins" / f"{runner}.home"


def git_environment() -> dict[str, str]:
    """Return this process's environment without what names a repository.

    A hook or an alias that cmesh is run from may have set that, for another one.
    """
    return {name: value for name, value in os.environ.items() if name not in _GIT_PLACES}


def named_variables(names: Iterable[str]) -> dict[str, str]:
    """Return those of the named variables that are set, and not to nothing."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def daemon_environment(state: Path, config: Path) -> dict[str, str]:
    """Return the whole environment of a daemon, whoever starts it from wherever.

    What an agent's or a shell's environment holds besides, secrets above all,
    does not reach the daemon or its runners.
    """
    kept = {name: os.environ[name] for name in _DAEMON_VARIABLES if name in os.environ}
    fixed = {
        "PATH": os.environ.get("PATH") or os.defpath,
        "HOME": str(Path.home()),
        STATE_DIR_VARIABLE: str(state),
        CONFIG_DIR_VARIABLE: str(config),
    }
    return kept | fixed


def login_environment(home: Path) -> dict[str, str]:
    """Return the whole environment of an agent's own login at a terminal, in a home of its own.

    It holds what leads to a screen, a browser and the way out; no key or token of the owner's.
    """
    kept = {name: os.environ[name] for name in _LOGIN_VARIABLES if name in os.environ}
    return kept | {"HOME": str(home)}


def ensure_private_dir(path: Path) -> None:
    """Make `path` and its parents; the leaf gets mode 0700 and must be this user's.

    Raises:
        UnsafePermissions: the directory is a link, another user's, or open to others.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    _require(path, stat.S_IFDIR, 0o077)


def require_private_dir(path: Path) -> None:
    """Refuse a directory whose files grant authority unless it is this user's alone to write.

    Raises:
        UnsafePermissions: the directory is a link, another user's, or its mode is too wide.
    """
    _require(path, stat.S_IFDIR, 0o022)


def require_private_file(path: Path, *, secret: bool = False) -> None:
    """Refuse a file that grants authority unless it is this user's alone to write.

    With `secret` set, nobody else may read it either (mode 0600 or less).

    Raises:
        UnsafePermissions: the file is a link, another user's, or its mode is too wide.
    """
    _require(path, stat.S_IFREG, 0o077 if secret else 0o022)


def replace_file(
    path: Path,
    data: bytes,
    *,
    mode: int = 0o600,
    check: Callable[[Path], object] | None = None,
) -> None:
    """Put bytes in a file's place, whole and durably, whoever does the same meanwhile.

    Blocks on the disk. A link in its place is replaced, not followed. `check` gets the new file
    just before it takes the place; what that raises leaves the old one, and nothing else.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    fresh = path.with_name(f".{path.name}.{os.urandom(4).hex()}.new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            files.set_mode(handle, mode)
            file.write(data)
            file.flush()
            os.fsync(handle)
        if check is not None:
            check(fresh)
        files.replace(fresh, path)
    except BaseException:
        try:  # noqa: SIM105 - the relay is to start without `contextlib`
            fresh.unlink()
        except OSError:
            pass
        raise
    sync(path.parent)


def _named(variable: str) -> Path | None:
    named = os.environ.get(variable)
    return Path(named).absolute() if named else None


def _require(path: Path, kind: int, forbidden: int) -> None:
    info = path.lstat()
    if stat.S_IFMT(info.st_mode) != kind:
        raise UnsafePermissions(f"`{path}` is not a plain {_KINDS[kind]}")
    if info.st_uid != os.getuid():
        raise UnsafePermissions(f"`{path}` belongs to uid {info.st_uid}, not to you")
    if stat.S_IMODE(info.st_mode) & forbidden:
        mode = stat.S_IMODE(info.st_mode)
        raise UnsafePermissions(
            f"`{path}` has mode {mode:04o}, which lets other users in",
            hint=f"chmod {mode & ~forbidden:04o} {path}",
        )


_KINDS = {stat.S_IFDIR: "directory", stat.S_IFREG: "file"}
