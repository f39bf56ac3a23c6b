"""The command line of bubblewrap for a sandbox: what the task's file system looks like. Pure.

Source: bwrap(1) of 0.8.0, the oldest release that binds by descriptor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cmesh.sandbox.profile import ETC, SYSTEM, SandboxSpec, is_below, views

__all__ = ["Numbers", "arguments"]

_NAMESPACES = (
    "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts",
    "--unshare-cgroup-try", "--disable-userns", "--die-with-parent",
    "--cap-drop", "ALL", "--hostname", "task",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Descriptors that bubblewrap gets.

    Attributes:
        directory: the task's directory. The path is only where it appears.
        objects: what the task's copy borrows; there when the spec has it.
        parts: of the first of `views`; those of the others follow it.
        beside: of the first folder beside the copy, likewise.
    """

    directory: int
    objects: int
    parts: int
    beside: int


def arguments(
    spec: SandboxSpec,
    *,
    numbers: Numbers,
    links: Mapping[str, str],
    launcher: Sequence[str],
) -> list[str]:
    """Return the options; what is to be started is not among them.

    Later mounts lie over earlier ones: what is hidden comes after what may be read, and what is
    the task's own after that.

    Args:
        spec: what the task may do.
        numbers: the descriptors that it is started with.
        links: what of the system is a link on this machine, and where it leads.
        launcher: what must be readable until the task's own program starts.
    """
    argv = [*_NAMESPACES]
    for path in SYSTEM:
        argv += ["--symlink", links[path], path] if path in links else _read_only(path)
    argv += ["--proc", "/proc", "--dev", "/dev", "--bind", spec.tmp, "/tmp"]  # noqa: S108 - in there
    for path in (*ETC, *launcher, *(path for path in spec.read if not is_below(path, SYSTEM))):
        argv += _read_only(path)
    argv += _directory(spec, numbers, launcher)
    for number, path in enumerate(spec.beside.names if spec.beside else (), numbers.beside):
        argv += ["--ro-bind-fd", str(number), f"{spec.directory}/{path}"]
    shown = [f"{spec.directory}/{path}" for path in spec.parts.read] or [spec.directory]
    if spec.objects is not None:
        argv += ["--ro-bind-fd", str(numbers.objects), spec.objects.place]
    for path, target in spec.links:
        if not is_below(path, (*SYSTEM, *spec.read, *shown)):
            argv += ["--symlink", target, path]
    for path in spec.hidden:
        # A copy holds nothing of what is hidden, and is not to get a directory for it.
        if is_below(path, spec.read if spec.copy else (*spec.read, *shown)):
            argv += ["--tmpfs", path]
    for path in (spec.home, spec.tmp, *spec.write):
        argv += ["--bind", path, path]
    empty = ["--remount-ro", spec.directory] if spec.parts.read else []
    return [*argv, *empty, "--remount-ro", "/", "--chdir", spec.directory]


def _directory(spec: SandboxSpec, numbers: Numbers, launcher: Sequence[str]) -> list[str]:
    """Return what shows the task's directory: all of it, or an empty one with parts in it."""
    argv: list[str] = []
    if spec.parts.read:
        # INVARIANT: it lies over whatever shows the whole directory, by another path above it.
        argv += ["--tmpfs", spec.directory]
        # Without the launcher nothing starts; it may lie in there as what the owner lists may.
        for path in (*launcher, *spec.read):
            if path != spec.directory and is_below(path, [spec.directory]):
                argv += _read_only(path)
    else:
        whole = spec.writes_directory and not spec.parts.write
        argv += [_bind(writable=whole), str(numbers.directory), spec.directory]
    for number, view in enumerate(views(spec), numbers.parts):
        argv += [_bind(writable=view.writable), str(number), f"{spec.directory}/{view.below}"]
    return argv


def _bind(*, writable: bool) -> str:
    return "--bind-fd" if writable else "--ro-bind-fd"


def _read_only(path: str) -> list[str]:
    return ["--ro-bind-try", path, path]
