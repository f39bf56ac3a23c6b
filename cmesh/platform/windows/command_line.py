"""A program's arguments as the one line of text that Windows gives it, and its environment.

The line is what CommandLineToArgvW and the C runtime take apart again ("Parsing C command-line
arguments"). No shell reads it. INVARIANT: no batch file is started: Windows gives the line of one
to `cmd.exe`, which reads `&` and `%` in any argument (CVE-2024-24576).
"""

import subprocess
from collections.abc import Mapping, Sequence

__all__ = ["BATCH", "LINE_UNITS", "command_line", "environment_block"]

LINE_UNITS = 32_766
"""The longest line that CreateProcessW takes, in units of UTF-16."""

BATCH = (".bat", ".cmd")


def command_line(argv: Sequence[str]) -> str:
    """Return the line from which the program gets exactly these arguments.

    Raises:
        ValueError: no line says them: a null character, a quote in the program's name, a batch
            file, or too long.
    """
    program = argv[0]
    if any("\0" in word for word in argv):
        raise ValueError("an argument has a null character")
    if '"' in program or program.endswith("\\") or not program:
        raise ValueError(f"`{program}` is no program's name")
    # Windows drops dots and spaces at the end before it looks what the file is.
    if program.rstrip(". ").lower().endswith(BATCH):
        raise ValueError(f"`{program}` is a batch file, which only a shell can run")
    # Its rules for the name differ from those for arguments, and agree where it is in quotes.
    line = f'"{program}"' + "".join(f" {subprocess.list2cmdline([word])}" for word in argv[1:])
    if len(line.encode("utf-16-le", "surrogatepass")) // 2 > LINE_UNITS:
        raise ValueError(f"the arguments are longer than {LINE_UNITS} characters")
    return line


def environment_block(environment: Mapping[str, str]) -> bytes:
    """Return variables in the form of CreateProcessW, in UTF-16, sorted as Windows sorts them.

    Raises:
        ValueError: a name or value that no variable can have, or two names that are one.
    """
    seen: dict[str, str] = {}
    for name, value in environment.items():
        # A name may begin with `=`: the shell keeps each drive's directory so.
        if not name or "=" in name[1:] or "\0" in name + value:
            raise ValueError(f"`{name}` is no variable, or its value has a null character")
        if name.upper() in seen:
            raise ValueError(f"the variable `{name}` is there twice, in another case")
        seen[name.upper()] = f"{name}={value}\0"
    text = "".join(seen[name] for name in sorted(seen)) or "\0"
    return f"{text}\0".encode("utf-16-le", "surrogatepass")
