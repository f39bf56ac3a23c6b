#!/usr/bin/env python3
"""Write the state tables of `cmesh.protocol.table` into `docs/link-protocol.md`.

With `--check` nothing is written; the exit status is 1 when the section is not current.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tables are those of this tree, installed or not

from cmesh.protocol.state import render_table  # noqa: E402

PAGE = ROOT / "docs" / "link-protocol.md"
BEGIN = "<!-- begin: made by scripts/gen_state_table.py -->"
END = "<!-- end -->"


def updated(text: str) -> str:
    """Return the page with its generated section made anew.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"`{PAGE.name}` lacks the line `{END if begin else BEGIN}`")
    return f"{before}{BEGIN}\n\n{render_table()}\n{END}{after}"


def main() -> int:
    """Write or check the section; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    fresh = updated(text)
    if not check:
        PAGE.write_text(fresh, encoding="utf-8")
        return 0
    if text != fresh:
        print(f"{PAGE.name} is not current; run scripts/gen_state_table.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
