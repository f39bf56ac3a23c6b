"""Installs a release in a bare Debian and lets a task be delegated there, as a new user would.

    python scripts/bare_trial.py DIST

The tree is that of `bare_tree`. The wheels of the dependencies come from the package index, as for
a user. Prints what each step took.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bare_tree import DEBIAN, ENTER, User, as_user, furnish, make, timed

WHO = "bare_trial"
TRIAL = User(name="trial", uid=4711)


def main(arguments: Sequence[str]) -> int:
    """Run the trial; 0 = the task was delegated and its answer came back."""
    [dist] = map(Path, arguments)
    make(WHO)
    furnish(dist, [TRIAL])
    program = f"{TRIAL.home}/.local/bin/cmesh"
    began = time.monotonic()
    timed(WHO, "install.sh", _inside("sh", "/release/install.sh", "--no-agents"))
    timed(WHO, "cmesh version", _inside(program, "version"))
    told = json.loads(timed(WHO, "cmesh demo", _inside(program, "demo", "--json"), quiet=True))
    took = time.monotonic() - began
    print(f"from the release to a delegated answer, and its audit: {took:.1f} s")
    facts = [fact for step in told["steps"] for fact in step["facts"]]
    print("held by: " + next(fact["text"] for fact in facts if fact["label"] == "held by"))
    return 0


def _inside(*command: str) -> list[str]:
    """Return the command line that runs a command in the tree, as its user, by pivot_root."""
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"]
    return [*argv, str(DEBIAN), *as_user(TRIAL, command)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
