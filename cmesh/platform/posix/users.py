"""The user of this process by its uid."""

import os

__all__ = ["is_superuser"]


def is_superuser() -> bool:
    """Say whether this process may do anything on this machine."""
    return os.getuid() == 0
