"""Locks on open files: whoever holds one has it until it is given back or the process has ended.

`lock` takes it alone, `lock_shared` with others who share it; both return at once, and raise
`BlockingIOError` where somebody else's is in the way. `unlock` gives back. The file's content can
be read and written meanwhile, by anybody.
"""

import sys

if sys.platform == "win32":
    from cmesh.platform.windows.locks import lock, lock_shared, unlock
else:
    from cmesh.platform.posix.locks import lock, lock_shared, unlock

__all__ = ["lock", "lock_shared", "unlock"]
