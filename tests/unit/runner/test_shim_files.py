"""What a shim does when the disk refuses the one thing that only it knows: the task's end."""

import errno
import json
import os
from pathlib import Path

import pytest

from cmesh.runner import shim_files
from cmesh.runner.shim_files import TaskFiles

RESULT = {"verdict": "exited", "exit_code": 0}


class Disk:
    """Refuses to rename so many times."""

    def __init__(self, refusals: int, error: int = errno.EROFS) -> None:
        self.refusals = refusals
        self.error = error
        self.rename = os.rename

    def __call__(self, source: str, target: str) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            raise OSError(self.error, os.strerror(self.error))
        self.rename(source, target)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskFiles:
    monkeypatch.setattr(shim_files, "RESULT_PAUSE_S", 0)
    files = TaskFiles(str(tmp_path))
    files.reserve_result()
    return files


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.EIO])
def test_a_result_is_written_once_the_disk_takes_it(
    files: TaskFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: int,
) -> None:
    monkeypatch.setattr(os, "rename", Disk(3, error))
    files.write_result(RESULT)
    assert json.loads((tmp_path / "result.json").read_text("utf-8")) == RESULT
    assert capfd.readouterr().err.count("no result yet") == 1


def test_a_disk_that_never_takes_it_is_given_up(
    files: TaskFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shim_files, "RESULT_LIMIT_S", 0)
    monkeypatch.setattr(os, "rename", Disk(10))
    with pytest.raises(OSError, match="Read-only"):
        files.write_result(RESULT)


def test_a_directory_that_was_renamed_away_is_not_waited_for(
    files: TaskFiles, tmp_path: Path
) -> None:
    tmp_path.rename(tmp_path.with_name("gone"))
    with pytest.raises(FileNotFoundError):
        files.write_result(RESULT)
