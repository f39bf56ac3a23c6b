"""Claude Code's stream, by transcripts of the forms measured with 2.1.330."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmesh.model import TaskState
from cmesh.runner.claude_stream import ClaudeReader
from cmesh.runner.evidence import Exit
from cmesh.runner.reader import Outcome, RunnerEvent

SESSION = "0198c0de-1111-7aaa-8bbb-0123456789ab"
CALL = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "echo hi"}}
BACK = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "hi", "is_error": False}
RESULT: dict[str, Any] = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "result": "it said hi",
    "session_id": SESSION,
    "num_turns": 2,
    "total_cost_usd": 0.0016,
    "usage": {"input_tokens": 200, "cache_read_input_tokens": 50, "output_tokens": 40},
    "permission_denials": [],
    "terminal_reason": "completed",
}
RUN: list[dict[str, Any]] = [
    {"type": "system", "subtype": "init", "session_id": SESSION, "model": "m", "tools": ["Bash"]},
    {"type": "assistant", "message": {"content": [CALL]}, "session_id": SESSION},
    {"type": "user", "message": {"content": [BACK]}, "session_id": SESSION},
    {"type": "assistant", "message": {"content": [{"type": "text", "text": "it said hi"}]}},
    RESULT,
]


def read(
    *lines: dict[str, Any] | str, code: int = 0, stderr: bytes = b""
) -> tuple[list[RunnerEvent], Outcome]:
    reader = ClaudeReader()
    events: list[RunnerEvent] = []
    for line in lines:
        text = line if isinstance(line, str) else json.dumps(line)
        events += reader.feed(text.encode() + b"\n")
    return events, reader.finish(Exit(verdict="exited", exit_code=code), stderr)


def test_a_run_becomes_calls_results_text_and_cost() -> None:
    events, outcome = read(*RUN)
    assert [e.kind for e in events] == ["raw", "tool_call", "tool_result", "text", "cost"]
    assert events[1].text == "Bash"
    assert json.loads(str(events[1].data["arguments"])) == {"command": "echo hi"}
    assert events[2].text == "hi"
    assert outcome.state is TaskState.SUCCEEDED
    assert outcome.text == "it said hi"
    assert outcome.session == SESSION
    usage = outcome.usage
    assert (usage.cost_usd, usage.tokens_in, usage.tokens_out) == (0.0016, 250, 40)


def test_the_last_result_line_wins() -> None:
    _events, outcome = read(*RUN, RESULT | {"result": "a second turn", "total_cost_usd": 0.5})
    assert outcome.text == "a second turn"
    assert outcome.usage.cost_usd == 0.5


def test_an_api_failure_says_success_and_is_none() -> None:
    failed = RESULT | {"is_error": True, "result": "API Error: 529", "terminal_reason": "api_error"}
    _events, outcome = read(failed, code=1)
    assert outcome.state is TaskState.FAILED
    assert outcome.error == "api_error: API Error: 529"


def test_an_error_result_counts_even_with_exit_0() -> None:
    _events, outcome = read(RESULT | {"is_error": True, "result": "interrupted"})
    assert outcome.state is TaskState.FAILED


def test_a_limit_is_told_by_its_errors() -> None:
    over = {"type": "result", "subtype": "error_max_budget_usd", "is_error": True}
    _events, outcome = read(over | {"errors": ["budget of 1 USD is spent"]}, code=1)
    assert outcome.error == "error_max_budget_usd: budget of 1 USD is spent"


def test_exit_0_without_a_result_line_is_a_failure() -> None:
    _events, outcome = read(*RUN[:-1])
    assert (outcome.state, outcome.error) == (TaskState.FAILED, "no result line")


def test_without_any_line_stderr_explains() -> None:
    _events, outcome = read(code=1, stderr=b"error: session id is in use\n")
    assert outcome.error == "exit 1: error: session id is in use"


def test_a_refused_tool_call_is_success_with_a_warning() -> None:
    denial = {"tool_name": "Bash", "tool_input": {"command": "touch x"}}
    events, outcome = read(RESULT | {"permission_denials": [denial]})
    assert outcome.state is TaskState.SUCCEEDED
    assert outcome.denials == ('Bash {"command": "touch x"}',)
    assert [e.kind for e in events] == ["warning", "cost"]


def test_retries_and_rate_limits_have_their_kinds() -> None:
    retry = {"type": "system", "subtype": "api_retry", "attempt": 1, "error": "overloaded"}
    limit = {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected"}}
    events, _outcome = read(retry, limit)
    assert [(e.kind, e.text) for e in events] == [
        ("retry", "overloaded"),
        ("rate_limit", "rejected"),
    ]
    assert events[0].data["attempt"] == 1


@pytest.mark.parametrize(
    "line",
    [
        "no json at all",
        "[1, 2]",
        '{"type": 7}',
        '{"type": "assistant"}',
        '{"type": "assistant", "message": {"content": [1, null, {"type": []}]}}',
        '{"type": "user", "message": [1]}',
        '{"type": "result", "usage": {"input_tokens": "many"}, "total_cost_usd": NaN}',
        '{"type": "result", "usage": {"input_tokens": "many"}, "total_cost_usd": 1e999}',
        '{"type": "result", "permission_denials": [[]], "errors": 3}',
        '{"type": "a type of next year", "x": {}}',
        "[" * 100_000,
    ],
)
def test_a_line_of_an_unknown_form_does_not_break_the_run(line: str) -> None:
    _events, outcome = read(line, *RUN)
    assert outcome.state is TaskState.SUCCEEDED
    assert outcome.text == "it said hi"


def test_one_line_of_several_blocks_gives_offsets_that_rise() -> None:
    blocks = [{"type": "text", "text": str(n)} for n in range(3)]
    line = {"type": "assistant", "message": {"content": blocks}}
    events, _outcome = read(line)
    size = len(json.dumps(line)) + 1
    assert [e.end for e in events] == [size - 2, size - 1, size]


@given(st.lists(st.integers(0, 5000), max_size=8))
def test_feeding_in_other_pieces_gives_the_same_events(cuts: list[int]) -> None:
    data = b"".join(json.dumps(line).encode() + b"\n" for line in RUN) + b"no line end"
    whole, pieces = ClaudeReader(), ClaudeReader()
    edges = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    pairs = pairwise(edges)
    fed = [e for start, end in pairs for e in pieces.feed(data[start:end])]
    assert fed == whole.feed(data)
    done = Exit(verdict="exited", exit_code=0)
    assert pieces.finish(done) == whole.finish(done)


def test_remote_text_is_scrubbed_and_capped() -> None:
    text = {"type": "text", "text": "\x1b]0;x\x07" + "y" * 20_000}
    call = CALL | {"name": "B\nash\x1b", "input": {"a": "\u202e" + "z" * 9000}}
    events, _outcome = read({"type": "assistant", "message": {"content": [text, call]}})
    assert len(events[0].text) == 8000
    assert "\x1b" not in events[0].text
    assert events[1].text == "B ash"
    assert len(str(events[1].data["arguments"])) == 2000
    assert "\u202e" not in str(events[1].data["arguments"])
