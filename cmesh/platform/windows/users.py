"""The user of this process by its token."""

import ctypes

__all__ = ["is_superuser"]


def is_superuser() -> bool:
    """Say whether this process is elevated (IsUserAnAdmin of shlobj_core.h)."""
    return bool(ctypes.WinDLL("shell32").IsUserAnAdmin())
