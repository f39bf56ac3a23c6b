"""A task's processes as one job object (jobapi2.h): none gets out, and all end with its handle.

Made for one keeper, who starts the first process in it. Everything that starts there is of the job:
it gives no right to break away. INVARIANT: a process is of the job before its first instruction
runs, by the attribute list it is made with, so that there is no moment in which the keeper's end
would leave it behind.
"""

import ctypes
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cmesh.platform.windows.command_line import command_line, environment_block
from cmesh.platform.windows.kernel import last_error, milliseconds
from cmesh.platform.windows.process_calls import (
    Accounting,
    ExtendedLimits,
    ProcessInformation,
    StartupInfoEx,
    call,
)

__all__ = ["KILLED", "Child", "Job", "JobLimits", "limits_of"]

KILLED = 0xC000013A
"""What a killed process ends with: STATUS_CONTROL_C_EXIT, which the C runtime says too."""

_BASIC_ACCOUNTING, _EXTENDED_LIMIT = 1, 9  # winnt.h: JOBOBJECTINFOCLASS
_ACTIVE_PROCESS, _JOB_MEMORY = 0x8, 0x200  # winnt.h: JOB_OBJECT_LIMIT_*
_DIE_ON_UNHANDLED_EXCEPTION, _KILL_ON_JOB_CLOSE = 0x400, 0x2000
_HANDLE_LIST, _JOB_LIST = 0x20002, 0x2000D  # winbase.h: PROC_THREAD_ATTRIBUTE_*
_NEW_PROCESS_GROUP, _UNICODE_ENVIRONMENT, _EXTENDED_STARTUP = 0x200, 0x400, 0x80000
_USE_STD_HANDLES, _INHERIT, _CTRL_BREAK = 0x100, 1, 1
_WAIT_OBJECT_0 = 0
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.005, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """What all processes of a job may have together; 0 = no limit.

    Attributes:
        processes: how many may be there at once; one more cannot be started.
        memory_bytes: committed memory; what asks for more is refused it.
    """

    processes: int = 0
    memory_bytes: int = 0


def limits_of(limits: JobLimits) -> ExtendedLimits:
    """Return limits in the form of SetInformationJobObject. Pure."""
    flags = _KILL_ON_JOB_CLOSE | _DIE_ON_UNHANDLED_EXCEPTION
    flags |= _ACTIVE_PROCESS if limits.processes else 0
    flags |= _JOB_MEMORY if limits.memory_bytes else 0
    return ExtendedLimits(
        LimitFlags=flags,
        ActiveProcessLimit=limits.processes,
        JobMemoryLimit=limits.memory_bytes,
    )


class Job:
    """A job object that ends all of its processes when it is closed, or its owner ends."""

    def __init__(self, limits: JobLimits) -> None:
        """Make it.

        Raises:
            OSError: Windows refuses the job or a limit.
        """
        made = call("CreateJobObjectW")(None, None)
        if not made:
            raise last_error("make a job")
        self._handle = made
        asked = limits_of(limits)
        size = ctypes.sizeof(asked)
        if not call("SetInformationJobObject")(made, _EXTENDED_LIMIT, ctypes.byref(asked), size):
            error = last_error("limit a job")
            self.close()
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(
        self,
        argv: Sequence[str],
        *,
        directory: str,
        environment: Mapping[str, str],
        files: tuple[int, int, int],
    ) -> "Child":
        """Start a program of the job, in a process group of its own.

        It inherits the three descriptors as its standard ones and nothing else, and the console,
        by which `Child.interrupt` reaches it. No shell and no search path has a part in it.

        Raises:
            ValueError: no command line or environment says these.
            OSError: Windows refuses; more processes than the job may have.
        """
        import msvcrt  # there is none elsewhere

        line, block = command_line(argv), environment_block(environment)
        handles = [msvcrt.get_osfhandle(fd) for fd in files]
        startup, made = StartupInfoEx(), ProcessInformation()
        basic = startup.StartupInfo
        basic.cb, basic.dwFlags = ctypes.sizeof(startup), _USE_STD_HANDLES
        basic.hStdInput, basic.hStdOutput, basic.hStdError = handles
        # A handle may stand in the list once.
        once = list(dict.fromkeys(handles))
        with _inheritable(once), _Attributes(once, self._handle) as attributes:
            startup.lpAttributeList = attributes
            done = call("CreateProcessW")(
                argv[0], ctypes.create_unicode_buffer(line), None, None, 1,
                _NEW_PROCESS_GROUP | _UNICODE_ENVIRONMENT | _EXTENDED_STARTUP,
                ctypes.create_string_buffer(block, len(block)), directory,
                ctypes.byref(startup), ctypes.byref(made),
            )  # fmt: skip
            if not done:
                raise last_error("start a program")
        call("CloseHandle")(made.hThread)
        return Child(made.dwProcessId, made.hProcess)

    def count(self) -> int:
        """Return how many processes of the job live."""
        found = Accounting()
        size = ctypes.sizeof(found)
        query = call("QueryInformationJobObject")
        if not query(self._handle, _BASIC_ACCOUNTING, ctypes.byref(found), size, None):
            raise last_error("count a job's processes")
        return found.ActiveProcesses

    def kill(self) -> None:
        """End every process of the job at once; they are gone when `count` says so."""
        if not call("TerminateJobObject")(self._handle, KILLED):
            raise last_error("end a job")

    def wait_empty(self, limit_s: float, sleep: Callable[[float], None] = time.sleep) -> bool:
        """Say whether no process is left, now or within `limit_s`. Blocks so long.

        Counted again and again: a job's messages may get lost, by their documentation.
        """
        waited, wait = 0.0, _FIRST_LOOK_S
        while self.count():
            if waited >= limit_s:
                return False
            sleep(wait)
            waited, wait = waited + wait, min(wait * 2, _LONGEST_LOOK_S)
        return True

    def end(self, child: "Child", grace_s: float, limit_s: float) -> bool:
        """Ask the first process's group to end, then end all; say whether none is left. Blocks.

        Whoever has no console in common with us cannot be asked, and gets no grace.
        """
        with suppress(OSError):
            child.interrupt()
            self.wait_empty(grace_s)
        self.kill()
        return self.wait_empty(limit_s)

    def close(self) -> None:
        """Let the job go, and with it all that lives in it."""
        handle, self._handle = self._handle, 0
        if handle:
            call("CloseHandle")(handle)


