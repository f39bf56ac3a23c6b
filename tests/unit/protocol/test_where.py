"""Conditions on a machine: their form, what holds, and the first thing that does not."""

import pytest

from cmesh.errors import UsageError
from cmesh.protocol.machine import Machine, RunnerFact
from cmesh.protocol.where import bytes_text, mismatch, parse

BOX = Machine(
    os="linux",
    distribution="debian",
    os_version="12.4",
    arch="x86_64",
    cpus=8,
    memory=16_777_216_000,
    tools={"docker": "24.0.7", "git": "2.39.5", "python": "3.11.2-rc1", "make": ""},
    gpus=("NVIDIA A100",),
    runners=(RunnerFact(name="claude", ready=True), RunnerFact(name="codex", ready=False)),
    labels=("lab",),
)


@pytest.mark.parametrize(
    "text",
    [
        "os=linux", "os=Debian", "os!=macos", "arch=amd64", "os_version>=12", "os_version=12",
        "cpus>=8", "cpus<9", "memory>=16G", "memory<16Gi", "memory > 0", "docker", "docker=24",
        "docker>=24.0.7", "docker<25", "python>=3.11", "python=3.11.2", "git!=2.40", "gpu",
        "gpu=a100", "label=lab", "lab", "label!=gpu", "runner=claude", "runner!=codex",
    ],
)  # fmt: skip
def test_what_holds(text: str) -> None:
    assert mismatch([parse(text)], BOX) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("os=macos", "os is linux"),
        ("arch=arm64", "arch is x86_64"),
        ("os_version>=13", "os_version is 12.4"),
        ("cpus>8", "cpus is 8"),
        ("memory>=17G", "memory is 16.8G"),
        ("podman", "no podman"),
        ("docker>=24.1", "docker is 24.0.7"),
        ("docker=2", "docker is 24.0.7"),
        ("make>=4", "the version of make is not known"),
        ("go>=1.22", "no go"),
        ("gpu=radeon", "gpu is NVIDIA A100"),
        ("label=gpu", "no label gpu"),
        ("label!=lab", "it has label lab"),
        ("runner=codex", "no runner codex"),
    ],
)
def test_the_first_thing_that_does_not_hold_is_named(text: str, why: str) -> None:
    assert mismatch([parse("os=linux"), parse(text), parse("os=windows")], BOX) == why


@pytest.mark.parametrize(
    "text",
    ["os=linux", "os!=linux", "arch=x86_64", "cpus>=0", "memory<1T", "docker", "docker!=1",
     "gpu", "gpu!=x", "label!=x", "runner!=x", "os_version>=0"],
)  # fmt: skip
def test_what_is_not_told_holds_for_nothing(text: str) -> None:
    assert mismatch([parse(text)], Machine())
    assert mismatch([parse(text)], None) == "it has told nothing of its machine"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "KEY"),
        ("=linux", "KEY"),
        ("os", "os=linux"),
        ("memory", "memory>=16G"),
        ("os>linux", "compare it with = or !="),
        ("memory>=much", "16Gi"),
        ("cpus>=eight", "cpus>=8"),
        ("docker>=new", "docker>=3.11"),
        ("docker >= ", "docker>=3.11"),
        ("a b", "KEY"),
    ],
)
def test_what_has_no_such_form_is_refused_with_the_right_one(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert hint in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("dokcer", "no dokcer (did you mean `docker`)"),
        ("pyhton>=3.11", "no pyhton (did you mean `python`)"),
        ("cpu>=4", "no cpu (did you mean `cpus`)"),
        ("label=lba", "no label lba (did you mean `lab`)"),
        ("runner=cluade", "no runner cluade (did you mean `claude`)"),
        ("podman", "no podman"),
    ],
)
def test_a_slip_is_told_with_what_the_machine_has(text: str, why: str) -> None:
    assert mismatch([parse(text)], BOX) == why


def test_a_slip_in_a_key_is_told_with_the_key() -> None:
    with pytest.raises(UsageError) as refused:
        parse("memroy>=16G")
    assert refused.value.hint.startswith("did you mean `memory`? else write a version")


def test_sizes_are_read_as_they_are_shown() -> None:
    for size in (0, 999, 1_500, 16_777_216_000, 2 * 10**12):
        term = parse(f"memory<={bytes_text(size)}")
        assert not mismatch([term], Machine(memory=int(size * 0.94)))
        assert mismatch([term], Machine(memory=int(size * 1.06) + 1))
