"""Whose rights this process has.

`is_superuser()` says whether it may do anything on this machine: uid 0, or an elevated
administrator of Windows.
"""

import sys

if sys.platform == "win32":
    from cmesh.platform.windows.users import is_superuser
else:
    from cmesh.platform.posix.users import is_superuser

__all__ = ["is_superuser"]
