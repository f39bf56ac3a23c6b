"""The events of plain output follow from its bytes alone."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmesh.model import TaskState
from cmesh.runner.evidence import Exit
from cmesh.runner.reader import EVENT_LIMIT, LINE_LIMIT_BYTES, OutputReader, Reader, RunnerEvent

DONE = Exit(verdict="exited", exit_code=0)


def all_at_once(data: bytes) -> list[RunnerEvent]:
    reader = OutputReader()
    return [*reader.feed(data), *reader.finish(DONE).events]


def in_pieces(reader: Reader, data: bytes, cuts: list[int]) -> list[RunnerEvent]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pairs = pairwise(edges)
    return [event for start, end in pairs for event in reader.feed(data[start:end])]


def test_each_of_the_first_lines_is_an_event_with_the_offset_after_it() -> None:
    events = all_at_once(b"one\ntwo\nthr")
    assert [(e.text, e.end) for e in events] == [("one", 4), ("two", 8), ("thr", 11)]
    assert {e.kind for e in events} == {"output"}


@given(
    st.binary(max_size=300).map(lambda b: b.replace(b"\0", b"\n")),
    st.lists(st.integers(0, 10_000), max_size=6),
)
def test_feeding_in_other_pieces_gives_the_same_events(data: bytes, cuts: list[int]) -> None:
    reader = OutputReader()
    fed = in_pieces(reader, data, cuts)
    assert [*fed, *reader.finish(DONE).events] == all_at_once(data)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 250_000), max_size=6), st.integers(0, 3))
def test_long_lines_and_blocks_do_not_depend_on_the_feeding(cuts: list[int], shift: int) -> None:
    data = b"x\n" * 300 + b"-" * shift + "ä".encode() * 40_000 + b"\n" + b"long line\n" * 2000
    reader = OutputReader()
    fed = in_pieces(reader, data, cuts)
    assert [*fed, *reader.finish(DONE).events] == all_at_once(data)


@pytest.mark.parametrize("edge", range(LINE_LIMIT_BYTES - 6, LINE_LIMIT_BYTES + 6))
def test_a_feed_that_ends_at_the_limit_of_a_line_changes_nothing(edge: int) -> None:
    data = "ä".encode() * LINE_LIMIT_BYTES
    reader = OutputReader()
    fed = in_pieces(reader, b"-" + data, [edge])
    assert [*fed, *reader.finish(DONE).events] == all_at_once(b"-" + data)


def test_a_line_without_end_is_cut_between_characters() -> None:
    events = all_at_once(b"-" + "ä".encode() * LINE_LIMIT_BYTES)
    assert len(events) > 1
    assert not any("\ufffd" in event.text for event in events)


def test_a_replay_tells_exactly_what_was_not_stored() -> None:
    data = b"".join(b"line %d\n" % n for n in range(1000))
    events = all_at_once(data)
    stored = events[: len(events) // 2]
    again = [event for event in all_at_once(data) if event.end > stored[-1].end]
    assert stored + again == events


def test_more_events_than_the_limit_end_in_one_warning() -> None:
    events = all_at_once(b"a line of output\n" * 1_000_000)
    assert len(events) == EVENT_LIMIT
    assert [e.kind for e in events].count("warning") == 1
    assert events[-1].kind == "warning"


def test_terminal_controls_are_gone_from_events_and_final_text() -> None:
    reader = OutputReader()
    data = b"\x1b[31mred\x1b[0m\x00 \xe2\x80\xae\xff\n"
    events = reader.feed(data)
    outcome = reader.finish(DONE)
    assert events[0].text == "[31mred[0m \ufffd"
    assert outcome.text == "[31mred[0m \ufffd"


def test_the_final_text_is_the_tail() -> None:
    reader = OutputReader()
    reader.feed(b"first\n" + b"middle\n" * 5000 + b"last\n")
    outcome = reader.finish(DONE)
    assert len(outcome.text) <= 4000
    assert outcome.text.endswith("middle\nlast")
    assert outcome.state is TaskState.SUCCEEDED


def test_a_failure_names_the_exit_and_what_stderr_said() -> None:
    reader = OutputReader()
    outcome = reader.finish(Exit(verdict="exited", exit_code=3), b"no such unit\n")
    assert (outcome.state, outcome.error) == (TaskState.FAILED, "exit 3: no such unit")


def test_a_signal_is_a_failure_with_its_number() -> None:
    outcome = OutputReader().finish(Exit(verdict="exited", exit_code=-9))
    assert (outcome.state, outcome.error) == (TaskState.FAILED, "signal 9")


def test_the_verdict_of_the_shim_decides_over_the_exit_code() -> None:
    cancelled = Exit(verdict="cancelled", exit_code=0)
    late = Exit(verdict="timed_out", exit_code=0)
    never = Exit(verdict="spawn_failed", error="No such file or directory: `/x`")
    assert OutputReader().finish(cancelled).state is TaskState.CANCELLED
    assert OutputReader().finish(late).state is TaskState.TIMED_OUT
    outcome = OutputReader().finish(never)
    assert (outcome.state, outcome.code) == (TaskState.FAILED, "runner_failed")
    assert "No such file" in outcome.error
