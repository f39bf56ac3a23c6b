"""Rows of a query on the command line: a table, JSON, lines of JSON, CSV.

Whatever a cell holds, another machine may have written it: no form lets it steer a terminal,
and CSV does not let it be a formula.
"""

import sys
from pathlib import PurePath

from cmesh.daemon.answers import SqlView
from cmesh.errors import UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.tabular import cell_text, csv_lines, distinct
from cmesh.text import one_line

__all__ = ["PARQUET", "TEXT_FORMATS", "cut", "format_of", "print_rows", "require_format", "text_of"]

TEXT_FORMATS = ("table", "json", "jsonl", "csv")
PARQUET = "parquet"


def require_format(form: str, formats: tuple[str, ...]) -> None:
    """Raise `UsageError` unless it is one of these formats."""
    if form not in formats:
        raise UsageError(f"`{form}` is no format", hint=f"use one of {', '.join(formats)}")


def format_of(file: str) -> str:
    """Return the format that a file's name ends with; `table` for any other name, or none."""
    suffix = PurePath(file).suffix.lower().removeprefix(".")
    return suffix if suffix in (*TEXT_FORMATS, PARQUET) else "table"


def cut(view: SqlView) -> str:
    """Say which limit cut an answer; empty = it is whole."""
    if not view.truncated:
        return ""
    if view.nodes:
        names = [one_line(node.node) for node in view.nodes if node.truncated]
        if not names:
            return (
                "columns are missing: there are too many rows for all of them; name those you want"
            )
        return f"rows are missing, of {', '.join(names)}; raise --limit, or ask for less"
    if view.cut_by == "bytes":
        return f"{_first(view)}: with more, the answer is too long"
    return f"{_first(view)}; raise --limit for more"


def _first(view: SqlView) -> str:
    count = len(view.rows)
    return "only the first row" if count == 1 else f"only the first {count} rows"


def print_rows(view: SqlView, form: str = "table") -> None:
    """Print the answer to a query on stdout, a table as the terminal has room for it."""
    if form == "table":
        output.table(view.columns, _cells(view))
    else:
        sys.stdout.write(text_of(view, form))


def text_of(view: SqlView, form: str) -> str:
    """Return the rows in one of `TEXT_FORMATS`; a table as lines with tabs, as in a pipe."""
    if form == "table":
        return output.lines(view.columns, _cells(view))
    if form == "csv":
        return "".join(csv_lines(view))
    names = distinct(view.columns)
    rows = [dict(zip(names, row, strict=True)) for row in view.rows]
    if form == "jsonl":
        return "".join(output.json_text(row, indent=None) + "\n" for row in rows)
    return output.json_text(rows) + "\n"


def _cells(view: SqlView) -> list[list[str]]:
    return [[cell_text(value) for value in row] for row in view.rows]
