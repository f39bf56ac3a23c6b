"""Spans of tasks from their rows, and who loads OpenTelemetry."""

import logging
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from cmesh.daemon.answers import GroupView
from cmesh.daemon.arguments import Context
from cmesh.daemon.chains import session_of
from cmesh.daemon.spans import Span, of_call, of_ended
from cmesh.interfaces import traces
from cmesh.interfaces.otel import Exporter
from cmesh.model import Direction, TaskState
from cmesh.protocol.trace import header
from cmesh.store.fold import Draft
from cmesh.store.records import TaskSnapshot
from tests.fakes.operations import FakeOperations
from tests.unit.store.support import NOON, result, state, task

CANARY = "canary"


def ended(way: Direction, *, how: TaskState = TaskState.SUCCEEDED, trace: str = "") -> TaskSnapshot:
    record = task(direction=way, prompt=CANARY)
    record = replace(
        record, spec=replace(record.spec, traceparent=header(record.task_id, within=trace))
    )
    draft = Draft.start(record, seq=1, ts=NOON)
    for second, name in enumerate(("sent", "accepted"), start=1):
        draft.add(state(record, name), NOON + timedelta(seconds=second))
    draft.add(result(record, how, text=CANARY), NOON + timedelta(seconds=9))
    return draft.snapshot()


def test_each_side_makes_its_spans_and_they_fit_together_without_a_word() -> None:
    asked = ended(Direction.OUT)
    worked = replace(asked, record=replace(asked.record, direction=Direction.IN))
    spans = {one.name: one for one in (*of_ended(asked), *of_ended(worked))}
    assert spans["cmesh work"].parent == spans["cmesh task"].id
    assert spans["cmesh link"].parent == spans["cmesh task"].id
    assert spans["cmesh run"].parent == spans["cmesh work"].id
    assert len({one.trace for one in spans.values()}) == 1
    assert len({one.id for one in spans.values()}) == len(spans)
    assert spans["cmesh link"].begin == NOON + timedelta(seconds=1)
    assert spans["cmesh link"].end == NOON + timedelta(seconds=2)
    assert of_ended(asked) == of_ended(asked)
    assert CANARY not in str(spans)


def test_a_task_of_a_task_hangs_below_its_run_and_a_group_below_one_call() -> None:
    parent = ended(Direction.IN)
    run = next(one for one in of_ended(parent) if one.name == "cmesh run")
    child = ended(Direction.OUT, trace=run.trace)
    view = FakeOperations()._new_task(  # pyright: ignore[reportPrivateUsage]
        child.record.task_id, FakeOperations().peers["worker"], cast("Any", _asked())
    )
    context = Context(session=session_of(parent.record.task_id))
    begin = view.created_at - timedelta(seconds=1)
    times = (begin, begin + timedelta(seconds=5))
    called = of_call(context, "delegate", view, child.record.spec.traceparent, times)
    assert called is not None
    assert (called.parent, called.trace) == (run.id, run.trace)
    assert next(iter(of_ended(child))).parent == called.id
    group = GroupView(group="g-1", asked=2, tasks=[view.model_copy(update={"group": "g-1"})] * 2)
    of_group = of_call(context, "fan_out", group, child.record.spec.traceparent, times)
    assert of_group is not None
    assert of_group.id != called.id
    repeated = of_call(context, "delegate", view, child.record.spec.traceparent, (NOON, NOON))
    assert repeated is None


def _asked() -> object:
    return SimpleNamespace(runner="claude", profile="query", directory="/srv/app", prompt=CANARY)


def test_the_sdk_exports_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=blue")
    kept, urls = InMemorySpanExporter(), list[str | None]()

    def make(url: str | None) -> InMemorySpanExporter:
        urls.append(url)
        return kept

    exporter = Exporter("http://127.0.0.1:4318/", "laptop", make)
    for span in of_ended(ended(Direction.IN, how=TaskState.FAILED)):
        exporter.take(span)
    exporter.close()
    assert urls == ["http://127.0.0.1:4318/v1/traces"]
    spans = {one.name: one for one in kept.get_finished_spans()}
    work, run = spans["cmesh work"], spans["cmesh run"]
    assert work.status.status_code is StatusCode.ERROR
    assert run.parent is not None
    assert work.context is not None
    assert run.parent.span_id == work.context.span_id
    assert work.resource.attributes["team"] == "blue"
    assert work.resource.attributes["service.name"] == "cmesh"
    assert (work.attributes or {})["cmesh.cost_usd"] == 0.25


@pytest.mark.parametrize(
    ("endpoint", "environment", "wanted"),
    [
        ("", {}, False),
        ("http://127.0.0.1:4318", {}, True),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, True),
        ("http://127.0.0.1:4318", {"OTEL_SDK_DISABLED": "true"}, False),
        ("http://127.0.0.1:4318", {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_traces_go_where_somebody_said_so(
    endpoint: str, environment: dict[str, str], *, wanted: bool
) -> None:
    assert traces.is_wanted(endpoint, environment) is wanted


@pytest.mark.anyio
async def test_a_missing_extra_is_told_and_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "cmesh.interfaces.otel", None)
    config = SimpleNamespace(
        trace=SimpleNamespace(endpoint="http://127.0.0.1:1"), node=SimpleNamespace(hostname="x")
    )
    daemon = SimpleNamespace(
        rules=SimpleNamespace(config=lambda: config), settings=SimpleNamespace(environment={})
    )
    with caplog.at_level(logging.WARNING):
        assert await traces.open_exporter(cast("Any", daemon)) is None
    assert "no_traces" in caplog.text
    assert not hasattr(daemon, "trace")


def test_a_daemon_without_traces_loads_nothing_of_the_sdk() -> None:
    code = "import sys, cmesh.interfaces.serve; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_a_span_without_an_end_is_none() -> None:
    record = task(direction=Direction.OUT)
    assert of_ended(Draft.start(record, seq=1, ts=NOON).snapshot()) == []
    assert isinstance(of_ended(ended(Direction.OUT))[0], Span)
