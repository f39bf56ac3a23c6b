"""The files of one task's directory, as its shim makes and reads them. Standard library only.

It never makes the directory and never replaces a claim.
"""

import fcntl
import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = [
    "AGAIN",
    "AGAIN_STDIN",
    "SPENT",
    "TURN",
    "TaskFiles",
    "lock_session",
    "read_file",
    "write_quietly",
]

FIONREAD = 0x541B  # asm-generic/ioctls.h: bytes waiting in a pipe
RESULT_ROOM_BYTES = 4096
RESULT_PAUSE_S = 0.5
RESULT_LIMIT_S = 86_400.0  # a disk that turned read-only waits for its owner
LAUNCH_KEYS = {"argv", "cwd", "env", "grace_s", "runtime_s", "output_bytes", "error_bytes"}


SPENT = "spent"
"""The file in which the worker says which limit a task has spent."""

TURN = "turn"
"""The file in which a shim says that the first turn has ended, and waits for the worker's word."""

AGAIN, AGAIN_STDIN = "again", "again.stdin"
"""The files of that word: whether there is a repair turn, and what its agent reads."""


class TaskFiles:
    """One task's directory; it may be renamed away at any time, and then nothing is found."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.room = -1
        try:
            # Read-write: a missing reader is no error, and the next daemon can read on.
            self.wake = os.open(f"{directory}/wake", os.O_RDWR | os.O_NONBLOCK)
        except OSError:
            self.wake = -1  # the directory is gone, so the claim will fail as well

    def claim(self, fields: "Mapping[str, object]", start_time: int) -> bool:
        """Take the claim for this process; False when it is another's.

        Raises:
            OSError: the directory is gone, or the disk has no room.
        """
        name = f"{self.directory}/.claim.{os.getpid()}.{start_time}"
        # Never closed: the lock says that this process lives. Not inherited by the agent.
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, json.dumps(fields).encode())
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            # INVARIANT: linked by its absolute path. Through a directory descriptor the link
            # would still succeed after the worker renamed the directory away.
            os.link(name, f"{self.directory}/claim")
        except FileExistsError:
            return False
        finally:
            _remove(name)
        # One sync after the link makes content and name durable before the agent can start.
        os.fsync(fd)
        return True

    def reserve_result(self) -> None:
        """Take the room that the result will need; raises `OSError` when there is none."""
        # A disk that the agent fills must still have room for the result.
        self.room = os.open(f"{self.directory}/.result", os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(self.room, 0, RESULT_ROOM_BYTES)

    def launch(self) -> "dict[str, Any]":
        """Return what to start.

        Raises:
            OSError: it cannot be read.
            ValueError, TypeError: it makes no sense.
        """
        launch: dict[str, Any] = json.loads(read_file(f"{self.directory}/launch.json"))
        if LAUNCH_KEYS.difference(launch):
            raise ValueError("a key is missing")
        return launch

    def remove_launch(self) -> None:
        """Remove what to start: it may hold a key, and the directory may stand for days."""
        _remove(f"{self.directory}/launch.json")

    def record(self, name: str, record: "Mapping[str, object]") -> None:
        """Write what the worker is to see at once; raises `OSError` when the disk refuses."""
        fd = os.open(f"{self.directory}/.{name}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, json.dumps(record).encode())
        os.close(fd)
        os.rename(f"{self.directory}/.{name}", f"{self.directory}/{name}")

    def end_wish(self) -> str | None:
        """Return why the worker wants the task ended; None when it does not."""
        try:
            return str(json.loads(read_file(f"{self.directory}/end"))["reason"])
        except FileNotFoundError:
            return None

    def spent(self) -> str | None:
        """Return which limit the worker found spent; None when it found none."""
        try:
            return str(json.loads(read_file(f"{self.directory}/{SPENT}"))["why"])
        except FileNotFoundError:
            return None

    def again(self) -> "tuple[str, str] | None":
        """Return the session in which the agent is to go on, or empty and why not; None = no word."""
        try:
            word = json.loads(read_file(f"{self.directory}/{AGAIN}"))
        except FileNotFoundError:
            return None
        return str(word["session"]), str(word["why"])

    def write_result(self, fields: "Mapping[str, object]") -> None:
        """Write the result into the room kept for it, durable before it has its name.

        Waits for a disk that refuses, `RESULT_LIMIT_S` at most: nobody else knows the end.

        Raises:
            OSError: the directory is gone, or the disk refused all the time.
        """
        result = json.dumps(fields).encode()
        give_up, said = time.monotonic() + RESULT_LIMIT_S, False
        while not self._place_result(result, last=time.monotonic() >= give_up, said=said):
            said = True
            time.sleep(RESULT_PAUSE_S)
        self.tell()
        # After the wake-up: the reader's own commit does not rest on this sync.
        _sync_directory(self.directory)

    def _place_result(self, result: bytes, *, last: bool, said: bool) -> bool:
        """Try once; False when the disk refuses and there is time for another try."""
        try:
            os.ftruncate(self.room, os.pwrite(self.room, result, 0))
            os.fsync(self.room)
            os.rename(f"{self.directory}/.result", f"{self.directory}/result.json")
        except OSError as error:
            if last or isinstance(error, FileNotFoundError):
                raise
            if not said:
                write_quietly(2, f"{self.directory}: no result yet: {error}\n".encode())
            return False
        return True

    def tell(self) -> None:
        """Leave at most one byte in the pipe, where there is one: "look again"."""
        if self.wake < 0:
            return
        waiting = bytearray(4)
        try:
            fcntl.ioctl(self.wake, FIONREAD, waiting)
            if not any(waiting):
                os.write(self.wake, b".")
        except OSError:
            self.wake = -1  # the pipe is a convenience; the files are the truth


def lock_session(path: str) -> int:
    """Lock the conversation, not inherited by the agent, so that one turn runs at a time.

    Returns the descriptor that holds the lock; -1 when there is no conversation.

    Raises:
        ValueError: another one runs.
    """
    if not path:
        return -1
    session = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(session, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError("another turn of this conversation still runs") from None
    return session


def read_file(path: str) -> bytes:
    """Return the whole of a file."""
    with open(path, "rb") as file:
        return file.read()


def write_quietly(fd: int, data: bytes) -> None:
    """Write to whoever still listens."""
    try:
        os.write(fd, data)
    except OSError:
        return  # whoever read this is gone; the task goes on


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def _sync_directory(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return  # taken in and renamed away already
    os.fsync(fd)
