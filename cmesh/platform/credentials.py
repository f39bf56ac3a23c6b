"""Who opened a local connection, by the kernel's word.

`of_peer(connection)` returns pid and uid of the process that connected, as they were then.
It raises `OSError` where the system or the socket cannot say.
"""

import sys

if sys.platform == "win32":
    from cmesh.platform.windows.credentials import of_peer
elif sys.platform == "darwin":
    from cmesh.platform.macos.credentials import of_peer
else:
    from cmesh.platform.linux.credentials import of_peer

__all__ = ["of_peer"]
