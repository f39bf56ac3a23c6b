"""`cmesh result ID --artifacts DIR`: a task's files, written below a folder and nowhere else.

Names and bytes are another machine's. A file that is there is left as it is; one that was half
written goes on where it stopped; none is given its name before its hash was seen to be right.
"""

import base64
import contextlib
import hashlib
import os

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import ArtifactArguments, TaskArguments
from cmesh.daemon.file_answers import ArtifactView
from cmesh.errors import RemoteProtocolError, SecretFound, TaskRefused, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.patch import released
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.client import ControlClient
from cmesh.text import is_plain_path, one_line

__all__ = ["artifact_facts", "save_artifacts"]

_NEW = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES = 1024 * 1024


def save_artifacts(task_id: str, directory: str, *, force: bool, as_json: bool) -> None:
    """Write all files of a task below `directory`, which is made when it is not there."""
    view = call(lambda client: client.get_task(checked(TaskArguments, task_id=task_id)))
    if not view.artifacts:
        why = view.artifacts_reason or "it was asked for none, or has not ended"
        raise TaskRefused(
            f"task `{view.task_id}` has no artifacts: {why}",
            hint=f"cmesh delegate … --artifact 'dist/*' asks for them; cmesh show {view.task_id}",
        )
    try:
        os.makedirs(directory, exist_ok=True)  # noqa: PTH103 - as the shell gives it
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        why = f"cannot write below `{one_line(directory, 200)}`: {error.strerror}"
        raise UsageError(why, hint="name a folder") from error
    try:
        call(lambda client: _save_all(client, view, root, force=force))
    finally:
        os.close(root)
    if as_json:
        output.print_json([one.model_dump(mode="json") for one in view.artifacts])


async def _save_all(client: ControlClient, view: TaskView, root: int, *, force: bool) -> None:
    for one in view.artifacts:
        if one.withheld and not await _is_released(client, view.task_id, one):
            output.say(f"{one_line(one.path, 200)}: withheld by the worker [{one.withheld}]")
            continue
        if not is_plain_path(one.path):
            raise RemoteProtocolError(f"the worker names a file `{one_line(one.path, 80)}`")
        try:
            said = await _save(client, view.task_id, one, root, force=force)
        except OSError as error:
            why = f"cannot write `{one_line(one.path, 200)}`: {error.strerror}"
            raise UsageError(why, hint="name another folder") from error
        output.say(f"{one.path}: {said}")


async def _is_released(client: ControlClient, task_id: str, one: ArtifactView) -> bool:
    """Have the worker asked for what a secret withholds; True when it has come."""
    if one.withheld != SecretFound.code:
        return False
    try:
        await client.get_artifact(ArtifactArguments(task_id=task_id, path=one.path))
    except SecretFound as error:
        output.hint(error.hint)
        return False
    return True


async def _save(
    client: ControlClient, task_id: str, one: ArtifactView, root: int, *, force: bool
) -> str:
    *folders, name = one.path.split("/")
    with contextlib.ExitStack() as stack:
        place = root
        for folder in folders:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o777, dir_fd=place)
            place = os.open(folder, _FOLDER, dir_fd=place)  # a link is no folder of ours
            stack.callback(os.close, place)
        known = _digest(name, place)
        if known == one.sha256:
            return "is there already"
        if known is not None and not force:
            raise UsageError(
                f"`{one.path}` is there, with other content",
                hint="name another folder, or `--force` to replace it",
            )
        part = f".{name[:100]}.{one.sha256[:16]}.part"
        fd = os.open(part, _NEW, 0o666, dir_fd=place)
        with os.fdopen(fd, "r+b") as file:
            began = await _fill(client, task_id, one, file.fileno())
        if _digest(part, place) != one.sha256:
            os.unlink(part, dir_fd=place)
            raise RemoteProtocolError(f"`{one.path}` is not what the worker signed")
        if force:
            os.replace(part, name, src_dir_fd=place, dst_dir_fd=place)
        else:  # fails when somebody made it meanwhile
            os.link(part, name, src_dir_fd=place, dst_dir_fd=place, follow_symlinks=False)
            os.unlink(part, dir_fd=place)
    return f"{one.bytes} bytes" + (f", from byte {began} on" if began else "")


async def _fill(client: ControlClient, task_id: str, one: ArtifactView, fd: int) -> int:
    """Write what is missing; return where that began."""
    began = at = min(os.lseek(fd, 0, os.SEEK_END), one.bytes)
    os.truncate(fd, at)
    while at < one.bytes:
        asked = ArtifactArguments(task_id=task_id, path=one.path, offset=at)
        data = base64.b64decode((await client.get_artifact(asked)).data)
        if not data:
            break
        os.pwrite(fd, data, at)
        at += len(data)
    return began


def _digest(name: str, place: int) -> str | None:
    """Return the SHA-256 of a file; None = there is none; empty = it is no file."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    except FileNotFoundError:
        return None
    except OSError:
        return ""
    hasher = hashlib.sha256()
    with os.fdopen(fd, "rb") as file:
        while data := file.read(_CHUNK_BYTES):
            hasher.update(data)
    return hasher.hexdigest()


def _standing(one: ArtifactView) -> str:
    known = one.withheld or f"sha256 {one.sha256}"
    return f"{known}, released {released(one.released_at)}" if one.released_at else known


def artifact_facts(view: TaskView) -> list[tuple[str, str]]:
    """Return what is known of a task's files; nothing when it was asked for none."""
    facts = [
        ("artifact", f"{one.path}, {one.bytes} bytes, {_standing(one)}") for one in view.artifacts
    ]
    return [*facts, ("no artifacts", view.artifacts_reason)]
