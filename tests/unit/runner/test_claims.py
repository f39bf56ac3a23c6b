"""What an agent says it did, counted over real forms of its events."""

import json

from cmesh.runner.claims import COMMANDS_MOST, Claims
from cmesh.runner.claude_stream import ClaudeReader
from cmesh.runner.evidence import Exit
from cmesh.runner.reader import EVENT_LIMIT, OutputReader


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def call(number: int, name: str, **arguments: object) -> bytes:
    block = {"type": "tool_use", "id": f"t{number}", "name": name, "input": arguments}
    return line(type="assistant", message={"content": [block]})


def answer(number: int, text: str, *, failed: bool = False) -> bytes:
    block = {
        "type": "tool_result", "tool_use_id": f"t{number}", "content": text, "is_error": failed
    }  # fmt: skip
    return line(type="user", message={"content": [block]})


def claims_of(*lines: bytes) -> Claims:
    reader = ClaudeReader()
    reader.feed(b"".join(lines))
    claims = reader.finish(Exit(verdict="exited", exit_code=0)).claims
    assert claims is not None
    return claims


def test_commands_are_tied_to_how_they_ended_and_other_calls_only_counted() -> None:
    claims = claims_of(
        line(type="system", subtype="init", model="opus-9", session_id="s"),
        call(1, "Bash", command="make\ntest", description="x"),
        call(2, "Read", file_path="/a"),
        call(3, "Bash", command="ls"),
        answer(3, "a"),
        answer(1, "Exit code 2\nmake: *** no rule", failed=True),
        call(4, "Bash", command="sleep 9"),
    )
    assert (claims.calls, claims.commands, claims.model) == (4, 3, "opus-9")
    told = [(ran.command, ran.exit_code, ran.failed) for ran in claims.ran]
    assert told == [("make test", 2, True), ("ls", None, False), ("sleep 9", None, None)]


def test_all_are_counted_and_the_last_ones_kept_also_beyond_what_is_shown() -> None:
    many = EVENT_LIMIT + COMMANDS_MOST
    claims = claims_of(*(call(n, "Bash", command=f"c{n}") for n in range(many)))
    assert (claims.calls, claims.commands, len(claims.ran)) == (many, many, COMMANDS_MOST)
    assert claims.ran[-1].command == f"c{many - 1}"


def test_what_is_no_command_is_a_call_and_no_more() -> None:
    claims = Claims()
    odd: list[object] = ["", 7, None, ["ls"]]
    for one in odd:
        claims.add("tool_call", {"command": one})
    claims.add("tool_result", {"exit_code": True})
    assert (claims.calls, claims.commands) == (4, 0)


def test_who_calls_nothing_has_zero_and_a_command_has_none() -> None:
    said = line(type="result", subtype="success", is_error=False, result="done")
    assert claims_of(said).calls == 0
    reader = OutputReader()
    reader.feed(b"done\n")
    assert reader.finish(Exit(verdict="exited", exit_code=0)).claims is None
