"""What the real agents printed, and any other bytes, through the readers.

The transcripts are our own, by `record_transcripts.py`. For each agent's pinned version they fix
which events come of a run and in which words it fails.
"""

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, cast

import pytest

from cmesh.model import Event, Result, TaskId, TaskState
from cmesh.protocol.convert import event_message, outcome_from
from cmesh.runner.evidence import Exit
from cmesh.runner.manifest import load_manifests
from cmesh.runner.reader import EVENT_LIMIT, LATE_LIMIT, Outcome, RunnerEvent
from cmesh.runner.readers import reader_of
from tests.contract.record_transcripts import TASK_ID, TRANSCRIPTS, cases

AGENTS = ("claude", "codex", "gemini", "opencode")
PARSERS = {name: manifest.parser for name, manifest in load_manifests().items()}
CALL_KEYS = {"id", "tool", "arguments", "command", "path"}
RESULT_KEYS = {"id", "tool", "is_error", "command", "exit_code"}
COST_KEYS = {"cost_usd", "tokens_in", "tokens_out", "turns"}
SEEDS = 300
THEN = datetime(2026, 11, 24, tzinfo=UTC)


class Run(NamedTuple):
    """A recorded run as its reader tells it."""

    events: list[RunnerEvent]
    outcome: Outcome

    def of(self, kind: str) -> list[RunnerEvent]:
        return [event for event in self.events if event.kind == kind]


def transcript(name: str, case: str) -> Run:
    [path] = TRANSCRIPTS.glob(f"{name}-*-{case}.jsonl")
    head, _, body = path.read_bytes().partition(b"\n")
    ended = json.loads(head)
    reader = reader_of(PARSERS[name])
    events = reader.feed(body)
    exit_ = Exit(verdict="exited", exit_code=ended["exit_code"])
    outcome = reader.finish(exit_, ended["stderr"].encode())
    return Run([*events, *outcome.events], outcome)


def test_each_agent_has_a_transcript_of_each_case_by_a_version_that_its_manifest_takes() -> None:
    for name in AGENTS:
        versions = load_manifests()[name].versions
        assert versions is not None
        found = {path.stem.split("-")[2]: path for path in TRANSCRIPTS.glob(f"{name}-*")}
        assert set(found) == set(cases(name, Path("/"))) - missing(name)
        assert all(versions.hold(path.stem.split("-")[1]) for path in found.values())


def missing(name: str) -> set[str]:
    # opencode asks again without end, and says nothing of it.
    return {"quota"} if name == "opencode" else set()


@pytest.mark.parametrize("name", AGENTS)
def test_a_run_tells_its_commands_with_exit_codes_and_the_files_it_changed(name: str) -> None:
    run = transcript(name, "tools")
    assert (run.outcome.state, run.outcome.text) == (TaskState.SUCCEEDED, "mended")
    assert not run.of("raw")[1:], "there is a line that its reader does not know"
    called = [e.data["command"] for e in run.of("tool_call") if "command" in e.data]
    assert called == ["cat deploy.log", "ls absent"]
    ended = [e.data for e in run.of("tool_result") if "command" in e.data]
    assert [data["command"] for data in ended] == called
    # gemini calls each that it could start a success, and says no number.
    codes = [None, None] if name == "gemini" else [0, 2]
    assert [data["exit_code"] for data in ended] == codes
    said = ["write", "write"] if name == "gemini" else ["add", "update"]
    changes = {e.data["path"]: e.data["change"] for e in run.of("file_change")}
    assert changes == dict(
        zip(["/task/project/new.txt", "/task/project/deploy.log"], said, strict=True)
    )
    tools = {e.data["tool"] for e in run.of("tool_call")}
    assert {e.data["tool"] for e in run.of("file_change")} <= tools


@pytest.mark.parametrize("name", AGENTS)
def test_the_last_cost_is_that_of_the_result(name: str) -> None:
    run = transcript(name, "tools")
    costs = [event.data for event in run.of("cost")]
    assert costs[-1].items() >= asdict(run.outcome.usage).items()
    if name in {"claude", "opencode"}:  # the others say it once, at the end of a turn
        assert len(costs) > 2
        read = [int(str(data["tokens_in"])) for data in costs]
        assert read == sorted(read)
        assert costs[-1]["turns"] == 6


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("case", ["tools", "retry", "cut", "refused"])
def test_the_keys_of_the_data_are_the_same_for_each_agent(name: str, case: str) -> None:
    for event in transcript(name, case).events:
        match event.kind:
            case "tool_call":
                assert CALL_KEYS >= set(event.data) >= {"id", "tool", "arguments"}
                assert event.text == event.data["tool"]
            case "tool_result":
                assert RESULT_KEYS >= set(event.data) >= {"id", "tool", "is_error"}
            case "file_change":
                assert set(event.data) == {"id", "tool", "path", "change"}
            case "cost":
                assert set(event.data) == COST_KEYS
            case kind:
                assert kind in {"text", "raw", "retry", "rate_limit", "warning"}


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("refused", "no such model"),
        ("login", "api"),
        ("quota", "your quota is used up"),
    ],
)
def test_a_model_that_refuses_fails_the_run_in_its_own_words(
    name: str, case: str, said: str
) -> None:
    if case in missing(name):
        return
    outcome = transcript(name, case).outcome
    assert outcome.state is TaskState.FAILED
    # codex names the status alone of a failure that it tried again.
    known = said in outcome.error.lower()
    assert known or (name == "codex" and "429 Too Many Requests" in outcome.error)
    assert "{" not in outcome.error
    assert len(outcome.error) < 300


