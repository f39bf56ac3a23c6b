"""The command `audit report`: named questions to the audit, for a span of time and a peer."""

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from cmesh.clock import SystemClock
from cmesh.daemon.answers import SqlView
from cmesh.daemon.arguments import SqlArguments
from cmesh.errors import UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.options import JsonOption, complete_peer, seconds
from cmesh.interfaces.cli.policy import rule_lines
from cmesh.interfaces.cli.query import FORMATS, print_rows
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.reports import REPORTS, Answer, Report, Rule
from cmesh.nearest import did_you_mean
from cmesh.paths import config_file
from cmesh.text import one_line

__all__ = ["moment_of", "register"]

ALWAYS = "all"
_AGO = re.compile(r"\d+[smhd]")
_SHOWN = 60
_TEXT_CHARACTERS = 60


def register(group: typer.Typer) -> None:
    """Add the command to the group `audit`."""
    group.command()(report)


def report(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The report; without: all names.")
    ] = "",
    listed: Annotated[bool, typer.Option("--list", help="Say which reports there are.")] = False,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="7d, 12h, a date or `all`: from when on.")
    ] = "30d",
    until: Annotated[
        str, typer.Option(metavar="TIME", help="Likewise: before when; default: now.")
    ] = "",
    peer: Annotated[
        str,
        typer.Option(metavar="PEER", help="Only this peer's rows.", autocompletion=complete_peer),
    ] = "",
    form: Annotated[
        str, typer.Option("--format", help="As of `cmesh sql`: " + ", ".join(FORMATS) + ".")
    ] = "table",
    limit: Annotated[int, typer.Option(help="Most rows to show.")] = 1_000,
    as_json: JsonOption = False,
) -> None:
    """Answer a question about the audit that is asked again and again.

    `cmesh audit report --list` names them; `docs/audit-cookbook.md` has more, to ask with `cmesh sql`.
    """
    if listed or not name:
        _list(as_json=as_json)
        return
    wanted = _report(name)
    if form not in FORMATS:
        raise UsageError(f"`{form}` is no format", hint=f"use one of {', '.join(FORMATS)}")
    if limit < 1:
        raise UsageError("`--limit` is at least 1")
    now = SystemClock().now()
    first, last = moment_of(since, now), moment_of(until, now) if until else now
    if first >= last:
        raise UsageError(
            "`--since` is not before `--until`", hint="for example --since 14d --until 7d"
        )
    rules = _rules() if wanted.shape is not None else ()
    view = _asked(wanted, first, last, peer, rules, limit)
    span = {"since": first.isoformat(), "until": last.isoformat(), "peer": peer}
    if as_json:
        found = view.model_dump(mode="json")
        empty = "" if view.rows else wanted.empty
        output.print_json({"report": name, **span, "empty": empty, **found})
        return
    if form == "table":
        _print(name, wanted, view, first, peer)
    else:
        print_rows(view, form)
    if view.truncated:
        output.hint(f"only the first {len(view.rows)} rows; raise --limit, or ask for less time")


def moment_of(text: str, now: datetime) -> datetime:
    """Return the moment that `7d`, a date, a date with a time, or `all` means; local without zone.

    Raises:
        UsageError: it has no such form.
    """
    if text == ALWAYS:
        return datetime(1970, 1, 1, tzinfo=UTC)
    try:
        if _AGO.fullmatch(text):
            return now - timedelta(seconds=seconds(text))
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.astimezone().astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"`{one_line(text, _SHOWN)}` is no time",
            hint="write 7d, 12h, 2026-11-30, 2026-11-30T18:00 or all",
        ) from error


def _list(*, as_json: bool) -> None:
    if as_json:
        output.print_json({"reports": {name: one.about for name, one in REPORTS.items()}})
    else:
        output.pairs([(name, one.about) for name, one in REPORTS.items()])


def _report(name: str) -> Report:
    found = REPORTS.get(name)
    if found is None:
        meant = did_you_mean(name, list(REPORTS)) or f"the reports: {', '.join(REPORTS)}"
        raise UsageError(f"there is no report `{one_line(name, _SHOWN)}`", hint=meant)
    return found


def _rules() -> Sequence[Rule]:
    """Return the rules as the file has them now.

    Raises:
        ConfigError: it cannot be used.
    """
    from cmesh.config import load_config

    path = config_file()
    config = load_config(path)
    lines = rule_lines(path) if config.configured else {}
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


def _asked(
    wanted: Report, first: datetime, last: datetime, peer: str, rules: Sequence[Rule], limit: int
) -> SqlView:
    # What is made of all rows needs all of them.
    most = limit if wanted.shape is None else 100_000
    given = [first.isoformat(), last.isoformat(), peer]
    arguments = checked(SqlArguments, sql=wanted.sql, parameters=given, limit=most)
    view = call(lambda client: client.sql(arguments))
    if wanted.shape is None:
        return view
    made = wanted.shape(Answer(columns=view.columns, types=view.types, rows=view.rows), rules)
    cut = len(made.rows) > limit
    return view.model_copy(
        update={
            "columns": list(made.columns),
            "types": list(made.types),
            "rows": made.rows[:limit],
            "truncated": view.truncated or cut,
        }
    )


def _print(name: str, wanted: Report, view: SqlView, first: datetime, peer: str) -> None:
    of = f" of `{one_line(peer, _SHOWN)}`" if peer else ""
    when = "" if first.year == 1970 else f" since {output.moment(first)}"
    if not view.rows:
        output.say(f"{name}{of}{when}: {wanted.empty}")
        return
    if sys.stdout.isatty():
        output.say(f"{name}{of}{when}: {wanted.about}")
    rows = [
        [_cell(value, kind) for value, kind in zip(row, view.types, strict=True)]
        for row in view.rows
    ]
    output.table(view.columns, rows)


def _cell(value: object, kind: str) -> str:
    """Return a value as people read it: a time to the minute and local, a text cut."""
    if value is None:
        return ""
    if kind.startswith("TIMESTAMP") and isinstance(value, str):
        return output.moment(datetime.fromisoformat(value))
    if isinstance(value, float):
        return f"{value:,.10g}"
    text = str(value)
    return text if not sys.stdout.isatty() else one_line(text, _TEXT_CHARACTERS)
