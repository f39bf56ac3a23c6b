"""The profile of macOS' sandbox-exec for a sandbox, from the same data as on Linux. Pure.

NOT RUN: made from Apple's published profiles and never tried on a Mac. So no machine reports a
tier by it, and a sandboxed profile is refused there. Source: sandbox-exec(1), sandbox(7).
"""

from collections.abc import Iterable

from cmesh.sandbox.profile import DEVICES, SandboxSpec, views

__all__ = ["SYSTEM", "profile"]

SYSTEM = (
    "/usr/lib", "/usr/share", "/usr/bin", "/usr/libexec", "/bin", "/sbin", "/System/Library",
    "/Library/Apple", "/opt/homebrew", "/private/etc/ssl", "/private/etc/localtime",
    "/private/var/db/timezone", "/private/var/db/dyld",
)  # fmt: skip
"""Programs and their libraries on macOS, where `/etc` and `/tmp` are links to `/private`."""


def profile(spec: SandboxSpec) -> str:
    """Return the text for `sandbox-exec -p`; everything that is not named is denied.

    The last rule that fits decides, so what is hidden stands last. The kernel names no port
    range and no namespace there: the one port is reachable at `localhost` alone.
    """
    write = [spec.home, spec.tmp, *spec.write]
    parts = [(f"{spec.directory}/{view.below}", view.writable) for view in views(spec)]
    write += [path for path, writable in parts if writable]
    write += [spec.directory] if spec.writes_directory and not parts else []
    shown = [path for path, _ in parts] if spec.parts.read else [spec.directory]
    lines = [
        "(version 1)",
        "(deny default)",
        "(allow process-fork)",
        "(allow signal (target same-sandbox))",
        "(allow sysctl-read)",
        '(allow file-read-metadata (literal "/"))',
        _rule("allow", "file-read* process-exec*", (*SYSTEM, *spec.read, *shown)),
        _rule("allow", "file-read* file-write*", write),
        *(f"(allow file-read* file-write-data (literal {_text(path)}))" for path in DEVICES),
    ]
    if spec.port is not None:
        lines.append(f'(allow network-outbound (remote ip "localhost:{spec.port}"))')
    if spec.hidden:
        lines.append(_rule("deny", "file-read* file-write*", spec.hidden))
        lines.append(_rule("allow", "file-read* file-write*", (spec.home, spec.tmp)))
    return "\n".join(lines) + "\n"


def _rule(effect: str, operations: str, paths: Iterable[str]) -> str:
    return f"({effect} {operations} {' '.join(f'(subpath {_text(path)})' for path in paths)})"


def _text(path: str) -> str:
    """Quote a path: nothing in it may end the text or begin an expression."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
