"""The audit in SQL: a box, the cookbook's questions, the named reports, charts, and files to keep.

Statements come by POST and run where all do, in the daemon's confined process. An address asks only
what is ours: a report as it is, or a question of the cookbook. What is wrong with a statement is told
beside it; it is never lost.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cmesh.daemon.answers import SqlView
from cmesh.daemon.arguments import SqlArguments
from cmesh.errors import CmeshError, UsageError
from cmesh.interfaces.dashboard.chart import chart_of, measures
from cmesh.interfaces.dashboard.form import checked
from cmesh.interfaces.dashboard.page import Page, area_of, attachment, posted, render
from cmesh.interfaces.dashboard.questions import grouped, questions
from cmesh.interfaces.reporting import Span, moment_of, question_of, rules_in, shaped
from cmesh.interfaces.reports import REPORTS
from cmesh.interfaces.schema import SCHEMA_ROWS, SCHEMA_SQL, views
from cmesh.interfaces.tabular import cell_text, csv_lines, json_lines
from cmesh.paths import config_file
from cmesh.text import cut

__all__ = ["PAGE", "cells", "parameters"]

ROWS_SHOWN = 200
ROWS_KEPT = 100_000
"""Rows in a file: as many as an answer may have."""

CELL_CHARACTERS = 400
_PIECE_CHARACTERS = 64 * 1024
_FORMS: Mapping[str, tuple[Callable[[SqlView], Iterator[str]], str]] = {
    "csv": (csv_lines, "text/csv; charset=utf-8"),
    "json": (json_lines, "application/json"),
}
_SCHEMA = "`cmesh schema`"
_EMPTY = {
    "sql": "",
    "parameters": "",
    "report": "",
    "since": "30d",
    "until": "",
    "peer": "",
    "measure": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What came of a question; `empty` says what no rows mean."""

    view: SqlView
    empty: str = "no rows"


async def _audit(request: Request) -> Response:
    if request.method == "POST":
        return await _asked(request)
    fields = dict(_EMPTY)
    report, name = request.query_params.get("report", ""), request.query_params.get("ask", "")
    if report in REPORTS:
        fields["report"] = report
    elif name in questions():
        fields["sql"] = questions()[name].sql
    else:
        return _page(request, fields)
    return await _answered(request, fields, name)


async def _asked(request: Request) -> Response:
    return await _answered(request, {**_EMPTY, **await posted(request)}, "")


async def _answered(request: Request, fields: Mapping[str, str], name: str) -> Response:
    try:
        answer = await _ask(request, fields, ROWS_SHOWN)
    except CmeshError as error:
        return _page(request, fields, error=error, about=_about(fields, name))
    return _page(request, fields, answer=answer, about=_about(fields, name))


async def _export(request: Request) -> Response:
    fields = {**_EMPTY, **await posted(request)}
    form = fields.get("form", "csv")
    if form not in _FORMS:
        raise UsageError(f"`{form}` is no format", hint="csv or json")
    lines, kind = _FORMS[form]
    try:
        view = (await _ask(request, fields, ROWS_KEPT)).view
    except CmeshError as error:
        return _page(request, fields, error=error)
    # What was left out must not be forgotten with the page.
    name = f"first-{len(view.rows)}-rows" if view.truncated else fields["report"] or "audit"
    return attachment(f"cmesh-{name}.{form}", _pieces(lines(view)), kind)


async def _views(request: Request) -> Response:
    arguments = SqlArguments(sql=SCHEMA_SQL, limit=SCHEMA_ROWS)
    found = await area_of(request).daemon.call(lambda client: client.sql(arguments))
    return render(request, "audit_views.html", {"views": views(found.rows)})


async def _ask(request: Request, fields: Mapping[str, str], limit: int) -> _Answer:
    area = area_of(request)
    name = fields["report"]
    if not name:
        given = parameters(fields["parameters"])
        asked = checked(SqlArguments, sql=fields["sql"].strip(), parameters=given, limit=limit)
        return _Answer(view=await area.daemon.call(lambda client: client.sql(asked)))
    report = REPORTS.get(name)
    if report is None:
        raise UsageError("there is no such report", hint=f"the reports: {', '.join(REPORTS)}")
    span = _span(fields, area.clock.now())
    rules = await asyncio.to_thread(rules_in, config_file()) if report.shape else ()
    wanted = checked(SqlArguments, **question_of(report, span, limit))
    view = await area.daemon.call(lambda client: client.sql(wanted))
    return _Answer(view=shaped(report, view, rules, limit), empty=report.empty)


def _span(fields: Mapping[str, str], now: datetime) -> Span:
    first = moment_of(fields["since"].strip() or "all", now)
    until = fields["until"].strip()
    last = moment_of(until, now) if until else now
    if first >= last:
        raise UsageError("the time begins after its end", hint="for example from 14d to 7d")
    return Span(first, last, fields["peer"].strip())


def parameters(text: str) -> list[str | int | float | bool | None]:
    """Return what stands for `$1`, `$2` …, one a line: a JSON scalar, or else a text as it is."""
    found: list[str | int | float | bool | None] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = line
        plain = value is None or isinstance(value, str | int | float)
        found.append(value if plain else line)
    return found


def cells(view: SqlView) -> list[list[str]]:
    """Return an answer's rows as they are shown, each value cut."""
    return [[cut(cell_text(value), CELL_CHARACTERS) for value in row] for row in view.rows]


def _about(fields: Mapping[str, str], name: str) -> str:
    if fields["report"] in REPORTS:
        return REPORTS[fields["report"]].about
    found = questions().get(name)
    if found is None:
        same = (one for one in questions().values() if one.sql == fields["sql"].strip())
        found = next(same, None)
    return found.question if found else ""


def _hint(hint: str) -> tuple[str, bool, str]:
    """Return a hint in parts: between them stands the page of the views, where one names them."""
    before, found, after = hint.replace("run `cmesh schema`", f"see {_SCHEMA}").partition(_SCHEMA)
    return before, bool(found), after


def _page(
    request: Request,
    fields: Mapping[str, str],
    *,
    answer: _Answer | None = None,
    error: CmeshError | None = None,
    about: str = "",
) -> Response:
    view = answer.view if answer else None
    values: dict[str, object] = {
        "fields": fields,
        "about": about,
        "error": error,
        "hint": _hint(error.hint) if error else None,
        "view": view,
        "empty_means": answer.empty if answer else "",
        "rows": cells(view) if view else [],
        "chart": chart_of(view, fields["measure"]) if view else None,
        "measures": measures(view) if view else [],
        "reports": {name: report.about for name, report in REPORTS.items()},
        "groups": grouped(),
    }
    return render(request, "audit.html", values, status=400 if error else 200)


async def _pieces(lines: Iterator[str]) -> AsyncIterator[bytes]:
    held, size = list[str](), 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _PIECE_CHARACTERS:
            yield "".join(held).encode()
            held, size = [], 0
            await asyncio.sleep(0)  # others have their turn while a long file is made
    yield "".join(held).encode()


PAGE = Page(
    name="audit",
    title="Audit",
    path="/audit",
    routes=[
        Route("/audit", _audit, methods=["GET", "POST"]),
        Route("/audit/export", _export, methods=["POST"]),
        Route("/audit/views", _views),
    ],
)
