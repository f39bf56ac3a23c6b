"""Other processes of this user.

`wait_ended(pid, limit_s)` blocks until the process has ended, also when nobody reaps it: True, or
False after the limit; None where the system cannot wait, and the caller has to look by `os.kill`.
"""

import sys

if sys.platform == "win32":
    from cmesh.platform.windows.processes import wait_ended
elif sys.platform == "darwin":
    from cmesh.platform.macos.processes import wait_ended
else:
    from cmesh.platform.linux.processes import wait_ended

__all__ = ["wait_ended"]
