"""The code's tables and the checked model (`models/`) do the same, row by row, both ways.

`models/rows.txt` is made by the model's own exhaustive runs, so no comment can lie about it;
`models/run.sh short` (part `models` of `scripts/test`) makes it anew and compares.
"""

import hashlib
import re
from collections import defaultdict
from dataclasses import replace

import pytest

from cmesh.protocol.facts import CallerFacts, WorkerFacts
from cmesh.protocol.happenings import CallerEvent, WorkerEvent
from cmesh.protocol.row import Row, Write
from cmesh.protocol.state import caller, worker
from cmesh.protocol.table import CALLER, WORKER
from tests.contract.model_rows import MODELS, Line, effects_of, fits, read_lines

ROWS = MODELS / "rows.txt"
LINES = read_lines(ROWS.read_text("utf-8"))
PASSED = [line for line in LINES if line.after]
MET = [line for line in LINES if not line.after]
FEWEST_LINES = 800

ADDED = {
    # What people see change is an event too; the model's events are the agent's alone.
    ("W9", "approved"): frozenset({Write("event")}),
    ("W15", "look"): frozenset({Write("event")}),
}

OUTSIDE = {
    **{
        (row.id, row.guard): "the model's stores are not restored"
        for row in CALLER
        if row.id == "C24" and (row.write or row.out)
    },
    ("W3", ("policy allows or asks", "the turn before is not ready")): (
        "the model's caller follows a turn only once it has ended"
    ),
    ("W4", ("other hash",)): "the model has one payload an id",
    ("W30", ("claim is W's own", "the store was restored")): "the model's stores are not restored",
    ("W30", ("no wish",)): "the model's stores are not restored",
    ("W22", ("n > last event",)): "the model's stores are not restored",
    ("W22", ()): "an answer for display; the model's caller never asks about what it did not send",
}
"""Rows of the code that do something no run of the model does, each with its reason."""

TABLE = (*CALLER, *WORKER)


def disagreements(table: tuple[Row, ...]) -> list[str]:
    """Compare both ways; return each line that the code's table does not match."""
    may: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line in PASSED:
        may[_side(line), line.situation].add(line.id)
    found = [wrong for line in PASSED for wrong in _model_to_code(line, table, may)]
    return found + [wrong for line in MET for wrong in _code_to_model(line, table, may)]


def _model_to_code(
    line: Line, table: tuple[Row, ...], may: dict[tuple[str, str], set[str]]
) -> list[str]:
    rows = [row for row in table if row.side == _side(line) and fits(row, line)]
    same = [row for row in rows if row.id == line.id]
    if not same:
        return [f"no row of the code: {line.text}"]
    wanted = line.effects()
    added = ADDED.get((line.id, line.event_name), frozenset())
    if (wanted := replace(wanted, writes=wanted.writes | added)) != effects_of(same[0], line):
        return [f"another effect in the code: {line.text}"]
    # Where several rows fit (looks) the code takes the first; it must be one the model may take.
    if rows[0].id not in may[_side(line), line.situation]:
        return [f"the code takes {rows[0].id}: {line.text}"]
    return []


def _code_to_model(
    line: Line, table: tuple[Row, ...], may: dict[tuple[str, str], set[str]]
) -> list[str]:
    row = next(row for row in table if row.side == "worker" and fits(row, line))
    idle = effects_of(row, line).none(line.state)
    allowed = may["worker", line.situation]
    if idle and allowed:
        return [f"the model does {sorted(allowed)}, the code nothing: {line.text}"]
    if not idle and row.id not in allowed:
        return [f"the code does {row.id}, the model not: {line.text}"]
    return []


def _side(line: Line) -> str:
    return "caller" if line.caller else "worker"


def test_the_rows_are_those_of_the_model_as_it_is() -> None:
    files = [(MODELS / name).read_bytes() for name in ("delegation.pml", "rows.pml", "rows.c")]
    made_of = ROWS.read_text("utf-8").splitlines()[1].removeprefix("# of ")
    assert made_of == hashlib.sha256(b"".join(files)).hexdigest(), "run models/run.sh rows"
    assert len(LINES) > FEWEST_LINES


def test_every_transition_of_the_model_says_which_row_it_is() -> None:
    text = (MODELS / "delegation.pml").read_text("utf-8")
    body = text[text.index("proctype C(") : text.index("proctype Shim(")]
    body = re.sub(r"#ifdef N_\w+.*?(#else|#endif)", "", body, flags=re.DOTALL)  # the mistakes
    body = re.sub(r"#if defined\(N_.*?(#else|#endif)", "", body, flags=re.DOTALL)
    transitions = re.split(r"(?m)^  :: atomic", body)[1:]
    unnamed = [one for one in transitions if not re.search(r"\b(ROW\(|NOROW\b)", one)]
    assert len(transitions) > 35
    assert not unnamed


def test_what_the_model_does_the_code_does_and_nothing_else() -> None:
    assert disagreements(TABLE) == []


def test_the_step_functions_take_those_rows() -> None:
    for line in PASSED:
        known, event = line.facts, line.event
        if isinstance(known, CallerFacts):
            assert isinstance(event, CallerEvent)
            step = caller(event, known)
        else:
            assert isinstance(known, WorkerFacts)
            assert isinstance(event, WorkerEvent)
            step = worker(event, known)
        taken = next(row for row in TABLE if row.side == _side(line) and fits(row, line))
        assert (step.row, step.sends, step.acts) == (taken.id, taken.out, taken.act)


def test_every_row_that_does_something_is_in_the_model_or_listed_with_a_reason() -> None:
    passed: set[int] = set()
    for line in PASSED:
        passed |= {i for i, row in enumerate(TABLE) if row.side == _side(line) and fits(row, line)}
    silent = {i for i, row in enumerate(TABLE) if not (row.write or row.out or row.act)}
    missing = {(TABLE[i].id, TABLE[i].guard) for i in set(range(len(TABLE))) - passed - silent}
    assert missing == set(OUTSIDE)


def test_every_row_that_the_model_names_exists_and_is_passed() -> None:
    named = set(re.findall(r"\bROW\((\w+),", (MODELS / "delegation.pml").read_text("utf-8")))
    assert named - {row.id for row in TABLE} == {"id"}  # the macro's own definition
    # A frame towards the caller is never late in the model, so no event comes twice.
    assert named - {"id"} - {line.id for line in PASSED} == {"C13"}


@pytest.mark.parametrize(
    ("row_id", "change"),
    [
        pytest.param("C2", {"write": ()}, id="sent without a commit"),
        pytest.param("C7", {"out": ()}, id="a wish that is not sent again"),
        pytest.param("C17", {"out": ()}, id="no receipt"),
        pytest.param("W5", {"write": ()}, id="no tombstone"),
        pytest.param("W6", {"next": "expired"}, id="another end"),
        pytest.param("W14", {"guard": ("no wish", "no claim")}, id="a second shim in one life"),
        pytest.param("W16", {"states": ()}, id="a cancel that burns no claim"),
        pytest.param("W21", {"guard": ("wish", "owner dead")}, id="ended without a count"),
        pytest.param("W26", {"out": ()}, id="no offer"),
        pytest.param("W27", {"guard": ("directory exists",)}, id="tidied before the receipt"),
    ],
)
def test_a_row_that_does_something_else_is_found(row_id: str, change: dict[str, object]) -> None:
    broken = tuple(replace(row, **change) if row.id == row_id else row for row in TABLE)
    assert disagreements(broken)
