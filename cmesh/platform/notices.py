"""A line on the user's desktop.

`desktop_argv(words)` is the command that shows it; it holds the words as data, never as a script.
"""

import sys

if sys.platform == "win32":
    from cmesh.platform.windows.notices import desktop_argv
elif sys.platform == "darwin":
    from cmesh.platform.macos.notices import desktop_argv
else:
    from cmesh.platform.linux.notices import desktop_argv

__all__ = ["desktop_argv"]
