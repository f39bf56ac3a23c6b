"""Names on a disk: one put in another's place, two exchanged, and both made durable.

- `replace(source, target)` gives `source` the name `target` as one step, whatever had it.
- `exchange(one, other)` swaps two names as one step; False where that cannot be had.
- `sync(path)` makes a file's content, or the entries of a directory, durable.
- `set_mode(fd, mode)` gives an open file exactly this mode, whatever the umask is.
- `real_name(text)` is where a directory really is, links resolved; it need not exist. A text that
  is no absolute path comes back as it is, for policy to refuse.
- `copy_argv(sources, target)` is the command that copies files into a directory.

All block on the disk and raise `OSError`.
"""

import sys

if sys.platform == "win32":
    from cmesh.platform.windows.files import (
        copy_argv,
        exchange,
        real_name,
        replace,
        set_mode,
        sync,
    )
else:
    from cmesh.platform.posix.files import real_name, replace, set_mode, sync

    if sys.platform == "darwin":
        from cmesh.platform.macos.files import copy_argv, exchange
    else:
        from cmesh.platform.linux.files import copy_argv, exchange

__all__ = ["copy_argv", "exchange", "real_name", "replace", "set_mode", "sync"]
