r"""Runs in a CPython for Windows: asks Windows what it makes of texts, command lines, places.

    ask.py FUNCTION FILE

FILE holds the questions as a JSON list, of UTF-8; prints a JSON list of the answers.
"""

import ctypes
import json
import sys
from collections.abc import Callable
from ctypes import wintypes
from pathlib import Path

from cmesh.platform import files

assert sys.platform == "win32"

BUFFER_UNITS = 40_000


def full_name(text: str) -> str:
    """Return what Win32 makes of a path's text before it opens it (GetFullPathNameW)."""
    get = ctypes.WinDLL("kernel32").GetFullPathNameW
    get.argtypes = (wintypes.LPCWSTR, wintypes.DWORD, wintypes.LPWSTR, ctypes.c_void_p)
    get.restype = wintypes.DWORD
    into = ctypes.create_unicode_buffer(BUFFER_UNITS)
    length: int = get(text, BUFFER_UNITS, into, None)
    return into.value if 0 < length < BUFFER_UNITS else ""


def real_name(text: str) -> str:
    """Return where the seam says that a directory is."""
    return files.real_name(text)


def arguments(line: str) -> list[str]:
    """Return what Windows takes a command line for (CommandLineToArgvW)."""
    split = ctypes.WinDLL("shell32").CommandLineToArgvW
    split.argtypes = (wintypes.LPCWSTR, ctypes.POINTER(ctypes.c_int))
    split.restype = ctypes.POINTER(wintypes.LPWSTR)
    many = ctypes.c_int()
    words = split(line, ctypes.byref(many))
    return [words[index] or "" for index in range(many.value)]


ANSWERS: dict[str, Callable[[str], object]] = {
    "arguments": arguments,
    "full_name": full_name,
    "real_name": real_name,
}

if __name__ == "__main__":
    answer = ANSWERS[sys.argv[1]]
    asked: list[str] = json.loads(Path(sys.argv[2]).read_text("utf-8"))
    print(json.dumps([answer(one) for one in asked]))
