"""Looking at this machine: versions, tools that change, hang or say nothing."""

import os
from pathlib import Path

import pytest

from cmesh.protocol.machine import Machine
from cmesh.runner import machine
from cmesh.runner.machine import Surveyor, version_number
from cmesh.runner.programs import Programs


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("git version 2.43.0", "2.43.0"),
        ("Docker version 24.0.7, build afdd53b", "24.0.7"),
        ("go version go1.22.1 linux/amd64", "1.22.1"),
        ("v22.3.1", "22.3.1"),
        ("Python 3.11.2", "3.11.2"),
        ("gcc (Debian 12.2.0-14+deb12u1) 12.2.0", "12.2.0-14+deb12u1"),
        ("2.1.330 (Claude Code)", "2.1.330"),
        ("openjdk 17.0.15 2025-04-15", "17.0.15"),
        ("no number", ""),
        ("", ""),
    ],
)
def test_a_version_is_found_in_what_programs_say(line: str, number: str) -> None:
    assert version_number(line) == number


def tool(place: Path, name: str, script: str) -> None:
    file = place / name
    file.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    file.chmod(0o755)


def surveyor(place: Path, monkeypatch: pytest.MonkeyPatch) -> Surveyor:
    path = f"{place}:/usr/bin:/bin"
    monkeypatch.setattr(machine, "Programs", lambda: Programs(path))
    monkeypatch.setattr(machine, "TOOLS", ("docker", "git", "podman"))
    monkeypatch.setattr(machine, "TOOL_LIMIT_S", 0.5)
    return Surveyor()


def test_a_tool_is_asked_again_only_when_its_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    asked.touch()
    asked.chmod(0o666)
    tool(tmp_path, "docker", f"echo >> {asked}; echo Docker version 24.0.7, build x")
    tool(tmp_path, "podman", "sleep 60")
    looks = surveyor(tmp_path, monkeypatch)
    first = looks.look(whole=False)
    assert first.tools is not None
    assert (first.tools["docker"], first.tools["podman"]) == ("24.0.7", ""), "one hangs"
    assert looks.look(whole=False) == first
    assert len(asked.read_text("utf-8")) == 1
    tool(tmp_path, "docker", "echo Docker version 25.0.0")
    (tmp_path / "podman").unlink()
    changed = looks.look(whole=False).tools
    assert changed is not None
    assert changed["docker"] == "25.0.0"
    assert "podman" not in changed


def test_what_is_said_of_this_machine_has_the_form_that_a_peer_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path, "nvidia-smi", "echo NVIDIA A100-SXM4-40GB; echo NVIDIA A100-SXM4-40GB")
    found = surveyor(tmp_path, monkeypatch).look(whole=True)
    assert Machine.model_validate_json(found.model_dump_json()) == found
    assert found.os
    assert found.arch
    assert 0 < (found.cpus or 0) <= (os.cpu_count() or 1)
    assert (found.memory or 0) > 2**20
    assert (found.gpus, found.gpu_by) == (("NVIDIA A100-SXM4-40GB",) * 2, "nvidia-smi")


def test_a_graphics_program_that_finds_nothing_is_no_graphics_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path, "nvidia-smi", "echo NVIDIA-SMI has failed; exit 9")
    found = surveyor(tmp_path, monkeypatch).look(whole=True)
    assert found.gpu_by != "nvidia-smi"
