"""Gemini's stream, by a transcript of the forms measured with 0.61.0."""

import json
from typing import Any

import pytest

from cmesh.model import TaskState
from cmesh.runner.evidence import Exit
from cmesh.runner.gemini_stream import GeminiReader
from cmesh.runner.reader import Outcome, RunnerEvent

SESSION = "0198c0de-1111-7aaa-8bbb-0123456789ab"
STATS = {"total_tokens": 240, "input_tokens": 200, "output_tokens": 40, "tool_calls": 1}
CALL = {"tool_name": "run_shell_command", "tool_id": "c1", "parameters": {"command": "cat x"}}
ANSWER = {"type": "tool_result", "tool_id": "c1", "status": "success", "output": "no x"}
DONE: dict[str, Any] = {"type": "result", "status": "success", "stats": STATS}
LOST: dict[str, Any] = {
    "type": "result",
    "status": "error",
    "error": {"type": "Error", "message": "[API Error: no such model]"},
    "stats": STATS,
}


def says(text: str, *, role: str = "assistant", delta: bool = True) -> dict[str, Any]:
    line = {"type": "message", "role": role, "content": text}
    return line | {"delta": True} if delta else line


RUN: list[dict[str, Any]] = [
    {"type": "init", "session_id": SESSION, "model": "auto"},
    says("is there an x?", role="user", delta=False),
    says("I will "),
    says("look"),
    {"type": "tool_use"} | CALL,
    ANSWER,
    says("there is "),
    says("no x"),
    DONE,
]


def read(
    *lines: dict[str, Any] | str, code: int = 0, verdict: str = "exited", stderr: bytes = b""
) -> tuple[list[RunnerEvent], Outcome]:
    reader = GeminiReader()
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    events = reader.feed("".join(f"{text}\n" for text in texts).encode())
    exit_ = Exit(verdict=verdict, exit_code=code)  # pyright: ignore[reportArgumentType]
    return events, reader.finish(exit_, stderr)


def test_a_run_becomes_texts_calls_results_and_cost() -> None:
    events, outcome = read(*RUN)
    assert [(e.kind, e.text) for e in events] == [
        ("raw", "session started"),
        ("text", "I will look"),
        ("tool_call", "run_shell_command"),
        ("tool_result", "no x"),
        ("text", "there is no x"),
        ("cost", "200 tokens in, 40 out, 2 turns"),
    ]
    assert events[0].data == {"session_id": SESSION, "model": "auto"}
    about = {"id": "c1", "tool": "run_shell_command", "command": "cat x"}
    assert events[2].data == about | {"arguments": '{"command": "cat x"}'}
    assert events[3].data == about | {"is_error": False, "exit_code": None}
    assert (outcome.state, outcome.error) == (TaskState.SUCCEEDED, "")
    assert (outcome.text, outcome.session) == ("there is no x", SESSION)
    usage = outcome.usage
    assert (usage.cost_usd, usage.tokens_in, usage.tokens_out) == (None, 200, 40)


def test_each_event_has_an_offset_of_its_own() -> None:
    events, _outcome = read(*RUN)
    ends = [event.end for event in events]
    assert ends == sorted(set(ends))


@pytest.mark.parametrize(
    ("lines", "code", "error"),
    [
        ([LOST], 144, "[API Error: no such model]"),
        ([LOST], 0, "[API Error: no such model]"),
        ([LOST | {"error": 7}], 1, "the agent failed"),
        ([DONE | {"status": "done"}], 0, "the agent failed"),
        ([DONE], 1, "exit 1"),
        (
            [{"type": "error", "severity": "error", "message": "too many turns"}, DONE],
            0,
            "too many turns",
        ),
        ([{"type": "error", "message": ""}, DONE], 0, "the agent failed"),
        ([{"type": "error", "severity": "error", "message": "cut"}], 0, "cut"),
        ([DONE, LOST], 0, "[API Error: no such model]"),
    ],
)
def test_success_needs_exit_0_and_a_result_line_that_says_so(
    lines: list[dict[str, Any]], code: int, error: str
) -> None:
    _events, outcome = read(*RUN[:-1], *lines, code=code)
    assert (outcome.state, outcome.error) == (TaskState.FAILED, error)


