"""opencode's stream, by transcripts of the forms measured with 1.18.33."""

import json
from typing import Any

import pytest

from cmesh.model import TaskState
from cmesh.runner.evidence import Exit
from cmesh.runner.opencode_stream import OpencodeReader
from cmesh.runner.reader import Outcome, RunnerEvent

SESSION = "ses_01a223d1b6447991"
TOKENS = {
    "total": 125,
    "input": 70,
    "output": 20,
    "reasoning": 5,
    "cache": {"write": 10, "read": 20},
}
INPUT = {"command": "cat x; false", "description": "look"}
REFUSED = "The user rejected permission to use this specific tool call."


def line(kind: str, **part: Any) -> dict[str, Any]:
    about = {"type": kind, "timestamp": 1, "sessionID": SESSION}
    return about | {"part": {"id": "prt_1", "sessionID": SESSION, **part}}


def tool(name: str = "bash", **state: Any) -> dict[str, Any]:
    return line("tool_use", type="tool", tool=name, callID="call_1", state={"input": INPUT} | state)


def finish(reason: str, **part: Any) -> dict[str, Any]:
    return line("step_finish", reason=reason, **({"tokens": TOKENS, "cost": 0.25} | part))


def failure(name: str = "APIError", **data: Any) -> dict[str, Any]:
    return {"type": "error", "sessionID": SESSION, "error": {"name": name, "data": data}}


START = line("step_start")
CALLED = tool(status="completed", output="no x", metadata={"exit": 1, "output": "no x"})
STEP = [START, line("text", text="I will look"), CALLED, finish("tool-calls")]
LAST = [START, line("text", text="there is"), line("text", text="no x")]
RUN = [*STEP, *LAST, finish("stop")]


def read(
    *lines: dict[str, Any] | str, code: int = 0, verdict: str = "exited", stderr: bytes = b""
) -> tuple[list[RunnerEvent], Outcome]:
    reader = OpencodeReader()
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    events = reader.feed("".join(f"{text}\n" for text in texts).encode())
    exit_ = Exit(verdict=verdict, exit_code=code)  # pyright: ignore[reportArgumentType]
    return events, reader.finish(exit_, stderr)


def test_a_run_becomes_calls_results_texts_and_costs() -> None:
    events, outcome = read(*RUN)
    kinds = ["raw", "text", "tool_call", "tool_result", "cost", "text", "text", "cost"]
    assert [e.kind for e in events] == kinds
    assert events[2].text == "bash"
    assert json.loads(str(events[2].data["arguments"])) == INPUT
    assert events[3].text == "no x"
    about = {"id": "call_1", "tool": "bash", "command": "cat x; false"}
    assert events[3].data == about | {"is_error": True, "exit_code": 1}
    # A command that failed is the agent's business: the run went well.
    assert (outcome.state, outcome.error) == (TaskState.SUCCEEDED, "")
    assert outcome.session == SESSION
    assert len({event.end for event in events}) == len(events)


def test_the_texts_of_the_last_step_that_has_any_are_the_result() -> None:
    assert read(*RUN)[1].text == "there is\nno x"
    assert read(*STEP, START, finish("stop"))[1].text == "I will look"


def test_tokens_and_cost_are_the_sum_of_the_steps() -> None:
    events, outcome = read(*RUN)
    usage = outcome.usage
    assert (usage.tokens_in, usage.tokens_out, usage.cost_usd) == (200, 50, 0.5)
    assert [e.data["cost_usd"] for e in events if e.kind == "cost"] == [0.25, 0.5]


@pytest.mark.parametrize("cost", [0, -1, True, "1", None])
def test_a_cost_that_says_nothing_is_none(cost: object) -> None:
    usage = read(START, finish("stop", cost=cost))[1].usage
    assert (usage.cost_usd, usage.tokens_in) == (None, 100)


