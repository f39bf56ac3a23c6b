"""Where a user's programs keep their things: settings, state, data, and what lives for a session.

Each takes the environment and the home, and returns cmesh's own directory there, which need not
exist. Pure.

- `config(environment, home)`: what the user writes.
- `state(environment, home)`: what cmesh writes and an upgrade keeps.
- `data(environment, home)`: what the installer writes.
- `program(environment, home)`: the command `cmesh` that outlives upgrades.
- `runtime(environment)`: where a control socket goes whose usual path would be too long.
- `short_temporary(limit)`: the directory for temporary files, by a path of `limit` characters.
"""

import sys

if sys.platform == "win32":
    from cmesh.platform.windows.directories import (
        config,
        data,
        program,
        runtime,
        short_temporary,
        state,
    )
else:
    from cmesh.platform.posix.directories import (
        config,
        data,
        program,
        runtime,
        short_temporary,
        state,
    )

__all__ = ["config", "data", "program", "runtime", "short_temporary", "state"]
