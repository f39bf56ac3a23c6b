"""An agent may have a patch checked in its own project, and nowhere else."""

import base64
import os
from pathlib import Path

import pytest

from cmesh.daemon import patch_check
from cmesh.daemon.file_answers import PatchFile, PatchView
from cmesh.daemon.patch_answers import CheckPatchView
from cmesh.errors import SecretFound, TaskRefused, UsageError, WrongBase
from cmesh.patch.look import Look, look
from tests.system.runner.copying import commit

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def patch(data: bytes = b"diff --git a/x b/x\n", **more: str) -> PatchFile:
    view = PatchView(bytes=len(data), withheld=more.get("withheld", ""))
    text = base64.b64encode(data).decode()
    return PatchFile(task_id="0190", sha256="", data=text, patch=view)


async def check_patch(found: PatchFile, project: str, directory: str) -> CheckPatchView:
    async def whole() -> bytes:
        return base64.b64decode(found.data)

    return await patch_check.check_patch(found, whole, project, directory)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = Path(os.path.realpath(tmp_path)) / "app"
    (project / "sub").mkdir(parents=True)
    (project.parent / "app-other").mkdir()
    (project / "out").symlink_to(project.parent)
    return project


@pytest.mark.parametrize("directory", ["", ".", "sub", "sub/..", "out/app/sub"])
async def test_a_directory_of_the_project_is_looked_at(project: Path, directory: str) -> None:
    with pytest.raises(WrongBase):  # it was: it is in no repository
        await check_patch(patch(), str(project), directory)


@pytest.mark.parametrize(
    "directory", ["..", "/", "out", "out/app-other", "../app-other", "sub/../..", "~"]
)
async def test_a_directory_elsewhere_is_not(project: Path, directory: str) -> None:
    if directory == "~":
        directory = str(Path.home())
    with pytest.raises(UsageError, match="outside of this project"):
        await check_patch(patch(), str(project), directory)


async def test_a_link_that_comes_after_the_directory_was_judged_leads_nowhere(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = project.parent / "app-other"
    (other / "x").write_text("x")
    commit(other)

    def late(aside: Path, data: bytes, base: str, place: str, *, sent: bytes | None = None) -> Look:
        (project / "sub").rmdir()
        (project / "sub").symlink_to(other)
        return look(aside, data, base, place, sent=sent)

    monkeypatch.setattr(patch_check, "look", late)
    with pytest.raises(UsageError, match="meanwhile"):
        await check_patch(patch(), str(project), "sub")


async def test_a_nul_is_no_part_of_a_directory(project: Path) -> None:
    with pytest.raises(UsageError, match="NUL"):
        await check_patch(patch(), str(project), "a\0b")


async def test_without_a_project_nothing_is_looked_at(project: Path) -> None:
    with pytest.raises(UsageError, match="nobody knows"):
        await check_patch(patch(), "", str(project))


async def test_what_is_withheld_or_empty_is_not_checked(project: Path) -> None:
    with pytest.raises(SecretFound):
        await check_patch(patch(withheld="secret_found"), str(project), "")
    with pytest.raises(TaskRefused, match="changed nothing"):
        await check_patch(patch(b""), str(project), "")
