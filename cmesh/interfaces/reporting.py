"""A named report on its way: the time it is about, its question, and what is made of the answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cmesh.config import load_config
from cmesh.daemon.answers import SqlView
from cmesh.errors import UsageError
from cmesh.interfaces.reports import Answer, Report, Rule
from cmesh.text import one_line
from cmesh.tomltext import rule_lines

__all__ = ["ALWAYS", "Span", "before", "moment_of", "question_of", "rules_in", "shaped"]

ALWAYS = "all"
USUAL = timedelta(days=30)
"""What a report is about where nobody says since when."""

SHAPED_ROWS = 100_000
"""Rows that a report is made of where it needs all of them: as many as an answer may have."""

_AGO = re.compile(r"(\d+)([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Span:
    """What a report is about: from when on, before when, and one peer; empty = all."""

    first: datetime
    last: datetime
    peer: str = ""


def before(last: datetime) -> datetime:
    """Return where a report begins that ends at `last`; never before `all` does."""
    begin = datetime(1970, 1, 1, tzinfo=UTC)
    return max(last - USUAL, begin) if last - begin > USUAL else begin


def moment_of(text: str, now: datetime) -> datetime:
    """Return the moment that `7d`, a date, a date with a time, or `all` means; local without zone.

    Raises:
        UsageError: it has no such form.
    """
    if text == ALWAYS:
        return datetime(1970, 1, 1, tzinfo=UTC)
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(seconds=int(ago[1]) * _UNIT_S[ago[2]])
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.astimezone().astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"`{one_line(text, _SHOWN)}` is no time",
            hint="write 7d, 12h, 2026-11-30, 2026-11-30T18:00 or all",
        ) from error


def question_of(report: Report, span: Span, limit: int) -> dict[str, object]:
    """Return what `sql` is asked for a report of at most `limit` rows."""
    return {
        "sql": report.sql,
        "parameters": [span.first.isoformat(), span.last.isoformat(), span.peer],
        # What is made of all rows needs all of them.
        "limit": limit if report.shape is None else SHAPED_ROWS,
    }


def shaped(report: Report, view: SqlView, rules: Sequence[Rule], limit: int) -> SqlView:
    """Return a report of the rows that its question got, in at most `limit` rows."""
    if report.shape is None:
        return view
    made = report.shape(Answer(columns=view.columns, types=view.types, rows=view.rows), rules)
    return view.model_copy(
        update={
            "columns": list(made.columns),
            "types": list(made.types),
            "rows": made.rows[:limit],
            "truncated": view.truncated or len(made.rows) > limit,
        }
    )


def rules_in(path: Path) -> Sequence[Rule]:
    """Return the rules as the file has them now. Blocks on the disk.

    Raises:
        ConfigError: it cannot be used.
    """
    config = load_config(path)
    lines = rule_lines(path.read_text("utf-8")) if config.configured else {}
    both = (("inbound", config.policy.inbound), ("outbound", config.policy.outbound))
    return [
        Rule(
            direction=direction,
            effect=rule.effect,
            name=rule.name,
            line=lines.get((direction, rule.name), 0),
        )
        for direction, rules in both
        for rule in rules
    ]
