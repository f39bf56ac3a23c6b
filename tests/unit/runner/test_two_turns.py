"""A run of two turns: one reader after the other, and what they say together."""

import json

import pytest

from cmesh.model import TaskState, Usage
from cmesh.runner.codex_stream import CodexReader
from cmesh.runner.evidence import Exit
from cmesh.runner.meter import Meter, Terms
from cmesh.runner.reader import Outcome, Reader, RunnerEvent, joined

EXITED = Exit(verdict="exited", exit_code=0)


def turn(text: str, tokens: int) -> bytes:
    item = {"id": "i", "type": "command_execution", "command": "x", "status": "in_progress"}
    done = {**item, "status": "completed", "exit_code": 0}
    lines = [
        {"type": "thread.started", "thread_id": "t1"},
        {"type": "item.started", "item": item},
        {"type": "item.completed", "item": done},
        {"type": "item.completed", "item": {"type": "agent_message", "text": text}},
        {"type": "turn.completed", "usage": {"input_tokens": tokens, "output_tokens": 1}},
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def read(reader: Reader, data: bytes, piece: int) -> list[RunnerEvent]:
    events: list[RunnerEvent] = []
    for at in range(0, len(data), piece):
        events += reader.feed(data[at : at + piece])
    return events


def both(reader: Reader, piece: int) -> tuple[list[RunnerEvent], Outcome]:
    first, second = turn("one", 100), turn("two", 150)
    events = read(reader, first, piece)
    before = reader.finish(EXITED)
    later = reader.next_turn(adds_up_cost=False, adds_up_tokens=True)
    events += read(later, second, piece)
    return events, joined(before, later.finish(EXITED), cost=False, tokens=True)


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_events_and_outcome_follow_from_the_bytes_alone(piece: int) -> None:
    whole, outcome = both(CodexReader(), 100_000)
    assert both(CodexReader(), piece) == (whole, outcome)
    ends = [event.end for event in whole]
    assert ends == sorted(set(ends)), "a restart would tell one twice, or leave one out"
    assert ends[-1] <= len(turn("one", 100) + turn("two", 150))


def test_both_turns_are_counted_and_the_second_has_the_last_word() -> None:
    _events, outcome = both(CodexReader(), 100_000)
    assert (outcome.state, outcome.text, outcome.session) == (TaskState.SUCCEEDED, "two", "t1")
    assert outcome.claims is not None
    assert (outcome.claims.calls, outcome.claims.commands) == (2, 2)
    # Its tokens are those of the conversation, its turns are not.
    assert (outcome.usage.tokens_in, outcome.usage.tokens_out) == (150, 1)
    assert outcome.usage.turns == 4


@pytest.mark.parametrize(
    ("adds_up", "second", "cost_usd", "tokens_in"),
    [
        (True, Usage(cost_usd=0.5, tokens_in=30), 0.5, 30),
        (False, Usage(cost_usd=0.5, tokens_in=30), 0.75, 50),
        (True, Usage(), 0.25, 20),
        (False, Usage(), 0.25, 20),
    ],
)
def test_a_bill_counts_nothing_twice_and_loses_nothing(
    adds_up: bool, second: Usage, cost_usd: float, tokens_in: int
) -> None:
    first = Usage(cost_usd=0.25, tokens_in=20)
    outcomes = [Outcome(state=TaskState.SUCCEEDED, usage=usage) for usage in (first, second)]
    usage = joined(*outcomes, cost=adds_up, tokens=adds_up).usage
    assert (usage.cost_usd, usage.tokens_in) == (cost_usd, tokens_in)


def test_a_second_turn_is_held_to_what_the_first_has_left() -> None:
    reader = CodexReader()
    reader.meter = Meter(Terms(turns=4))
    read(reader, turn("one", 100), 100_000)
    assert reader.meter.reached(reader.used) is None
    reader.finish(EXITED)
    later = reader.next_turn(adds_up_cost=False, adds_up_tokens=True)
    (warning,) = [event for event in read(later, turn("two", 150), 1_000) if "limit" in event.data]
    assert warning.text == "4 of 4 turns used"
    assert later.meter is reader.meter
    reached = reader.meter.reached(later.used)
    assert reached is not None
    assert reached.words == "4 of 4 turns used"
