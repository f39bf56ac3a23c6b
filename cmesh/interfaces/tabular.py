"""Rows of the audit as text, for whoever shows or keeps them. Pure."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence

from cmesh.daemon.answers import SqlView
from cmesh.text import one_line, scrub

__all__ = ["cell_text", "csv_lines", "distinct", "json_lines"]

# What OWASP's page on CSV injection lists; the last four are the wide forms, which some
# spreadsheets take as well.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - meant
# Where a semicolon or a tab parts the cells of a file, what follows one within a text is a cell.
_INNER = re.compile('([;\t][ "]*)(?=[=+\\-@＝＋－＠])')  # noqa: RUF001 - as above


def cell_text(value: object) -> str:
    """Return a value as text without control characters; NULL is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return scrub(value)
    return scrub(json.dumps(value, ensure_ascii=False))


def csv_lines(view: SqlView) -> Iterator[str]:
    """Yield an answer as CSV (RFC 4180, but for a bare newline), the columns' names first.

    No spreadsheet takes a text in it for a formula.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head: list[object] = [one_line(column) for column in view.columns]
    for row in (head, *view.rows):
        writer.writerow([_csv_cell(value) for value in row])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def json_lines(view: SqlView) -> Iterator[str]:
    """Yield an answer as one JSON array of objects, an object a line."""
    yield "["
    names = distinct(view.columns)
    for number, row in enumerate(view.rows):
        record = dict(zip(names, row, strict=True))
        yield (",\n" if number else "\n") + json.dumps(record, ensure_ascii=False)
    yield "\n]\n"


def distinct(columns: Sequence[str]) -> list[str]:
    """Return the names, later ones of those that are equal with a number behind: none is lost."""
    names: list[str] = []
    for column in columns:
        name, number = column, 1
        while name in names:
            name, number = f"{column}_{number}", number + 1
        names.append(name)
    return names


def _csv_cell(value: object) -> str:
    # A number may begin with a minus; only a text can be a formula.
    return _inert(cell_text(value)) if isinstance(value, str) else cell_text(value)


def _inert(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: a remote machine may have written it.

    The apostrophe is what spreadsheets themselves put before such a text.
    """
    text = _INNER.sub(r"\1'", text)
    return f"'{text}" if text.startswith(_FORMULA) else text
