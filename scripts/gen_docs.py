"""Write the two pages that are made of what is in the code.

`docs/commands.md` is made of the command line's own definitions and the error classes,
`docs/audit-views.md` of the comments in the store's schema.

`python scripts/gen_docs.py` writes; with `--check` it only says whether the files are current,
with exit status 1 when one is not. `tests/contract/snapshots/views.json` holds what was promised
of the views: it only ever grows. One that lost a column, or has one without a comment, is refused.
"""

import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import typer.main

from cmesh.errors import CmeshError
from cmesh.interfaces.cli.app import app
from cmesh.interfaces.cli.exits import CUT_EXIT, DETACHED_EXIT, TASK_EXITS
from cmesh.store.migrations import describe

ROOT = Path(__file__).parents[1]
COMMANDS = ROOT / "docs" / "commands.md"
VIEWS = ROOT / "docs" / "audit-views.md"
PROMISED = ROOT / "tests" / "contract" / "snapshots" / "views.json"

Described = list[tuple[str, str, str, str]]
"""View, column, type, comment; a view's own comment has no column."""

Columns = dict[str, dict[str, str]]

VIEWS_HEAD = """\
# The views of the audit

<!-- made by scripts/gen_docs.py; do not edit -->

What `cmesh sql`, `cmesh audit report` and the MCP tool `query` ask. `cmesh schema` and the MCP resource
`cmesh://schema` tell the same of the store that you have. Questions to start with:
[audit-cookbook.md](audit-cookbook.md).

**Stable.** A view keeps its name, and its columns their names, types and order, in every later
version of cmesh; new columns come at the end. A test holds them to
`tests/contract/snapshots/views.json`, which only grows. Tables are no part of this: they change.

**Erased.** A text that was erased, or never kept, is NULL; its row stays, with its number,
its digest and its hash.

**Traces.** `trace_id` is the same for all that one call of an agent or a person led to, on every
machine: the task, those of the same group, and the tasks that it handed on. It is a W3C trace
id. A caller's own trace is kept where its MCP client names one (`traceparent` in `_meta`); else
it is the first task's id without its dashes, or for a group the first 32 hex digits of the
SHA-256 of the group's name. Each machine has the rows of its own part: ask each for the same id. It is
the caller's word: it joins rows, and proves and allows nothing.
"""

HEAD = """\
# Commands

<!-- made by scripts/gen_docs.py; do not edit -->

Data goes to stdout, everything else to stderr. With `--json` a command prints exactly one
JSON document on stdout: its answer, or `{"error": {"code", "message", "hint"}}`. In a pipe
tables are tab-separated lines. A terminal that is too narrow for a table lacks some of its
columns, or shows a block for each row; no id is cut. `NO_COLOR` is obeyed. Text that came from another machine is
shown without control characters.

A command that needs the daemon starts it, except `status` and `down`, and except after
`cmesh down`: then only `cmesh up` starts it. Ctrl-C never ends a task.
"""

EXITS_HEAD = """\
## Exit statuses

`delegate`, `reply` and `wait` exit with how the task ended, also with `--json`, whose document is
then the task; so does `result` of a task that was denied or has expired. `policy explain` exits with 30 when the answer is deny, `cancel` with 43 when the
task has already ended otherwise, `up` with 28 when the control server does not answer and 21 when the tailnet refuses the auth key, `doctor` with 90 or 91 when there is something to mend. `demo` exits with 1 when what
it shows did not happen. A pipe that nobody reads any more ends a command with 141 (128 + SIGPIPE),
and a standard output that takes no more, such as a file on a full disk, with 1.

| status | task |
|---|---|
"""

ERRORS_HEAD = """
Every other failure is one of these errors. The code is the same in `--json`, in MCP results
and in audit rows.

| status | code | raised when | default hint |
|---|---|---|---|
"""


def main(arguments: list[str]) -> int:
    """Write or check the pages; return the exit status."""
    described = describe()
    promised: Columns = json.loads(PROMISED.read_text("utf-8"))
    problems = list(broken(described, promised))
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    stale: list[str] = []
    files = {
        COMMANDS: page(),
        VIEWS: views_page(described),
        PROMISED: json.dumps(columns(described), indent=1) + "\n",
    }
    for path, text in files.items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if "--check" not in arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in arguments:
        print(f"not current: {', '.join(stale)}; run `python scripts/gen_docs.py`", file=sys.stderr)
        return 1
    return 0


