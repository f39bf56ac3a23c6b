#!/usr/bin/env python3
"""Write what `cmesh.protocol` holds as tables into the docs: rows, states and drawings.

`docs/link-protocol.md` gets the rows, `docs/architecture.md` the states and the drawings. With
`--check` nothing is written; the exit status is 1 when a section is not current.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tables are those of this tree, installed or not

from cmesh.protocol.facts import TERMINALS, CallerFacts, WorkerFacts  # noqa: E402
from cmesh.protocol.row import REPORTED, SAME  # noqa: E402
from cmesh.protocol.state import CALLER, WORKER, Row, public, render_table  # noqa: E402
from cmesh.protocol.witness import STATES, State  # noqa: E402

PAGE = ROOT / "docs" / "link-protocol.md"
OVERVIEW = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- begin: made by scripts/gen_state_table.py -->"
END = "<!-- end -->"

_REPORTED_AS = {"caller": "as the worker's result says", "worker": "as the shim's result says"}


def render_states() -> str:
    """Return the states of both sides and what each rests on, then a drawing a side."""
    parts = ["| side | state | shown as | decided by | witness |", "|---|---|---|---|---|"]
    parts += [_state_line(state) for state in STATES]
    for title, rows in (("Caller", CALLER), ("Worker", WORKER)):
        parts += ["", f"### {title}", "", "```mermaid", *_drawing(rows), "```"]
    return "\n".join([*parts, ""])


def updated(text: str, render: Callable[[], str] = render_table, name: str = PAGE.name) -> str:
    """Return the page with its generated section made anew.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"`{name}` lacks the line `{END if begin else BEGIN}`")
    return f"{before}{BEGIN}\n\n{render()}\n{END}{after}"


PAGES: dict[Path, Callable[[], str]] = {PAGE: render_table, OVERVIEW: render_states}


def main() -> int:
    """Write or check the sections; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    check = parser.parse_args().check
    status = 0
    for page, render in PAGES.items():
        text = page.read_text(encoding="utf-8")
        fresh = updated(text, render, page.name)
        if not check:
            page.write_text(fresh, encoding="utf-8")
        elif text != fresh:
            print(f"{page.name} is not current; run scripts/gen_state_table.py", file=sys.stderr)
            status = 1
    return status


def _state_line(state: State) -> str:
    facts = CallerFacts if state.side == "caller" else WorkerFacts
    shown = public(state.side, state.name, facts(state=state.name))
    cells = (state.side, f"`{state.name}`", f"`{shown}`", state.decides, state.witness)
    return "| " + " | ".join(cells) + " |"


def _drawing(rows: tuple[Row, ...]) -> list[str]:
    """Return a Mermaid state diagram: an arrow for each change of state, with its rows."""
    arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        for state in row.states:
            if row.next not in {SAME, state} and row.id not in arrows[state or "[*]", row.next]:
                arrows[state or "[*]", row.next].append(row.id)
    ends = sorted({after for _, after in arrows if after in {*TERMINALS, REPORTED}})
    return [
        "stateDiagram-v2",
        f'    state "{_REPORTED_AS[rows[0].side]}" as {REPORTED}',
        *(f"    {a} --> {b} : {', '.join(ids)}" for (a, b), ids in arrows.items() if ids),
        *(f"    {end} --> [*]" for end in ends),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
