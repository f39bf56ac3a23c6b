"""What a worker says it takes, and what a task asks of it."""

from dataclasses import replace

import pytest

from cmesh.model import Changes, Limits, TaskId
from cmesh.protocol.features import FEATURES, TAKES, lacking, outdated
from cmesh.protocol.session_events import Opened
from cmesh.protocol.spec import Spec
from tests.unit.protocol.builders import (
    CALLER,
    CALLER_KEY,
    MAY,
    TASK,
    WORKER,
    WORKER_KEY,
    acceptor,
    dialler,
    local,
    open_pair,
    task_spec,
)

PLAIN = replace(task_spec(), limits=Limits(), artifacts=(), follows=None)
ASKS = {
    "turns": replace(PLAIN, limits=Limits(turns=3)),
    "tokens": replace(PLAIN, limits=Limits(tokens=3)),
    "follows": replace(PLAIN, follows=TaskId(TASK)),
    "artifacts": replace(PLAIN, artifacts=("dist/*",)),
    "base": replace(PLAIN, base="working-tree"),
    "changes": replace(PLAIN, changes=Changes(commit="a" * 40, sha256="b" * 64, bytes=1)),
    "answer_schema": replace(PLAIN, answer_schema='{"type":"object"}'),
}


def opened(*takes: str, software: str = "cmesh/0.1.0") -> Opened:
    return Opened(
        key=CALLER_KEY.public,
        incarnation="one",
        minor=0,
        software=software,
        may=MAY,
        unacknowledged=(),
        takes=frozenset(takes),
    )


def test_each_field_of_a_task_that_came_later_has_a_name_and_is_asked_about() -> None:
    later = {name for name, field in Spec.model_fields.items() if field.exclude_if is not None}
    assert set(FEATURES) == later == set(ASKS)


def test_any_worker_takes_what_there_always_was() -> None:
    assert lacking(PLAIN, ()) == ()
    assert outdated(PLAIN, "box", opened()) == ""


@pytest.mark.parametrize("name", ASKS)
def test_a_worker_that_does_not_know_a_field_is_not_asked_for_it(name: str) -> None:
    others = [one for one in TAKES if one != name]
    assert lacking(ASKS[name], others) == (name,)
    assert lacking(ASKS[name], TAKES) == ()
    said = outdated(ASKS[name], "box", opened(*others))
    assert said == f"`box` runs cmesh/0.1.0, which does not take {FEATURES[name]}"
    assert "an older version" in outdated(ASKS[name], "box", opened(software=""))


def test_the_handshake_tells_it_both_ways_and_an_older_side_tells_nothing() -> None:
    a = dialler(me=local(CALLER, CALLER_KEY, takes=TAKES))
    b = acceptor(me=local(WORKER, WORKER_KEY, takes=("turns", "what comes next")))
    a.receive_text(b.initial()[0])
    b.receive_text(a.outgoing()[0])
    a.receive_text(b.welcome(MAY, ()))
    b.receive_text(a.grants(MAY))
    assert a.opened is not None
    assert b.opened is not None
    assert a.opened.takes == {"turns", "what comes next"}
    assert b.opened.takes == set(TAKES)
    older, _ = open_pair()
    assert older.opened is not None
    assert older.opened.takes == set()
