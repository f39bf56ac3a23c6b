"""The views for people as the files of their SQL tell of them: no database is needed for it."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

__all__ = ["VIEWS", "shown"]

VIEWS = ("views.sql", "views_told.sql")
"""Files of the views, made anew with the newest schema, in this order."""

_COLUMN = re.compile(r"^COMMENT ON COLUMN (\w+)\.(\w+) IS", re.MULTILINE)


@cache
def shown() -> Mapping[str, tuple[str, ...]]:
    """Return the columns of each view, in the order of their comments: each has one."""
    found: dict[str, list[str]] = {}
    for name in VIEWS:
        text = resources.files("cmesh.store").joinpath(name).read_text("utf-8")
        for view, column in _COLUMN.findall(text):
            found.setdefault(view, []).append(column)
    return {view: tuple(columns) for view, columns in found.items()}
