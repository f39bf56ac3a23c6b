"""Arguments become one line of text, and variables one block, or neither is made."""

import ctypes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmesh.platform.windows.command_line import LINE_UNITS, command_line, environment_block
from cmesh.platform.windows.jobs import JobLimits, limits_of
from cmesh.platform.windows.kernel import milliseconds
from cmesh.platform.windows.process_calls import (
    Accounting,
    ExtendedLimits,
    ProcessInformation,
    StartupInfoEx,
)

PIECES = (
    '"',
    '"',
    "\\",
    "\\",
    " ",
    "\t",
    "a",
    "ü",
    "工",
    "\U0001f600",
    "&",
    "%PATH%",
    "^",
    "'",
    "\n",
)
WORDS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def taken_apart(line: str) -> list[str]:
    """Take a line apart as the C runtime does; tests/windows asks the real one."""
    program, _, rest = line.removeprefix('"').partition('"')
    words, word, quoted, begun = [program], "", False, False
    index = 0
    while index < len(rest):
        slashes = len(rest[index:]) - len(rest[index:].lstrip("\\"))
        index += slashes
        after = rest[index : index + 1]
        if after == '"':
            word += "\\" * (slashes // 2) + '"' * (slashes % 2)
            quoted, begun = quoted ^ (slashes % 2 == 0), True
        else:
            word += "\\" * slashes
            begun = begun or slashes > 0
            if after in {" ", "\t"} and not quoted:
                words, word, begun = [*words, word] if begun else words, "", False
            else:
                word, begun = word + after, begun or bool(after)
        index += 1
    return [*words, word] if begun else words


@settings(max_examples=500, deadline=None)
@given(st.lists(WORDS, max_size=5))
def test_a_line_comes_apart_into_the_same_arguments(words: list[str]) -> None:
    argv = [r"C:\Program Files\node.exe", *words]
    assert taken_apart(command_line(argv)) == argv


@pytest.mark.parametrize(
    "argv",
    [
        ["a.exe", "x\0y"],
        ['a".exe'],
        ["C:\\bin\\"],
        [""],
        [r"C:\npm\codex.cmd", "x"],
        [r"C:\npm\codex.BAT. ."],
        ["a.exe", "x" * LINE_UNITS],
    ],
)
def test_what_no_line_says_or_a_shell_would_read_is_refused(argv: list[str]) -> None:
    with pytest.raises(ValueError, match=r"null|no program|batch|longer"):
        command_line(argv)


def test_variables_are_sorted_without_case_and_ended_twice() -> None:
    block = environment_block({"b": "ü", "A": "", "=C:": "C:\\x"})
    assert block.decode("utf-16-le") == "=C:=C:\\x\0A=\0b=ü\0\0"
    assert environment_block({}) == b"\0\0\0\0"


@pytest.mark.parametrize(
    "environment", [{"": "x"}, {"a=b": ""}, {"a": "x\0"}, {"Path": "", "PATH": ""}]
)
def test_what_is_no_environment_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="variable"):
        environment_block(environment)


def test_structures_have_the_sizes_of_64_bit_windows() -> None:
    sizes = {
        StartupInfoEx: 112,
        ProcessInformation: 24,
        Accounting: 48,
        ExtendedLimits: 144,
    }
    assert {one: ctypes.sizeof(one) for one in sizes} == sizes
    assert ExtendedLimits.LimitFlags.offset == 16
    assert ExtendedLimits.JobMemoryLimit.offset == 120


def test_a_job_always_ends_with_its_handle_and_lets_nobody_leave() -> None:
    breakaway, kill_on_close, both = 0x800 | 0x1000, 0x2000, 0x8 | 0x200
    plain, limited = limits_of(JobLimits()), limits_of(JobLimits(processes=5, memory_bytes=1 << 33))
    for made in (plain, limited):
        assert made.LimitFlags & (breakaway | kill_on_close) == kill_on_close
    assert not plain.LimitFlags & both
    assert limited.LimitFlags & both == both
    assert (limited.ActiveProcessLimit, limited.JobMemoryLimit) == (5, 1 << 33)


@pytest.mark.parametrize(
    ("limit_s", "expected"),
    [(0.5, 500), (0, 0), (-0.001, 0), (-3.0, 0), (4_294_967.295, 0xFFFFFFFE), (1e12, 0xFFFFFFFE)],
)
def test_no_wait_for_a_program_is_one_without_a_limit(limit_s: float, expected: int) -> None:
    assert milliseconds(limit_s) == expected
