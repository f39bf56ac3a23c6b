"""The owner's manifests: files `runners/NAME.toml` beside the configuration, over the built-in ones.

A manifest says what is started here, so it is authority as the configuration is: a file that
others may write is refused. INVARIANT: a file that cannot be used takes its runner away; there is
no falling back to the built-in one that it was to replace. Blocks on the disk.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cmesh.errors import ConfigError, TaskConflict, UnsafePermissions
from cmesh.paths import ensure_private_dir, require_private_dir, require_private_file, sync
from cmesh.policy.parse import RUNNER_NAME_PATTERN, RUNNER_NAME_WORDS, mistaken_for
from cmesh.runner.manifest import Manifest, load_manifests, parse_manifest
from cmesh.runner.task_files import write_synced

__all__ = [
    "COMMAND",
    "Manifests",
    "Stamp",
    "check_name",
    "file_of",
    "load_all",
    "stamp_of",
    "write_own",
]

COMMAND = "command"
"""The built-in manifest of every `command:NAME`; nobody replaces it."""

FOLDER = "runners"
FILE_BYTES = 256 * 1024
_SUFFIX = ".toml"
_NAME = re.compile(RUNNER_NAME_PATTERN)

Stamp = tuple[tuple[str, int, int, int, int], ...]
"""What tells one state of the folder from another without reading a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """Every manifest of this machine.

    Attributes:
        by_name: those in force, built in or the owner's.
        own: file by name, of those that are the owner's and in force.
        digests: SHA-256 of the owner's files in force, hex, by name.
        broken: why a file of the owner's is not in force, by the name that its runner has.
    """

    by_name: Mapping[str, Manifest] = field(default_factory=load_manifests)
    own: Mapping[str, Path] = field(default_factory=dict[str, Path])
    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    broken: Mapping[str, ConfigError] = field(default_factory=dict[str, ConfigError])

    @property
    def agents(self) -> tuple[str, ...]:
        """Return the names of all agents, also of those whose file is broken."""
        broken = {name for name in self.broken if _NAME.fullmatch(name)}
        return tuple(sorted((self.by_name.keys() | broken) - {COMMAND}))


def load_all(config_directory: Path) -> Manifests:
    """Return the built-in manifests, and over them those of the owner; never raises."""
    folder = config_directory / FOLDER
    by_name, own, digests = dict(load_manifests()), dict[str, Path](), dict[str, str]()
    broken: dict[str, ConfigError] = {}
    try:
        files = _files(folder)
    except OSError as error:  # nobody can say which of the built-in ones it replaces
        unread = ConfigError(f"`{folder}` cannot be read: {error.strerror}", hint="make it yours")
        agents = [name for name in by_name if name != COMMAND]
        return Manifests(by_name={COMMAND: by_name[COMMAND]}, broken=dict.fromkeys(agents, unread))
    for path in files:
        name = path.stem
        try:
            require_private_dir(path.parent)
            data = _read(path)
            by_name[name] = _parse(path, data)
            own[name], digests[name] = path, hashlib.sha256(data).hexdigest()
        except (ConfigError, OSError) as error:
            broken[name] = _told(path, error)
            if name != COMMAND:  # it is needed by others than its own file
                by_name.pop(name, None)
    return Manifests(by_name=by_name, own=own, digests=digests, broken=broken)


def stamp_of(config_directory: Path) -> Stamp:
    """Return the state of the folder as it is now; empty when there is none."""
    folder = config_directory / FOLDER
    found: list[tuple[str, int, int, int, int]] = []
    try:
        paths = [folder, *_files(folder)]
    except OSError:
        paths = [folder]
    for path in paths:
        try:
            info = path.lstat()
        except OSError:
            continue
        # `ctime` tells of a new mode or owner, which decide as much as the text.
        stamp = (info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino)
        found.append((path.name, *stamp))
    return tuple(found)


def file_of(config_directory: Path, name: str) -> Path:
    """Return the place of the owner's manifest of a name."""
    return config_directory / FOLDER / f"{name}{_SUFFIX}"


def check_name(name: str) -> None:
    """Check that an agent may have a name.

    Raises:
        ConfigError: it may not; says why.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"`{name}` is no runner's name",
            hint=f"expected {RUNNER_NAME_WORDS}",
        )
    if name == COMMAND:
        raise ConfigError("the manifest of `command` is cmesh's own", hint="choose another name")
    if like := mistaken_for(name):
        raise ConfigError(f"`{name}` is too like the built-in `{like}`", hint="choose another name")


def write_own(config_directory: Path, name: str, text: str, *, force: bool) -> Path:
    """Write a manifest, mode 0600, durable when it returns; return its file.

    Raises:
        ConfigError: nobody may have that name, or the text is no manifest.
        TaskConflict: there is one, and `force` is off.
        UnsafePermissions: the folder is open to others.
        OSError: the disk refuses.
    """
    check_name(name)
    path = file_of(config_directory, name)
    _parse(path, text.encode())
    config_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ensure_private_dir(path.parent)
    if os.path.lexists(path) and not force:
        raise TaskConflict(f"there is a `{path}` already", hint="edit it, or add `--force`")
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)  # whatever an end in the middle has left there
    write_synced(fresh, text.encode())
    fresh.replace(path)
    sync(path.parent)
    return path


def _files(folder: Path) -> list[Path]:
    """Return the manifests of a folder, none when there is no such folder. Raises OSError."""
    if not os.path.lexists(folder):
        return []
    paths = sorted(folder.iterdir())
    return [path for path in paths if path.suffix == _SUFFIX and not path.name.startswith(".")]


def _read(path: Path) -> bytes:
    require_private_file(path)
    with path.open("rb") as file:
        data = file.read(FILE_BYTES + 1)
    if len(data) > FILE_BYTES:
        raise ConfigError(f"runner manifest `{path}`: expected at most {FILE_BYTES} bytes")
    return data


def _parse(path: Path, data: bytes) -> Manifest:
    """Return the manifest of a file of the owner's, which must stand for itself.

    Raises:
        ConfigError: names file and key.
    """
    what = f"runner manifest `{path}`"
    try:
        check_name(path.stem)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error.message}", hint=error.hint) from error
    try:
        manifest = parse_manifest(data.decode(), source=str(path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{what} line {line}: expected UTF-8 text") from error
    if manifest.name != path.stem:
        raise ConfigError(f"{what}: `name`: expected `{path.stem}`, as its file is called")
    if not manifest.program:
        raise ConfigError(f"{what}: `program`: expected a program")
    return manifest


def _told(path: Path, error: ConfigError | OSError) -> ConfigError:
    """Return an error of a file with the step that helps."""
    if isinstance(error, UnsafePermissions):
        return error
    if isinstance(error, OSError):
        why = error.strerror or type(error).__name__
        return ConfigError(f"runner manifest `{path}` cannot be read: {why}")
    step = f"edit the file, then `cmesh runners check {path.stem}`"
    hint = step if error.hint == ConfigError.default_hint else error.hint
    return ConfigError(error.message, hint=hint)
