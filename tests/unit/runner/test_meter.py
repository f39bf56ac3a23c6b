"""Limits of a run, by what its output tells."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cmesh.model import Limits, TaskState
from cmesh.runner.claude_stream import ClaudeReader
from cmesh.runner.codex_stream import CodexReader
from cmesh.runner.evidence import Exit
from cmesh.runner.gemini_stream import GeminiReader
from cmesh.runner.json_lines import JsonLineReader
from cmesh.runner.meter import Meter, Terms, note_terms, noted_terms
from cmesh.runner.opencode_stream import OpencodeReader
from cmesh.runner.reader import OutputReader, RunnerEvent
from cmesh.runner.readers import note_parser, noted_reader

Lines = list[Mapping[str, Any]]


def claude(turns: int) -> Lines:
    lines: Lines = []
    for turn in range(turns):
        name, call = f"msg_{turn}", f"toolu_{turn}"
        start = {"id": name, "usage": {"input_tokens": 100, "output_tokens": 1}}
        block: dict[str, Any] = {"type": "tool_use", "id": call, "name": "Bash", "input": {}}
        back = {"type": "tool_result", "tool_use_id": call, "content": "x"}
        delta = {"type": "message_delta", "usage": {"output_tokens": 33}}
        lines += [
            {"type": "stream_event", "event": {"type": "message_start", "message": start}},
            {"type": "assistant", "message": start | {"content": [block]}},
            {"type": "stream_event", "event": delta, "api_message_id": name},
            {"type": "user", "message": {"content": [back]}},
        ]
    return lines


def codex(turns: int) -> Lines:
    lines: Lines = []
    for turn in range(turns):
        item = {"id": f"item_{turn}", "type": "command_execution", "command": "x"}
        lines += [
            {"type": "item.started", "item": item | {"status": "in_progress"}},
            {"type": "item.completed", "item": item | {"status": "completed", "exit_code": 0}},
        ]
    return lines


def gemini(turns: int) -> Lines:
    lines: Lines = []
    for turn in range(turns):
        lines += [
            {"type": "tool_use", "tool_name": "run_shell_command", "tool_id": f"t{turn}"},
            {"type": "tool_result", "tool_id": f"t{turn}", "status": "success", "output": "x"},
        ]
    return lines


def opencode(turns: int) -> Lines:
    lines: Lines = []
    for turn in range(turns):
        tokens = {"input": 100, "output": 33}
        state: dict[str, Any] = {"status": "completed", "input": {}, "output": "x"}
        lines += [
            {"type": "step_start"},
            {"type": "tool_use", "part": {"tool": "bash", "callID": f"c{turn}", "state": state}},
            {"type": "step_finish", "part": {"reason": "tool-calls", "tokens": tokens}},
        ]
    return lines


SPEAKERS = {
    "claude": (ClaudeReader, claude),
    "codex": (CodexReader, codex),
    "gemini": (GeminiReader, gemini),
    "opencode": (OpencodeReader, opencode),
}


def told(reader: JsonLineReader, lines: Lines) -> list[RunnerEvent]:
    """Return the warnings of limits."""
    events: list[RunnerEvent] = []
    for line in lines:
        events += reader.feed(json.dumps(line).encode() + b"\n")
    return [event for event in events if "limit" in event.data]


@pytest.mark.parametrize("name", SPEAKERS)
def test_a_run_is_stopped_when_its_model_is_asked_beyond_its_turns(name: str) -> None:
    make, lines = SPEAKERS[name]
    reader = make()
    reader.meter = Meter(Terms(turns=5))
    warnings = told(reader, lines(4))
    assert reader.meter.spent is None
    (warning,) = warnings
    assert (warning.kind, warning.text) == ("warning", "4 of 5 turns used")
    assert warning.data == {"limit": "turns", "used": 4, "most": 5}
    told(reader, lines(5)[len(lines(4)) :])
    assert reader.used.turns == 5
    assert reader.meter.spent is not None
    assert reader.meter.spent.words == "5 of 5 turns used"


def test_a_program_that_keeps_to_its_turns_is_stopped_beyond_them_only() -> None:
    reader = ClaudeReader()
    reader.meter = Meter(Terms(turns=2, own=frozenset({"turns"})))
    told(reader, claude(2))
    assert reader.meter.spent is None
    told(reader, claude(3)[8:])
    assert reader.meter.spent is not None


@pytest.mark.parametrize("name", ["claude", "opencode"])
def test_tokens_are_counted_as_they_are_told(name: str) -> None:
    make, lines = SPEAKERS[name]
    reader = make()
    reader.meter = Meter(Terms(tokens=300))
    (warning,) = told(reader, lines(2))
    assert warning.data == {"limit": "tokens", "used": 266, "most": 300}
    assert reader.meter.spent is None
    told(reader, lines(3)[len(lines(2)) :])
    assert reader.meter.spent is not None
    assert (reader.used.tokens_in, reader.used.tokens_out) == (300, 99)


def test_a_run_that_ends_by_itself_is_not_stopped_for_what_it_used() -> None:
    reader = OpencodeReader()
    reader.meter = Meter(Terms(tokens=100, turns=1))
    last = {"reason": "stop", "tokens": {"input": 100, "output": 33}}
    warnings = told(reader, [{"type": "step_start"}, {"type": "step_finish", "part": last}])
    assert sorted(str(one.data["limit"]) for one in warnings) == ["tokens", "turns"]
    assert reader.meter.spent is None


def test_calls_side_by_side_are_of_one_turn() -> None:
    reader, lines = CodexReader(), codex(2)
    told(reader, [lines[0], lines[2], lines[1], lines[3]])
    assert reader.used.turns == 1


def test_what_was_told_of_a_stopped_run_is_its_bill() -> None:
    reader = ClaudeReader()
    told(reader, claude(3))
    spent = Exit(verdict="budget_spent", exit_code=-15, error="turns: 3 of 3 turns used")
    outcome = reader.finish(spent)
    assert (outcome.state, outcome.code) == (TaskState.FAILED, "budget_spent")
    assert outcome.error.startswith("turns: 3 of 3 turns used")
    usage = outcome.usage
    assert (usage.turns, usage.tokens_in, usage.tokens_out) == (3, 300, 99)


def test_without_the_end_of_an_answer_its_written_tokens_are_not_told() -> None:
    reader = ClaudeReader()
    told(reader, [line for line in claude(3) if line["type"] != "stream_event"])
    usage = reader.finish(Exit(verdict="cancelled")).usage
    assert (usage.turns, usage.tokens_in, usage.tokens_out) == (3, 300, None)


def test_claude_s_own_stop_is_a_spent_budget() -> None:
    reader = ClaudeReader()
    line = {
        "type": "result",
        "subtype": "error_max_turns",
        "is_error": True,
        "terminal_reason": "max_turns",
        "errors": ["Reached maximum number of turns (2)"],
        "total_cost_usd": 0.5,
    }
    told(reader, [line])
    outcome = reader.finish(Exit(verdict="exited", exit_code=1))
    assert (outcome.state, outcome.code) == (TaskState.FAILED, "budget_spent")
    assert outcome.error == "max_turns: Reached maximum number of turns (2)"


def test_the_cost_of_earlier_turns_is_not_this_one_s() -> None:
    reader = ClaudeReader()
    reader.meter = Meter(Terms(cost_usd=0.1, cost_before=0.5))
    line: dict[str, Any] = {
        "type": "result",
        "is_error": False,
        "total_cost_usd": 0.55,
        "usage": {},
    }
    assert told(reader, [line]) == []
    (warning,) = told(reader, [line | {"total_cost_usd": 0.59}])
    assert warning.data["limit"] == "cost_usd"


def test_an_agent_whose_output_is_full_is_stopped_and_a_command_is_not() -> None:
    piece = json.dumps({"type": "item.updated", "x": "y" * 200}).encode() + b"\n"
    agent, command = CodexReader(), OutputReader()
    for reader in (agent, command):
        reader.meter = Meter(Terms(output_bytes=len(piece)))
        events = reader.feed(piece)
        assert [event.data["limit"] for event in events if "limit" in event.data] == [
            "output_bytes"
        ]
    assert agent.meter is not None
    assert agent.meter.spent is not None
    assert command.meter is not None
    assert command.meter.spent is None


def test_warnings_are_the_same_however_the_bytes_come() -> None:
    data = b"".join(json.dumps(line).encode() + b"\n" for line in claude(6))

    def events(size: int) -> list[RunnerEvent]:
        reader = ClaudeReader()
        reader.meter = Meter(Terms(turns=5, tokens=700))
        return [e for at in range(0, len(data), size) for e in reader.feed(data[at : at + size])]

    whole = events(len(data))
    assert events(7) == whole
    ends = [event.end for event in whole]
    assert ends == sorted(set(ends))


def test_a_restarted_daemon_holds_a_task_to_what_was_noted(tmp_path: Path) -> None:
    note_parser(tmp_path, "codex-json")
    assert noted_terms(tmp_path) is None
    note_terms(tmp_path, Limits(turns=3), frozenset({"turns"}), 0.25)
    reader = noted_reader(tmp_path)
    assert reader is not None
    assert reader.meter is not None
    terms = reader.meter.terms
    assert (terms.turns, terms.own, terms.cost_before) == (3, {"turns"}, 0.25)
    assert terms.runtime_s == Limits().runtime_s
