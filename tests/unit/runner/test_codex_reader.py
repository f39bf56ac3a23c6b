"""Codex's stream, by transcripts of the forms measured with 0.169.0."""

import json
from typing import Any

import pytest

from cmesh.model import TaskState
from cmesh.runner.codex_stream import CodexReader
from cmesh.runner.evidence import Exit
from cmesh.runner.reader import Outcome, RunnerEvent

THREAD = "01a223d1-b644-7991-882a-df2435cdba23"
COMMAND = {"id": "item_0", "type": "command_execution", "command": "/bin/bash -lc 'cat x; false'"}
STARTED = COMMAND | {"aggregated_output": "", "exit_code": None, "status": "in_progress"}
FAILED = COMMAND | {"aggregated_output": "no x", "exit_code": 1, "status": "failed"}
USAGE = {"input_tokens": 200, "cached_input_tokens": 50, "output_tokens": 40}
DONE: dict[str, Any] = {"type": "turn.completed", "usage": USAGE}
LOST: dict[str, Any] = {"type": "turn.failed", "error": {"message": "status 401 Unauthorized"}}


def message(text: str) -> dict[str, Any]:
    return {"type": "item.completed", "item": {"id": "m", "type": "agent_message", "text": text}}


RUN: list[dict[str, Any]] = [
    {"type": "thread.started", "thread_id": THREAD},
    {"type": "turn.started"},
    {"type": "item.started", "item": STARTED},
    {"type": "item.completed", "item": FAILED},
    message("there is no x"),
    DONE,
]


def read(
    *lines: dict[str, Any] | str, code: int = 0, verdict: str = "exited", stderr: bytes = b""
) -> tuple[list[RunnerEvent], Outcome]:
    reader = CodexReader()
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    events = reader.feed("".join(f"{text}\n" for text in texts).encode())
    exit_ = Exit(verdict=verdict, exit_code=code)  # pyright: ignore[reportArgumentType]
    return events, reader.finish(exit_, stderr)


def test_a_run_becomes_calls_results_text_and_cost() -> None:
    events, outcome = read(*RUN)
    assert [e.kind for e in events] == ["raw", "tool_call", "tool_result", "text", "cost"]
    assert json.loads(str(events[1].data["arguments"])) == {"command": COMMAND["command"]}
    assert events[2].text == "no x"
    about = {"id": "item_0", "tool": "command", "command": "cat x; false"}
    assert events[1].data.items() >= about.items()
    assert events[2].data == about | {"is_error": True, "exit_code": 1}
    # A command that failed is the agent's business: the turn went well.
    assert (outcome.state, outcome.error) == (TaskState.SUCCEEDED, "")
    assert (outcome.text, outcome.session) == ("there is no x", THREAD)
    usage = outcome.usage
    assert (usage.cost_usd, usage.tokens_in, usage.tokens_out) == (None, 200, 40)


def test_the_last_message_is_the_result() -> None:
    assert read(message("I will look"), *RUN)[1].text == "there is no x"


@pytest.mark.parametrize(
    ("lines", "code", "error"),
    [
        ([LOST], 1, "status 401 Unauthorized"),
        ([LOST], 0, "status 401 Unauthorized"),
        ([{"type": "turn.failed"}], 1, "the turn failed"),
        ([DONE | {"error": {"message": "cut"}}], 0, "cut"),
        ([DONE | {"error": 7}], 0, "7"),
        ([{"type": "error", "message": "bad model"}, DONE], 0, "bad model"),
        ([DONE, LOST], 0, "status 401 Unauthorized"),
        ([LOST, DONE], 0, "status 401 Unauthorized"),
        ([DONE], 1, "exit 1"),
    ],
)
def test_success_needs_exit_0_and_a_completed_turn_without_an_error(
    lines: list[dict[str, Any]], code: int, error: str
) -> None:
    _events, outcome = read(*RUN[:-1], *lines, code=code)
    assert (outcome.state, outcome.error) == (TaskState.FAILED, error)


