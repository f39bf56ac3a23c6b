"""What a path's text says by itself: the rules that policy compares directories by. Pure.

- `goes_up(text)`: whether a component is `..`, which means nothing sure where links are.
- `normal(text)`: the one spelling of an absolute path, or None where there is no sure one.
- `is_below(path, root)`: of two normal ones, whether `path` is surely `root` or below it.
- `may_be_below(path, root)`: the same, also where only some disks take two names for one.

What grants a right asks `is_below`, what denies one `may_be_below`.
"""

import sys

if sys.platform == "win32":
    from cmesh.platform.windows.names import (
        goes_up,
        is_below,
        may_be_below,
        normal,
    )
else:
    from cmesh.platform.posix.names import (
        goes_up,
        is_below,
        may_be_below,
        normal,
    )

__all__ = ["goes_up", "is_below", "may_be_below", "normal"]