def test_exit_0_without_a_result_line_is_a_failure() -> None:
    # So it ends when a signal ends it.
    _events, outcome = read(*RUN[:-1])
    assert (outcome.state, outcome.error) == (TaskState.FAILED, "no result line")
    assert outcome.text == "there is no x"


def test_without_any_line_stderr_explains() -> None:
    _events, outcome = read(code=41, stderr=b"Please set an Auth method\n")
    assert outcome.error == "exit 41: Please set an Auth method"


@pytest.mark.parametrize(
    ("verdict", "state"),
    [("cancelled", TaskState.CANCELLED), ("timed_out", TaskState.TIMED_OUT)],
)
def test_only_the_shim_says_that_it_was_cancelled(verdict: str, state: TaskState) -> None:
    assert read(*RUN, verdict=verdict)[1].state is state
    assert read(*RUN[:-1], code=0)[1].state is TaskState.FAILED


def test_a_call_that_fails_is_the_agents_business_and_one_that_is_refused_is_told() -> None:
    failed = {"type": "execution_failed", "message": "exit 3"}
    refused = {"type": "policy_violation", "message": "denied by policy"}
    bad = ANSWER | {"status": "error", "output": "", "error": failed}
    events, outcome = read({"type": "tool_use"} | CALL, bad, *RUN)
    assert (events[1].text, events[1].data["is_error"]) == ("exit 3", True)
    assert (outcome.state, outcome.denials) == (TaskState.SUCCEEDED, ())
    _events, outcome = read({"type": "tool_use"} | CALL, bad | {"error": refused}, *RUN)
    assert outcome.denials == ("run_shell_command",)


def test_a_warning_does_not_fail_the_run() -> None:
    warning = {"type": "error", "severity": "warning", "message": "Loop detected"}
    events, outcome = read(warning, *RUN)
    assert (events[0].kind, events[0].text) == ("warning", "Loop detected")
    assert outcome.state is TaskState.SUCCEEDED


@pytest.mark.parametrize(
    "line",
    [
        "no json at all",
        "[1, 2]",
        '{"type": 7}',
        '{"type": "message"}',
        '{"type": "message", "role": "assistant", "content": 7}',
        '{"type": "tool_use", "tool_id": []}',
        '{"type": "tool_result", "error": [1]}',
        '{"type": "a type of next year", "x": {}}',
    ],
)
def test_a_line_of_an_unknown_form_does_not_break_the_run(line: str) -> None:
    _events, outcome = read(line, *RUN)
    assert (outcome.state, outcome.text) == (TaskState.SUCCEEDED, "there is no x")
    assert outcome.usage.tokens_in == 200


def test_an_unknown_line_is_kept_as_it_is() -> None:
    events, _outcome = read('{"type": "a type of next year"}', "no json")
    assert [(e.kind, e.text) for e in events] == [
        ("raw", '{"type": "a type of next year"}'),
        ("raw", "no json"),
    ]


def test_remote_text_is_scrubbed_and_capped() -> None:
    call = CALL | {"parameters": {"command": "\u202e" + "z" * 9000}, "tool_id": "a\nb"}
    out = ANSWER | {"output": "\x1b[2J" + "y" * 20_000}
    much = [says("w" * 10_000) for _ in range(20)]
    events, outcome = read({"type": "tool_use"} | call, out, *much, DONE)
    assert len(str(events[0].data["arguments"])) == 2000
    assert "\u202e" not in str(events[0].data["arguments"])
    assert events[0].data["id"] == "a b"
    assert (len(events[1].text), len(events[2].text)) == (8000, 8000)
    assert "\x1b" not in events[1].text
    assert len(outcome.text) == 64 * 1024
