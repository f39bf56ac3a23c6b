"""The structures and functions of kernel32 by which processes are made and held together.

By winbase.h, winnt.h and processthreadsapi.h, for 64 bits. Fields have fixed widths, so that a test
can compare their places on any system.
"""

import ctypes
from collections.abc import Callable
from ctypes import c_int32, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p, c_wchar_p
from functools import cache

__all__ = [
    "Accounting",
    "ExtendedLimits",
    "ProcessInformation",
    "StartupInfo",
    "StartupInfoEx",
    "call",
]


class StartupInfo(ctypes.Structure):
    """STARTUPINFOW."""

    _fields_ = (
        ("cb", c_uint32),
        ("lpReserved", c_void_p),
        ("lpDesktop", c_void_p),
        ("lpTitle", c_void_p),
        ("dwX", c_uint32),
        ("dwY", c_uint32),
        ("dwXSize", c_uint32),
        ("dwYSize", c_uint32),
        ("dwXCountChars", c_uint32),
        ("dwYCountChars", c_uint32),
        ("dwFillAttribute", c_uint32),
        ("dwFlags", c_uint32),
        ("wShowWindow", c_uint16),
        ("cbReserved2", c_uint16),
        ("lpReserved2", c_void_p),
        ("hStdInput", c_void_p),
        ("hStdOutput", c_void_p),
        ("hStdError", c_void_p),
    )


class StartupInfoEx(ctypes.Structure):
    """STARTUPINFOEXW."""

    _fields_ = (("StartupInfo", StartupInfo), ("lpAttributeList", c_void_p))


class ProcessInformation(ctypes.Structure):
    """PROCESS_INFORMATION."""

    _fields_ = (
        ("hProcess", c_void_p),
        ("hThread", c_void_p),
        ("dwProcessId", c_uint32),
        ("dwThreadId", c_uint32),
    )


class Accounting(ctypes.Structure):
    """JOBOBJECT_BASIC_ACCOUNTING_INFORMATION; times in units of 100 ns."""

    _fields_ = (
        ("TotalUserTime", c_uint64),
        ("TotalKernelTime", c_uint64),
        ("ThisPeriodTotalUserTime", c_uint64),
        ("ThisPeriodTotalKernelTime", c_uint64),
        ("TotalPageFaultCount", c_uint32),
        ("TotalProcesses", c_uint32),
        ("ActiveProcesses", c_uint32),
        ("TotalTerminatedProcesses", c_uint32),
    )


class ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION, with its basic part and IO_COUNTERS in one row."""

    _fields_ = (
        ("PerProcessUserTimeLimit", c_uint64),
        ("PerJobUserTimeLimit", c_uint64),
        ("LimitFlags", c_uint32),
        ("MinimumWorkingSetSize", c_size_t),
        ("MaximumWorkingSetSize", c_size_t),
        ("ActiveProcessLimit", c_uint32),
        ("Affinity", c_size_t),
        ("PriorityClass", c_uint32),
        ("SchedulingClass", c_uint32),
        ("IoInfo", c_uint64 * 6),
        ("ProcessMemoryLimit", c_size_t),
        ("JobMemoryLimit", c_size_t),
        ("PeakProcessMemoryUsed", c_size_t),
        ("PeakJobMemoryUsed", c_size_t),
    )


_HANDLE, _BOOL, _DWORD = c_void_p, c_int32, c_uint32

_TYPES: dict[str, tuple[type, ...]] = {
    # Name: what it returns, then what it takes.
    "CloseHandle": (_BOOL, _HANDLE),
    "CreateJobObjectW": (_HANDLE, c_void_p, c_wchar_p),
    "CreateProcessW": (
        _BOOL, c_wchar_p, c_void_p, c_void_p, c_void_p, _BOOL, _DWORD, c_void_p, c_wchar_p,
        c_void_p, c_void_p,
    ),
    "DeleteProcThreadAttributeList": (c_int32, c_void_p),
    "GenerateConsoleCtrlEvent": (_BOOL, _DWORD, _DWORD),
    "GetExitCodeProcess": (_BOOL, _HANDLE, c_void_p),
    "InitializeProcThreadAttributeList": (_BOOL, c_void_p, _DWORD, _DWORD, c_void_p),
    "QueryInformationJobObject": (_BOOL, _HANDLE, c_int32, c_void_p, _DWORD, c_void_p),
    "SetHandleInformation": (_BOOL, _HANDLE, _DWORD, _DWORD),
    "SetInformationJobObject": (_BOOL, _HANDLE, c_int32, c_void_p, _DWORD),
    "TerminateJobObject": (_BOOL, _HANDLE, c_uint32),
    "UpdateProcThreadAttribute": (
        _BOOL, c_void_p, _DWORD, c_size_t, c_void_p, c_size_t, c_void_p, c_void_p,
    ),
    "WaitForSingleObject": (_DWORD, _HANDLE, _DWORD),
}  # fmt: skip


@cache
def call(name: str) -> Callable[..., int]:
    """Return a function with its types; a handle that is none comes back as None."""
    # A library of its own: its functions' types are nobody else's.
    function = ctypes.WinDLL("kernel32", use_last_error=True)[name]
    function.restype, *taken = _TYPES[name]
    function.argtypes = tuple(taken)
    return function
