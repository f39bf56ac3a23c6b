"""Write `docs/commands.md` from the command line's own definitions and the error classes.

`python scripts/gen_docs.py` writes; with `--check` it only says whether the
file is current, with exit status 1 when it is not.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from cmesh.errors import CmeshError
from cmesh.interfaces.cli.app import app
from cmesh.interfaces.cli.exits import DETACHED_EXIT, TASK_EXITS

TARGET = Path(__file__).parents[1] / "docs" / "commands.md"

HEAD = """\
# Commands

<!-- made by scripts/gen_docs.py; do not edit -->

Data goes to stdout, everything else to stderr. With `--json` a command prints exactly one
JSON document on stdout: its answer, or `{"error": {"code", "message", "hint"}}`. In a pipe
tables are tab-separated lines. `NO_COLOR` is obeyed. Text that came from another machine is
shown without control characters.

A command that needs the daemon starts it, except `status` and `down`, and except after
`cmesh down`: then only `cmesh up` starts it. Ctrl-C never ends a task.
"""

EXITS_HEAD = """\
## Exit statuses

`delegate`, `reply` and `wait` exit with how the task ended, also with `--json`, whose document is
then the task; so does `result` of a task that was denied or has expired. `policy explain` exits with 30 when the answer is deny, `cancel` with 43 when the
task has already ended otherwise, `up` with 28 when the control server does not answer, `doctor` with 90 or 91 when there is something to mend. `demo` exits with 1 when what
it shows did not happen.

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
    """Write or check the page; return the exit status."""
    text = page()
    if "--check" not in arguments:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TARGET.name} is not current: run `python scripts/gen_docs.py`", file=sys.stderr)
    return 1


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
    below = [sub for sub in cls.__subclasses__() if sub.__module__ == CmeshError.__module__]
    return [cls, *(leaf for sub in below for leaf in _walk(sub))]


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
