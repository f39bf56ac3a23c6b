"""What a result file says, and what is made of one that says nothing."""

from pathlib import Path

import pytest

from cmesh.runner.evidence import Exit, read_exit


def test_no_file_is_no_result(tmp_path: Path) -> None:
    assert read_exit(str(tmp_path / "result.json")) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"verdict": "won"}', "\ufffd"])
def test_a_file_that_makes_no_sense_is_damaged(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)
    exit_ = read_exit(str(path))
    assert exit_ is not None
    assert exit_.verdict == "damaged"
    assert (exit_.started, exit_.ended) == (None, None)


@pytest.mark.parametrize(
    ("exit_", "words"),
    [
        (Exit(verdict="exited", exit_code=0), "shim recorded exit 0"),
        (Exit(verdict="exited", exit_code=-15), "shim recorded signal 15"),
        (
            Exit(verdict="cancelled", exit_code=143),
            "end asked for, shim recorded exit 143 and counted 0 processes",
        ),
        (
            Exit(verdict="timed_out", exit_code=-9),
            "deadline passed, shim recorded signal 9 and counted 0 processes",
        ),
        (Exit(verdict="cancelled"), "end asked for, shim recorded no exit and counted 0 processes"),
        (Exit(verdict="spawn_failed", error="gone"), "shim could not start the agent: gone"),
    ],
)
def test_the_witness_says_what_the_shim_recorded(exit_: Exit, words: str) -> None:
    assert exit_.witness == words