@pytest.mark.parametrize(("name", "case"), [("claude", "retry"), ("codex", "cut")])
def test_a_retry_is_told_with_its_number(name: str, case: str) -> None:
    run = transcript(name, case)
    assert run.outcome.state is TaskState.SUCCEEDED
    retries = [event.data for event in run.of("retry")]
    assert retries
    assert retries[0]["attempt"] == 1
    assert int(str(retries[0]["max_retries"])) >= 1


# What a line may hold, also where something else is expected.
SCALARS: list[object] = [
    None, True, False, 0, -1, 7, 2**53 + 1, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "a", "caf\xe9", "\ud800", "\x1b[2J", "{", "Exit code 9", "success", "completed",
]  # fmt: skip


def damaged(chance: Random, value: object) -> object:
    """Return a JSON value with other values in some places, keys taken away in some."""
    if chance.random() < 0.08:
        return chance.choice([*SCALARS, [], {}, [value], {"type": value}])
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {key: damaged(chance, item) for key, item in items if chance.random() > 0.02}
    if isinstance(value, list):
        return [damaged(chance, item) for item in cast("list[object]", value)]
    return value


def stream(chance: Random, name: str) -> bytes:
    """Return lines of a real run, damaged in their values, broken in the middle, out of order."""
    pieces: list[bytes] = []
    for line in chance.choice(RUNS[name]):
        value = damaged(chance, line)
        piece = json.dumps(value).encode()
        if chance.random() < 0.1:
            piece = piece[: chance.randrange(len(piece))] + chance.randbytes(chance.randrange(9))
        pieces.insert(chance.choice([0, len(pieces), len(pieces)]), piece)
    return b"\n".join(pieces)


def runs(name: str) -> list[list[object]]:
    paths = sorted(TRANSCRIPTS.glob(f"{name}-*"))
    return [[json.loads(line) for line in path.read_text().splitlines()[1:]] for path in paths]


RUNS = {name: runs(name) for name in AGENTS}


def checked(events: list[RunnerEvent], outcome: Outcome) -> None:
    """Check that all of it can be stored, sent and signed."""
    ends = [event.end for event in events]
    assert ends == sorted(set(ends))
    for seq, told in enumerate(events, 1):
        event = Event(seq=seq, ts=THEN, kind=told.kind, text=told.text, data=told.data)
        event_message(TaskId(TASK_ID), event).model_dump_json().encode()
    result = Result(
        state=outcome.state,
        witness="exit 0",
        text=outcome.text,
        error=outcome.error,
        usage=outcome.usage,
    )
    outcome_from(result).model_dump_json().encode()


@pytest.mark.parametrize("name", AGENTS)
def test_no_line_breaks_a_run(name: str) -> None:
    for seed in range(SEEDS):
        chance = Random(seed)
        reader = reader_of(PARSERS[name])
        events = reader.feed(stream(chance, name))
        exit_ = Exit(verdict="exited", exit_code=chance.randrange(2))
        outcome = reader.finish(exit_, b"\xff\x1b[1m")
        checked([*events, *outcome.events], outcome)


@pytest.mark.parametrize("name", AGENTS)
def test_a_good_run_stands_between_bytes_that_are_none(name: str) -> None:
    [path] = TRANSCRIPTS.glob(f"{name}-*-tools.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)[1:]
    # A result line that holds bytes of another encoding is one all the same.
    marked = lines[-1].replace(b'"type"', b'"note":"caf\xe9","type"', 1)
    reader = reader_of(PARSERS[name])
    data = b'\x00\xff\xfe\n{"type": "resu\n' + b"".join(lines[:-1]) + marked
    events = reader.feed(data)
    outcome = reader.finish(Exit(verdict="exited", exit_code=0))
    assert outcome.state is TaskState.SUCCEEDED
    assert [event.kind for event in events[:2]] == ["raw", "raw"]


def much(name: str) -> Iterator[bytes]:
    """Yield more than a hundred MiB of what an agent may say, none of it ending."""
    said: dict[str, Any] = {
        "claude": {"type": "assistant", "message": {"id": "m", "content": [{"type": "tool_use"}]}},
        "codex": {"type": "item.started", "item": {"type": "mcp_tool_call", "id": "a"}},
        "gemini": {"type": "error", "message": "x" * 500},
        "opencode": {"type": "text", "part": {"text": "y" * 500}},
    }
    line = json.dumps(said[name]).encode()
    for index in range(200):
        yield line.replace(b'"id": "', b'"id": "%d' % index) + b"\n"
    block = b"z" * (256 * 1024)
    for _ in range(100 * 4):
        yield block


@pytest.mark.parametrize("name", AGENTS)
def test_output_without_an_end_takes_a_bounded_memory(name: str) -> None:
    reader = reader_of(PARSERS[name])
    tracemalloc.start()
    try:
        told = sum(len(reader.feed(piece)) for piece in much(name))
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert told <= EVENT_LIMIT + LATE_LIMIT
    # A line of 4 MiB, as bytes and as text, joined with what comes next.
    assert peak < 40 * 1024 * 1024


def test_what_is_counted_is_told_beyond_the_limit_of_events() -> None:
    reader = reader_of(PARSERS["opencode"])
    text = json.dumps({"type": "text", "part": {"text": "a"}}).encode()
    step = {"type": "step_finish", "part": {"tokens": {"input": 1}}}
    lines = [*[text] * EVENT_LIMIT, json.dumps(step).encode(), text]
    events = reader.feed(b"\n".join(lines) + b"\n")
    assert [event.kind for event in events[-2:]] == ["warning", "cost"]
    assert events[-1].data["tokens_in"] == 1
