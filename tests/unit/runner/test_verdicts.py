"""Verdicts of self-tests: kept over restarts, and never for another file than they were made for."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmesh.config import RunnerConfig
from cmesh.runner.manifest import Manifest, load_manifests
from cmesh.runner.programs import Programs
from cmesh.runner.registry import Runners
from cmesh.runner.runner import Runner
from cmesh.runner.verdicts import Record, Subject, Verdicts, subject_of

VERSION = "2.1.330"


@pytest.fixture
def manifest() -> Manifest:
    return load_manifests()["claude"]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    program = tmp_path / "claude"
    program.write_text("#!/bin/sh\n", "utf-8")
    return program


def about(manifest: Manifest, program: Path, version: str = VERSION) -> Subject:
    found = subject_of(manifest, str(program), version)
    assert found is not None
    return found


def passed(subject: Subject) -> Record:
    return Record(subject=subject, verdict="passed", at="2026-01-01T00:00:00+00:00")


def test_a_verdict_outlives_the_daemon_in_a_private_file(
    tmp_path: Path, manifest: Manifest, program: Path
) -> None:
    subject, path = about(manifest, program), tmp_path / "selftests.json"
    verdicts = Verdicts(path)
    assert verdicts.of("claude", subject).state == "pending"
    failed = replace(passed(subject), verdict="failed", sprung=("hook-Stop", "base_url"))
    verdicts.keep("codex", passed(subject))
    verdicts.keep("claude", failed)
    assert path.stat().st_mode & 0o777 == 0o600
    later = Verdicts(path)
    assert later.of("codex", subject).state == "passed"
    assert later.of("claude", subject) == verdicts.of("claude", subject)
    assert later.of("claude", subject).sprung == ("hook-Stop", "base_url")
    assert later.of("gemini", subject).state == "pending"
    assert later.of("claude", None).state == "none"


def test_a_changed_program_is_another_one(
    tmp_path: Path, manifest: Manifest, program: Path
) -> None:
    before = about(manifest, program)
    verdicts = Verdicts(tmp_path / "selftests.json")
    verdicts.keep("claude", passed(before))
    info = program.stat()
    fresh = tmp_path / "fresh"
    fresh.write_text("#!/bin/sh\n", "utf-8")
    os.utime(fresh, ns=(info.st_atime_ns, info.st_mtime_ns))
    fresh.replace(program)  # same bytes, same time: an update is another file all the same
    assert verdicts.of("claude", about(manifest, program)).state == "pending"
    verdicts.keep("claude", passed(about(manifest, program)))
    os.utime(program, ns=(info.st_atime_ns, info.st_mtime_ns + 1))
    assert verdicts.of("claude", about(manifest, program)).state == "pending"


def test_a_changed_interpreter_makes_another_program_of_it(
    tmp_path: Path, manifest: Manifest, program: Path
) -> None:
    node = tmp_path / "node"
    node.write_text("one", "utf-8")
    program.write_text(f"#!{node}\n", "utf-8")
    verdicts = Verdicts(tmp_path / "selftests.json")
    verdicts.keep("claude", passed(about(manifest, program)))
    assert Verdicts(tmp_path / "selftests.json").of("claude", about(manifest, program)).state == (
        "passed"
    )
    fresh = tmp_path / "fresh"
    fresh.write_text("two", "utf-8")
    fresh.replace(node)
    assert verdicts.of("claude", about(manifest, program)).state == "pending"


def test_a_moved_link_another_version_and_another_recipe_are_pending(
    tmp_path: Path, manifest: Manifest, program: Path
) -> None:
    link, next_one = tmp_path / "link", tmp_path / "next"
    link.symlink_to(program)
    subject = about(manifest, link)
    verdicts = Verdicts(tmp_path / "selftests.json")
    verdicts.keep("claude", passed(subject))
    assert verdicts.of("claude", about(manifest, link)).state == "passed"
    assert verdicts.of("claude", about(manifest, link, "2.1.331")).state == "pending"
    looser = manifest.model_copy(update={"argv": ()})
    assert verdicts.of("claude", about(looser, link)).state == "pending"
    program.rename(next_one)
    link.unlink()
    link.symlink_to(next_one)  # the very same file, by another way: not what was tested
    assert verdicts.of("claude", about(manifest, link)).state == "pending"


@pytest.mark.parametrize(("text", "mode"), [("{", 0o600), ('{"claude": 1}', 0o600), (None, 0o666)])
def test_a_file_that_is_damaged_or_open_to_others_says_nothing(
    tmp_path: Path, manifest: Manifest, program: Path, text: str | None, mode: int
) -> None:
    subject, path = about(manifest, program), tmp_path / "selftests.json"
    verdicts = Verdicts(path)
    verdicts.keep("claude", passed(subject))
    if text is not None:
        path.write_text(text, "utf-8")
    path.chmod(mode)
    again = Verdicts(path)
    assert again.of("claude", subject).state == "pending"
    again.keep("claude", passed(subject))
    assert Verdicts(path).of("claude", subject).state == "passed"


def test_without_traps_there_is_no_self_test(manifest: Manifest, program: Path) -> None:
    assert subject_of(load_manifests()["command"], str(program), "") is None
    unknown = manifest.model_copy(update={"name": "unknown"})
    assert subject_of(unknown, str(program), VERSION) is None


def test_a_verdict_is_about_what_the_owner_gives_to_every_start(
    tmp_path: Path, manifest: Manifest, program: Path
) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("sk-test", "ascii")
    verdicts = Verdicts(tmp_path / "selftests.json")

    def runner(**given: Any) -> Runner:
        config = RunnerConfig(program=str(program), key_file=key, **given)
        programs = Programs("/usr/bin:/bin")
        return Runners({"claude": config}, {}, programs=programs, verdicts=verdicts).resolve(
            "claude"
        )

    program.chmod(0o755)
    before = runner(base_url="https://one.example")
    subject = subject_of(
        manifest, before.program, before.version, model=before.model, env=before.env
    )
    assert subject is not None
    verdicts.keep("claude", passed(subject))
    assert runner(base_url="https://two.example").test.state == "passed"
    assert runner(env={"CLAUDE_CODE_USE_BEDROCK": "1"}).test.state == "pending"
    assert runner(model="another").test.state == "pending"


def test_a_program_of_the_same_size_and_time_is_another_one(
    tmp_path: Path, manifest: Manifest, program: Path
) -> None:
    programs, verdicts = Programs("/usr/bin:/bin"), Verdicts(tmp_path / "selftests.json")

    def install(version: str) -> Subject:  # as npm does it: all its files are of 1985
        program.write_text(f"#!/bin/sh\necho {version}\n", "utf-8")
        program.chmod(0o755)
        os.utime(program, (499_162_500, 499_162_500))
        return about(manifest, program, programs.version(str(program), ()))

    verdicts.keep("claude", passed(install("2.1.330")))
    later = install("2.1.331")
    assert later.version == "2.1.331"
    assert verdicts.of("claude", later).state == "pending"
