"""The script that inspects a broken deploy, and the sample that is made for it."""

import io
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cmesh.interfaces.demo import why_deploy_failed
from cmesh.interfaces.demo.sample import Sample, make_sample
from cmesh.interfaces.demo.why_deploy_failed import NotFound, explain

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return make_sample(tmp_path, NOW, random.Random(7))


def unit(sample: Sample) -> Path:
    return sample.directory / "deploy" / "myapp.service"


def log(sample: Sample) -> Path:
    return sample.directory / "deploy" / "deploy.log"


@pytest.mark.parametrize("seed", range(40))
def test_the_finding_names_what_is_in_the_files(tmp_path: Path, seed: int) -> None:
    sample = make_sample(tmp_path, NOW, random.Random(seed))
    finding = explain(sample.directory)
    assert [fact for fact in sample.facts if fact not in finding] == []
    assert (
        unit(sample)
        .read_text()
        .splitlines()[sample.unit_line - 1]
        .endswith(f"{sample.wrong} --port {sample.port}")
    )
    assert sample.wrong in log(sample).read_text().splitlines()[sample.log_line - 1]
    assert str(sample.port) in finding
    assert max(map(len, finding.splitlines())) <= 76


def test_a_finding_about_one_sample_lacks_the_facts_of_another(tmp_path: Path) -> None:
    samples = [make_sample(tmp_path / str(n), NOW, random.Random(n)) for n in range(2)]
    first = explain(samples[0].directory)
    assert any(fact not in first for fact in samples[1].facts)
    assert any(fact not in first for fact in samples[1].core)


def test_a_program_without_its_execute_bit_is_another_finding(sample: Sample) -> None:
    program = sample.directory / "releases" / str(sample.release) / "bin" / sample.wrong
    program.write_text("#!/bin/sh\n")
    program.chmod(0o644)
    assert "with mode 0644" in explain(sample.directory)


def test_no_cause_is_made_up_once_the_program_is_there(sample: Sample) -> None:
    program = sample.directory / "releases" / str(sample.release) / "bin" / sample.wrong
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with pytest.raises(NotFound, match="can be started now"):
        explain(sample.directory)


def test_files_that_do_not_fit_together_give_no_finding(sample: Sample) -> None:
    text = unit(sample).read_text()
    unit(sample).write_text(text.replace(sample.wrong, sample.right))
    with pytest.raises(NotFound, match="another program"):
        explain(sample.directory)


def test_a_log_without_a_failed_start_gives_no_finding(sample: Sample) -> None:
    kept = [line for line in log(sample).read_text().splitlines() if "EXEC" not in line]
    log(sample).write_text("\n".join(kept))
    with pytest.raises(NotFound, match=f"release {sample.release} failed to start"):
        explain(sample.directory)


def test_only_the_last_deploy_of_a_log_counts(sample: Sample) -> None:
    lines = log(sample).read_text().splitlines()
    log(sample).write_text("\n".join([*lines, f"x deploy: release {sample.previous} of myapp, y"]))
    with pytest.raises(NotFound, match=f"release {sample.previous} failed to start"):
        explain(sample.directory)


def test_as_a_program_it_reads_the_question_and_prints_the_finding(sample: Sample) -> None:
    argv = [sys.executable, "-I", "-S", why_deploy_failed.__file__]
    run = subprocess.run(
        argv,
        check=False,
        cwd=sample.directory,
        input="why?",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == explain(sample.directory)


def test_as_a_program_it_says_that_it_found_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("why?"))
    assert why_deploy_failed.main() == 1
    assert capsys.readouterr().out.startswith("No cause found: ")
