"""The command `audit report`: named questions to the audit, for a span of time and a peer."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

from cmesh.clock import SystemClock
from cmesh.daemon.answers import SqlView
from cmesh.daemon.arguments import SqlArguments
from cmesh.errors import UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.charting import require_kind
from cmesh.interfaces.cli.complete import complete_report
from cmesh.interfaces.cli.exits import CUT_EXIT
from cmesh.interfaces.cli.options import JsonOption, complete_peer
from cmesh.interfaces.cli.query import CHART, FORMATS, deliver
from cmesh.interfaces.cli.rows import PARQUET, cut, format_of, require_format
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.cli.sink import Sink
from cmesh.interfaces.reporting import Span, before, moment_of, question_of, rules_in, shaped
from cmesh.interfaces.reports import REPORTS, Report, Rule
from cmesh.nearest import did_you_mean
from cmesh.paths import config_file
from cmesh.text import one_line

__all__ = ["register"]

_SHOWN = 60
_MAY_LACK = (
    "seconds",
    "runner",
    "profile",
    "latest",
    "ended_at",
    "direction",
    "waited_s",
    "times",
    "not_told",
    "not_accepted",
    "interrupted",
    "program",
    "principal",
)
"""Columns that a narrow terminal lacks, the most wanted first."""


def register(group: typer.Typer) -> None:
    """Add the command to the group `audit`."""
    group.command()(report)


def report(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]", help="The report; without: all names.", autocompletion=complete_report
        ),
    ] = "",
    listed: Annotated[bool, typer.Option("--list", help="Say which reports there are.")] = False,
    since: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="7d, 12h, a date or `all`: from when on; default: 30 days before --until.",
        ),
    ] = "",
    until: Annotated[
        str, typer.Option(metavar="TIME", help="Likewise: before when; default: now.")
    ] = "",
    peer: Annotated[
        str,
        typer.Option(metavar="PEER", help="Only this peer's rows.", autocompletion=complete_peer),
    ] = "",
    form: Annotated[
        str, typer.Option("--format", help="As of `cmesh sql`: " + ", ".join(FORMATS) + ".")
    ] = "",
    chart: Annotated[
        str, typer.Option(metavar="KIND", help="Draw it, as `cmesh sql --chart` does.")
    ] = "",
    target: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="Write a new file, its owner's alone."),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="With --output: replace a file that is there.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Most rows to show.")] = 1_000,
    as_json: JsonOption = False,
) -> None:
    """Answer a question about the audit that is asked again and again.

    `cmesh audit report --list` names them; `docs/audit-cookbook.md` has more, to ask with `cmesh sql`.
    Ends with status 78 when a limit cut the rows, and stderr says so.
    """
    if listed or not name:
        _list(as_json=as_json)
        return
    wanted = _report(name)
    sink = _sink(form, chart, target, force=force, as_json=as_json)
    if limit < 1:
        raise UsageError("`--limit` is at least 1")
    now = SystemClock().now()
    last = moment_of(until, now) if until else now
    first = moment_of(since, now) if since else before(last)
    if first >= last:
        raise UsageError(
            "`--since` is not before `--until`", hint="for example --since 14d --until 7d"
        )
    rules = rules_in(config_file()) if wanted.shape is not None else ()
    view = _asked(wanted, first, last, peer, rules, limit)
    span = {"since": first.isoformat(), "until": last.isoformat(), "peer": peer}
    if as_json:
        found = view.model_dump(mode="json")
        empty = "" if view.rows else wanted.empty
        output.print_json({"report": name, **span, "empty": empty, **found})
    elif chart or target or form not in ("", "table"):
        deliver(view, f"{CHART}{chart}" if chart else form or format_of(target), sink)
        return
    else:
        _print(name, wanted, view, first, peer)
    if missing := cut(view):
        output.hint(missing)
        raise typer.Exit(CUT_EXIT)


def _sink(form: str, chart: str, target: str, *, force: bool, as_json: bool) -> Sink:
    """Return where the rows go.

    Raises:
        UsageError: what is wanted does not go together, or cannot be written.
    """
    if form:
        require_format(form, FORMATS)
    require_kind(chart)
    if as_json and (chart or target or form not in ("", "table")):
        raise UsageError("--json goes with no other form of the rows", hint="leave it out")
    if chart and form not in ("", "table"):
        raise UsageError("--chart and --format together", hint="leave one of them out")
    sink = Sink(target, force=force)
    if form == PARQUET:
        sink.require_no_terminal()
    return sink


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


def _asked(
    wanted: Report, first: datetime, last: datetime, peer: str, rules: Sequence[Rule], limit: int
) -> SqlView:
    asked = question_of(wanted, Span(first, last, peer), limit)
    view = call(lambda client: client.sql(checked(SqlArguments, **asked)))
    return shaped(wanted, view, rules, limit)


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
    output.table(view.columns, rows, may_lack=_MAY_LACK)


def _cell(value: object, kind: str) -> str:
    """Return a value as people read it: a time local, and to the minute on a terminal."""
    if value is None:
        return ""
    if kind.startswith("TIMESTAMP") and isinstance(value, str):
        return output.short_moment(datetime.fromisoformat(value))
    if isinstance(value, float):
        return f"{value:,.10g}"
    return str(value)