def test_exit_0_without_the_end_of_a_turn_is_a_failure() -> None:
    _events, outcome = read(*RUN[:-1])
    assert (outcome.state, outcome.error) == (TaskState.FAILED, "no turn.completed line")


def test_without_any_line_stderr_explains() -> None:
    _events, outcome = read(code=1, stderr=b"No prompt provided via stdin.\n")
    assert outcome.error == "exit 1: No prompt provided via stdin."


@pytest.mark.parametrize(
    ("verdict", "state"),
    [("cancelled", TaskState.CANCELLED), ("timed_out", TaskState.TIMED_OUT)],
)
def test_only_the_shim_says_that_it_was_cancelled(verdict: str, state: TaskState) -> None:
    assert read(*RUN, verdict=verdict)[1].state is state
    assert read(LOST, code=1)[1].state is TaskState.FAILED


def test_a_retry_and_a_warning_do_not_fail_the_run() -> None:
    again = {"type": "error", "message": "Reconnecting... 1/5 (stream disconnected)"}
    warning = {"id": "i", "type": "error", "message": "falling back to HTTP"}
    events, outcome = read(again, {"type": "item.completed", "item": warning}, *RUN)
    assert [e.kind for e in events[:2]] == ["retry", "warning"]
    assert outcome.state is TaskState.SUCCEEDED


def test_calls_of_mcp_servers_and_changes_of_files_are_told() -> None:
    call = {"id": "c", "type": "mcp_tool_call", "server": "notes", "tool": "find"}
    content = [{"type": "text", "text": "found"}, {"type": "image"}]
    answer = call | {"status": "completed", "error": None, "result": {"content": content}}
    broken = call | {"status": "failed", "error": {"message": "timed out"}, "result": None}
    change = {"id": "f", "type": "file_change", "changes": [{"path": "a", "kind": "add"}]}
    events, _outcome = read(
        {"type": "item.started", "item": call | {"arguments": {"q": "x"}}},
        *({"type": "item.completed", "item": item} for item in (answer, broken, change)),
    )
    told = [(e.kind, e.text, e.data.get("is_error")) for e in events]
    assert told == [
        ("tool_call", "mcp__notes__find", None),
        ("tool_result", "found\n[image]", False),
        ("tool_result", "timed out", True),
        ("tool_call", "file_change", None),
        ("tool_result", "1 file", False),
        ("file_change", "add a", None),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "no json at all",
        "[1, 2]",
        '{"type": 7}',
        '{"type": "item.completed"}',
        '{"type": "item.completed", "item": {"type": []}}',
        '{"type": "item.completed", "item": {"type": "mcp_tool_call", "result": [1]}}',
        '{"type": "item.started", "item": [1]}',
        '{"type": "turn.completed", "usage": {"input_tokens": "many"}}',
        '{"type": "a type of next year", "x": {}}',
    ],
)
def test_a_line_of_an_unknown_form_does_not_break_the_run(line: str) -> None:
    _events, outcome = read(line, *RUN)
    assert (outcome.state, outcome.text) == (TaskState.SUCCEEDED, "there is no x")
    assert outcome.usage.tokens_in == 200


def test_remote_text_is_scrubbed_and_capped() -> None:
    item = COMMAND | {"command": "\u202e" + "z" * 9000, "id": "a\nb"}
    out = {
        "type": "item.completed",
        "item": FAILED | {"aggregated_output": "\x1b[2J" + "y" * 20_000},
    }
    events, _outcome = read({"type": "item.started", "item": item}, out)
    assert len(str(events[0].data["arguments"])) == 2000
    assert "\u202e" not in str(events[0].data["arguments"])
    assert events[0].data["id"] == "a b"
    assert len(events[1].text) == 8000
    assert "\x1b" not in events[1].text