@pytest.mark.parametrize(
    ("lines", "code", "error"),
    [
        ([failure(message="Unauthorized", statusCode=401)], 0, "Unauthorized"),
        ([failure(message="Unauthorized", statusCode=401)], 1, "Unauthorized"),
        ([failure("UnknownError")], 1, "UnknownError"),
        ([{"type": "error", "error": 7}], 1, "7"),
        ([failure(message="bad"), finish("stop")], 0, "bad"),
        ([finish("stop"), failure(message="bad")], 0, "bad"),
        ([finish("stop")], 1, "exit 1"),
        ([finish("length")], 0, "the last step ended with `length`"),
        ([finish("")], 0, "the last step ended with ``"),
        ([finish("stop"), START, finish("tool-calls")], 0, "the last step ended with `tool-calls`"),
    ],
)
def test_success_needs_exit_0_a_last_step_that_stopped_and_no_error(
    lines: list[dict[str, Any]], code: int, error: str
) -> None:
    _events, outcome = read(*LAST, *lines, code=code)
    assert (outcome.state, outcome.error) == (TaskState.FAILED, error)


def test_exit_0_without_a_finished_step_is_a_failure_that_used_nothing_known() -> None:
    _events, outcome = read(*LAST)
    assert (outcome.state, outcome.error) == (TaskState.FAILED, "no step_finish line")
    assert outcome.usage.tokens_in is None


def test_a_refused_call_fails_the_run_and_is_named() -> None:
    said = "! permission requested: bash (*); auto-rejecting"
    refused = tool(status="error", error=REFUSED)
    events, outcome = read(START, said, refused, finish("tool-calls"))
    assert outcome.state is TaskState.FAILED
    assert outcome.error == f"the last step ended with `tool-calls`: bash: {REFUSED}"
    assert outcome.denials == (f"bash {json.dumps(INPUT)}",)
    kinds = ["raw", "raw", "tool_call", "tool_result", "warning", "cost"]
    assert [e.kind for e in events] == kinds
    assert (events[3].data["is_error"], events[3].data["exit_code"]) == (True, None)


def test_without_any_line_stderr_explains() -> None:
    _events, outcome = read(code=1, stderr=b"You must provide a message\n")
    assert outcome.error == "exit 1: You must provide a message"


@pytest.mark.parametrize(
    ("verdict", "state"),
    [("cancelled", TaskState.CANCELLED), ("timed_out", TaskState.TIMED_OUT)],
)
def test_only_the_shim_says_that_it_was_cancelled(verdict: str, state: TaskState) -> None:
    assert read(*RUN, verdict=verdict)[1].state is state
    aborted = failure("MessageAbortedError", message="Aborted")
    assert read(*STEP, aborted)[1].state is TaskState.FAILED


@pytest.mark.parametrize(
    "odd",
    [
        "no json at all",
        "[1, 2]",
        '{"type": 7}',
        '{"type": "text"}',
        '{"type": "text", "part": {"text": 7}}',
        '{"type": "tool_use", "part": [1]}',
        '{"type": "tool_use", "part": {"state": {"input": 7, "error": [], "metadata": 1}}}',
        '{"type": "step_finish", "part": {"tokens": {"input": "many", "cache": 1}, "cost": "x"}}',
        '{"type": "step_finish", "part": {"cost": 1e999}}',
        '{"type": "a type of next year", "sessionID": ["x"]}',
    ],
)
def test_a_line_of_an_unknown_form_does_not_break_the_run(odd: str) -> None:
    _events, outcome = read(odd, *RUN)
    assert (outcome.state, outcome.text) == (TaskState.SUCCEEDED, "there is\nno x")
    assert (outcome.usage.tokens_in, outcome.usage.cost_usd) == (200, 0.5)


def test_costs_beyond_all_measure_are_none() -> None:
    huge = finish("stop", cost=1e308)
    assert read(huge, huge)[1].usage.cost_usd is None


def test_remote_text_is_scrubbed_and_capped() -> None:
    state = {"input": {"command": "\u202e" + "z" * 9000}, "output": "\x1b[2J" + "y" * 20_000}
    odd = line("tool_use", tool="a\nb", callID="c\nd", state=state | {"status": "completed"})
    events, _outcome = read(odd)
    assert (events[1].text, events[1].data["id"]) == ("a b", "c d")
    assert len(str(events[1].data["arguments"])) == 2000
    assert "\u202e" not in str(events[1].data["arguments"])
    assert len(events[2].text) == 8000
    assert "\x1b" not in events[2].text