def columns(described: Described) -> Columns:
    """Return the columns of each view, in their order, with their types."""
    found: Columns = {}
    for view, column, kind, _comment in described:
        found.setdefault(view, {}).update({column: kind} if column else {})
    return found


def broken(described: Described, promised: Columns) -> Iterator[str]:
    """Yield what breaks a promise: a column that went, came in between, or says nothing."""
    for view, column, _kind, comment in described:
        if not comment:
            name = f"column `{view}.{column}`" if column else f"view `{view}`"
            yield f"{name} has no comment: add `COMMENT ON` to its SQL"
    there = columns(described)
    for view, before in promised.items():
        now = list(there.get(view, {}).items())
        if now[: len(before)] != list(before.items()):
            gone = [f"`{name}` {kind}" for name, kind in before.items() if (name, kind) not in now]
            what = f"lost {', '.join(gone)}" if gone else "has other columns before its last ones"
            yield f"view `{view}` {what}: people's queries break; add new columns at the end"


def views_page(described: Described) -> str:
    """Return the page on the views."""
    parts = [VIEWS_HEAD]
    for view, rows in groupby(sorted(described, key=lambda row: row[0]), key=lambda row: row[0]):
        (_, _, _, about), *rest = rows
        lines = [f"| `{name}` | {kind} | {_cell(comment)} |" for _, name, kind, comment in rest]
        table = "\n".join(["| column | type | |", "|---|---|---|", *lines])
        parts.append(f"## `{view}`\n\n{about[:1].upper()}{about[1:]}.\n\n{table}\n")
    return "\n".join(parts)


def page() -> str:
    """Return the whole page."""
    sections = [HEAD, *_commands(typer.main.get_command(app), "cmesh")]
    return "\n".join(sections) + "\n" + _exits()


def _commands(command: Any, path: str) -> Iterator[str]:
    children = getattr(command, "commands", {})
    if command.callback is not None and not command.hidden:
        yield _command(command, path)
    for name, child in sorted(children.items()):
        yield from _commands(child, f"{path} {name}")


def _command(command: Any, path: str) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    words = "".join(f" {p.metavar}" for p in arguments)
    text = " ".join((command.help or "").split())
    needed = {True: "required", False: ""}
    rows = [f"| `{p.metavar}` | {_cell(p.help)} | {needed[p.required]} |" for p in arguments]
    rows += [f"| {_names(p)} | {_cell(p.help)} | {_default(p)} |" for p in options]
    table = "\n".join(["| | | default |", "|---|---|---|", *rows]) if rows else ""
    return f"## `{path}{words}`\n\n{text}\n" + (f"\n{table}\n" if table else "")


def _names(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    names = ", ".join(f"`{name}{value}`" for name in option.opts)
    return names + "".join(f" / `{name}`" for name in option.secondary_opts)


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if option.is_flag and option.secondary_opts and option.default is not None:
        return f"`{(option.opts if option.default else option.secondary_opts)[0]}`"
    return "" if option.is_flag or option.default in ("", None) else f"`{option.default}`"


def _exits() -> str:
    rows = [f"| {status} | {state} |" for state, status in TASK_EXITS.items()]
    rows.append(f"| {CUT_EXIT} | none: a limit cut the rows of `sql` or `audit open --sql` |")
    rows.append(f"| {DETACHED_EXIT} | Ctrl-C while waiting; the task goes on |")
    errors = [
        f"| {cls.exit_status} | `{cls.code}` | {_raised(cls)} | {_cell(cls.default_hint)} |"
        for cls in sorted(_walk(CmeshError), key=lambda cls: cls.exit_status)
    ]
    return EXITS_HEAD + "\n".join(rows) + "\n" + ERRORS_HEAD + "\n".join(errors) + "\n"


def _raised(cls: type[CmeshError]) -> str:
    first = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    return _cell(first.removeprefix("Raised when ").removeprefix("Raised for ").rstrip("."))


def _walk(cls: type[CmeshError]) -> list[type[CmeshError]]:
    # Parts may subclass an error to carry more; the code stays their parent's.
    below = [sub for sub in cls.__subclasses__() if sub.__module__.startswith("cmesh.errors.")]
    return [cls, *(leaf for sub in below for leaf in _walk(sub))]


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
