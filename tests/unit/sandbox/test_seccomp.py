"""The filter as a BPF program, run by a small interpreter: what each call is answered."""

import errno
import re
import struct
from pathlib import Path

import pytest

from cmesh.sandbox.calls import CHECKED, METADATA, REFUSED, UNKNOWN
from cmesh.sandbox.seccomp import ARCHITECTURES, program

ALLOW = 0x7FFF0000
HEADERS = (
    Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    Path("/usr/include/asm-generic/unistd.h"),
)
MACHINES = sorted(ARCHITECTURES)


def answer(
    machine: str, number: int, *arguments: int, metadata: bool = True, arch: int | None = None
) -> str:
    """Return `allow`, or the error's name, as the kernel would."""
    code = program(machine, metadata=metadata)
    steps = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    data = struct.pack("<IIQ6Q", number, ARCHITECTURES[machine][1] if arch is None else arch, 0,
                       *(list(arguments) + [0] * 6)[:6])  # fmt: skip
    loaded = at = 0
    while True:
        kind, yes, no, value = steps[at]
        at += 1
        match kind:
            case 0x20:
                [loaded] = struct.unpack_from("<I", data, value)
            case 0x54:
                loaded &= value
            case 0x15:
                at += yes if loaded == value else no
            case 0x35:
                at += yes if loaded >= value else no
            case 0x45:
                at += yes if loaded & value else no
            case _:
                return "allow" if value == ALLOW else errno.errorcode[value & 0xFFFF]


def number(machine: str, name: str) -> int:
    known = {**CHECKED, **REFUSED, **UNKNOWN, **METADATA}
    found = known[name][ARCHITECTURES[machine][0]]
    assert found is not None
    return found


@pytest.mark.parametrize("machine", MACHINES)
def test_every_listed_call_is_answered_as_listed(machine: str) -> None:
    for table, expected in ((REFUSED, "EPERM"), (UNKNOWN, "ENOSYS"), (METADATA, "allow")):
        for numbers in table.values():
            if (there := numbers[ARCHITECTURES[machine][0]]) is not None:
                assert answer(machine, there) == expected
    for numbers in METADATA.values():
        if (there := numbers[ARCHITECTURES[machine][0]]) is not None:
            assert answer(machine, there, metadata=False) == "EPERM"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("socket", (2, 1, 0), "allow"),
        ("socket", (2, 1 | 0o2000000, 6), "allow"),
        ("socket", (10, 1, 0), "allow"),
        ("socket", (1, 1, 0), "EPERM"),
        ("socket", (2, 2, 0), "EPERM"),
        ("socket", (2, 3, 1), "EPERM"),
        ("socket", (2, 1, 262), "EPERM"),
        ("socket", (16, 3, 0), "EPERM"),
        ("socketpair", (1, 1, 0), "allow"),
        ("socketpair", (1, 5 | 0o4000, 0), "allow"),
        ("socketpair", (1, 2, 0), "EPERM"),
        ("sendto", (3, 0, 1, 0x4000), "allow"),
        ("sendto", (3, 0, 1, 0x20000000), "EPERM"),
        ("sendmsg", (3, 0, 0x20000000), "EPERM"),
        ("sendmmsg", (3, 0, 1, 0x20004000), "EPERM"),
        ("clone", (0x01200011,), "allow"),
        ("clone", (0x10000011,), "EPERM"),
        ("clone", (0x00020011,), "EPERM"),
        ("ioctl", (0, 0x5413), "allow"),
        ("ioctl", (0, 0x5412), "EPERM"),
        ("prlimit64", (0, 7), "allow"),
        ("prlimit64", (1, 0), "EPERM"),
        ("setpriority", (0, 0, 5), "allow"),
        ("setpriority", (0, 77, 5), "EPERM"),
        ("setpriority", (2, 0, 5), "EPERM"),
        ("sched_setaffinity", (0, 8), "allow"),
        ("sched_setaffinity", (9, 8), "EPERM"),
    ],
)
def test_calls_are_judged_by_their_arguments(
    machine: str, name: str, arguments: tuple[int, ...], expected: str
) -> None:
    assert answer(machine, number(machine, name), *arguments) == expected


def test_another_architecture_and_the_x32_numbers_are_no_second_door() -> None:
    assert answer("x86_64", 1, arch=0x40000003) == "ENOSYS"
    assert answer("x86_64", 0x40000000 | 41) == "ENOSYS"
    assert answer("x86_64", 1) == answer("aarch64", 64) == "allow"


def test_a_machine_without_a_table_gets_no_filter() -> None:
    with pytest.raises(OSError, match="no table for `sparc`"):
        program("sparc", metadata=True)


@pytest.mark.parametrize("column", [0, 1])
def test_the_numbers_are_those_of_the_kernels_headers(column: int) -> None:
    if not HEADERS[column].exists():
        pytest.skip("the kernel's headers are not installed")
    pattern = re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)")
    there = dict(pattern.findall(HEADERS[column].read_text("utf-8")))
    for name, numbers in {**CHECKED, **REFUSED, **UNKNOWN, **METADATA}.items():
        if name in there:
            assert str(numbers[column]) == there[name], name
        elif numbers[column] is not None:  # newer than these headers: the same everywhere
            assert numbers[0] == numbers[1], name
