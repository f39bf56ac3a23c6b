"""A mistake in somebody's SELECT: what a name that is not there may have meant. Pure."""

import re
from collections.abc import Mapping, Sequence

from cmesh.nearest import did_you_mean

__all__ = ["Columns", "misnamed"]

Columns = Mapping[str, Sequence[str]]
"""The columns of each view for people."""

SHOWN = 3
"""How many views are named that have a column which the asked ones lack."""

_COLUMN = re.compile(r'column "?(\w+)"? not found|does not have a column named "(\w+)"')
_VIEW = re.compile(r'Table with name "?(\w+)"? does not exist|Referenced table "(\w+)" not found')
# DuckDB's own guess knows the tables behind the views, which nobody asks, and of a view's columns
# only those that are nearest by its measure.
_GUESS = re.compile(r'\s*(?:Did you mean "[^"]*"\?|Candidate (?:bindings|tables): [^\n]*)')
_PARAMETERS = re.compile(r"[Pp]arameters?\b.*(?:count mismatch|not supported)|following parameters")
_VALUES = "each `?` or `$name` needs a value, and each value one of them; names or `?`, not both"
_CHANGES = "only SELECT and EXPLAIN run here"
_SELECT = "only a SELECT is taken; `cmesh audit forget` erases texts of tasks"
_NODE = (
    "with `--peers` the column `node` is added to the answers afterwards: no statement can name it"
)
# DuckDB draws the line with a caret below it, which points nowhere once a terminal folds it.
_PICTURE = re.compile(r"\s*(LINE (\d+): )([^\n]*)(?:\n( *)\^)?.*", re.DOTALL)


def misnamed(message: str, sql: str, views: Columns) -> tuple[str, str]:
    """Return DuckDB's message without its guess, and what helps; empty = nothing is known.

    A column is looked for in the views that the query names, and then in the others.
    """
    column, view = _COLUMN.search(message), _VIEW.search(message)
    if column is not None or view is not None:
        message = _GUESS.sub("", message)
    message = _PICTURE.sub(_place, message)
    if _CHANGES in message:
        return message, _SELECT
    if column is None and view is None:
        return message, _VALUES if _PARAMETERS.search(message) else ""
    if view is not None:
        name = view[1] or view[2]
        near = did_you_mean(name, list(views))
        meant = near or f"the views: {', '.join(views)}"
        return message, f"{meant}{'' if near else ';'} `cmesh schema` lists their columns"
    assert column is not None
    return message, _column_meant((column[1] or column[2]).lower(), _asked(sql, views), views)


def _place(picture: re.Match[str]) -> str:
    """Return in words where a picture's caret points to."""
    head, line, text, before = picture.groups()
    if before is None or text.startswith("..."):  # a long line is shown from its middle
        return f" (line {line})"
    return f" (line {line}, column {len(before) - len(head) + 1})"


def _column_meant(name: str, asked: Sequence[str], views: Columns) -> str:
    known = list(dict.fromkeys(one for view in asked for one in views[view]))
    if name == "node":
        return _NODE
    if meant := did_you_mean(name, known):
        return f"{meant} {_all_of(asked)}"
    others = [view for view, columns in views.items() if view not in asked and name in columns]
    if others:
        return f"`{name}` is a column of `{'`, `'.join(others[:SHOWN])}`; {_all_of(asked)}"
    return _all_of(asked)


def _all_of(asked: Sequence[str]) -> str:
    of = f"the columns of `{'`, `'.join(asked)}`" if asked else "all names"
    return f"`cmesh schema` lists {of}"


def _asked(sql: str, views: Columns) -> list[str]:
    words = set(re.findall(r"\w+", sql.lower()))
    return [view for view in views if view.lower() in words]