class Child:
    """The process that a job began with; `close` gives its handle back and ends nothing."""

    def __init__(self, pid: int, handle: int) -> None:
        self.pid = pid
        self._handle = handle

    def interrupt(self) -> None:
        """Ask its process group to end (CTRL_BREAK); a program may do otherwise.

        Raises:
            OSError: it has no console in common with us; then only `Job.kill` is left.
        """
        if not call("GenerateConsoleCtrlEvent")(_CTRL_BREAK, self.pid):
            raise last_error("interrupt a program")

    def wait(self, limit_s: float) -> int | None:
        """Return its exit status once it has ended, None after the limit. Blocks."""
        if call("WaitForSingleObject")(self._handle, milliseconds(limit_s)) != _WAIT_OBJECT_0:
            return None
        status = ctypes.c_uint32()
        if not call("GetExitCodeProcess")(self._handle, ctypes.byref(status)):
            raise last_error("ask how a program ended")
        return status.value

    def close(self) -> None:
        """Give the handle back."""
        handle, self._handle = self._handle, 0
        if handle:
            call("CloseHandle")(handle)


@contextmanager
def _inheritable(handles: Sequence[int]) -> Generator[None]:
    """Let a process inherit the handles; whatever happens, none stays so."""
    allow = call("SetHandleInformation")
    try:
        for handle in handles:
            if not allow(handle, _INHERIT, _INHERIT):
                raise last_error("give a file to a process")
        yield
    finally:
        for handle in handles:
            allow(handle, _INHERIT, 0)


class _Attributes:
    """What a process is made with: the handles that it inherits, and its job."""

    def __init__(self, handles: Sequence[int], job: int) -> None:
        # Windows keeps the addresses, so these live as long as the list.
        self._values = (
            (_HANDLE_LIST, (ctypes.c_void_p * len(handles))(*handles)),
            (_JOB_LIST, (ctypes.c_void_p * 1)(job)),
        )
        size = ctypes.c_size_t()
        initialize = call("InitializeProcThreadAttributeList")
        initialize(None, len(self._values), 0, ctypes.byref(size))  # fails, and says the size
        self._list = ctypes.create_string_buffer(size.value)
        if not initialize(self._list, len(self._values), 0, ctypes.byref(size)):
            raise last_error("prepare a process")

    def __enter__(self) -> int:
        for name, value in self._values:
            size = ctypes.sizeof(value)
            update = call("UpdateProcThreadAttribute")
            if not update(self._list, 0, name, ctypes.byref(value), size, None, None):
                error = last_error("prepare a process")
                call("DeleteProcThreadAttributeList")(self._list)
                raise error
        return ctypes.addressof(self._list)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        call("DeleteProcThreadAttributeList")(self._list)
