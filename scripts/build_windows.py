"""Cross-builds the parts that Windows needs and packs its wheel; `scripts/build-windows` calls it.

The extension keeps to the stable ABI, so no Windows CPython is needed: its headers are this
interpreter's with a `pyconfig.h` of ours, and its import library names what the compiled
source mentions. It may load nothing but `python3.dll` and what every Windows 10 has.
"""

import argparse
import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import build_ext

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".cache" / "windows"
WHEELS = WORK / "wheel"
PARTS = WORK / "parts"
"""What a wheel for Windows has beside the Python code, as it lies in the wheel."""

MODULE = PARTS / "cmesh" / "_native.pyd"
TESTNET = PARTS / "cmesh" / "node" / "bin" / "cmesh-testnet.exe"
STAMP = WORK / "stamp"
TARGET = "x86_64-windows-gnu"
ZIG = (sys.executable, "-m", "ziglang")

# With Windows 10 and later; the runtime is the universal one (`api-ms-win-crt-…`).
_WITH_WINDOWS = {"kernel32.dll", "ntdll.dll", "ws2_32.dll"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Cross-build cmesh's parts for Windows.")
    parser.add_argument("--check", action="store_true", help="node and extension only")
    asked = parser.parse_args(argv)
    set_environment()
    if not (MODULE.exists() and STAMP.exists() and STAMP.read_text("utf-8") == _digest()):
        build_module()
        STAMP.write_text(_digest(), "utf-8")
    print(f"build-windows: {MODULE.relative_to(ROOT)}, {MODULE.stat().st_size / 1e6:.0f} MB")
    if not asked.check:
        build_ext.build_testnet(TESTNET)
        print(f"build-windows: {make_wheel().relative_to(ROOT)}")
    return 0


def set_environment() -> None:
    """Have Go and its C parts compiled for Windows by this process's children."""
    os.environ |= {
        "GOOS": "windows",
        "GOARCH": "amd64",
        "CC": " ".join((*ZIG, "cc", "-target", TARGET)),
        "AR": " ".join((*ZIG, "ar")),
        "ZIG_GLOBAL_CACHE_DIR": str(WORK / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(WORK / "zig"),
    }


def build_module() -> None:
    """Build the node as an archive, and the extension that links it."""
    archive = WORK / "libtailscale.a"
    build_ext.build_archive(archive)
    with tempfile.TemporaryDirectory(dir=WORK) as made:
        place = Path(made)
        headers = place / "include"
        shutil.copytree(sysconfig.get_path("include"), headers)
        shutil.copy2(build_ext.NATIVE / "windows" / "pyconfig.h", headers)
        source = place / "_native.c"
        build_ext.ffibuilder.emit_c_code(str(source))
        flags = [f"-I{headers}", f"-I{build_ext.NATIVE}", "-O2", "-DNDEBUG"]
        library = _import_library(_output([*_cc(), "-E", *flags, str(source)]), place)
        fresh = place / MODULE.name
        _run([*_cc(), "-shared", "-s", *flags, str(source), str(archive), str(library),
              "-lws2_32", "-o", str(fresh)])  # fmt: skip
        require_loadable(fresh)
        MODULE.parent.mkdir(parents=True, exist_ok=True)
        fresh.replace(MODULE)


def require_loadable(module: Path) -> None:
    """Stop unless Python would find the module, and Windows all that it loads."""
    pefile: Any = importlib.import_module("pefile")  # of the group `windows` alone, and untyped
    with pefile.PE(str(module)) as image:
        exported = {symbol.name for symbol in image.DIRECTORY_ENTRY_EXPORT.symbols}
        loaded = {entry.dll.decode("ascii").lower() for entry in image.DIRECTORY_ENTRY_IMPORT}
    if b"PyInit__native" not in exported:
        sys.exit(f"build-windows: `{module.name}` does not export PyInit__native")
    strange = {
        name for name in loaded - _WITH_WINDOWS if not name.startswith("api-ms-win-crt-")
    } - {"python3.dll"}
    if strange or "python3.dll" not in loaded:
        sys.exit(f"build-windows: `{module.name}` loads {', '.join(sorted(loaded))}")


def make_wheel() -> Path:
    """Pack the wheel from a fresh sdist and the parts; pip on Windows installs it."""
    with tempfile.TemporaryDirectory(dir=WORK) as made:
        packing = "import sys; from setuptools import build_meta as m; m.build_sdist(sys.argv[1])"
        subprocess.run(
            [sys.executable, "-c", packing, made], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        [packed] = Path(made).glob("*.tar.gz")
        with tarfile.open(packed) as sdist:
            sdist.extractall(made, filter="data")
        [tree] = (path for path in Path(made).iterdir() if path.is_dir())
        shutil.rmtree(WHEELS, ignore_errors=True)
        argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        argv += ["--no-build-isolation", "--wheel-dir", str(WHEELS), str(tree)]
        cross = {"CMESH_NATIVE_PARTS": str(PARTS), "_PYTHON_HOST_PLATFORM": "win-amd64"}
        _run(argv, cross)
    [wheel] = WHEELS.glob("*-cp311-abi3-win_amd64.whl")
    return wheel


def _import_library(source: str, place: Path) -> Path:
    """Make `python3.lib`: every name of Python's that the preprocessed source mentions."""
    names = sorted(set(re.findall(r"\b_?Py[A-Za-z]*_\w+", source)))
    definition, library = place / "python3.def", place / "python3.lib"
    definition.write_text("\n".join(["LIBRARY python3.dll", "EXPORTS", *names, ""]), "utf-8")
    _run([*ZIG, "dlltool", "-m", "i386:x86-64", "-d", str(definition), "-l", str(library)])
    return library


def _cc() -> list[str]:
    return [*ZIG, "cc", "-target", TARGET]


def _digest() -> str:
    digest = hashlib.sha256(f"{sys.version} {build_ext.TAGS}".encode())
    for path in (*build_ext.inputs(), Path(__file__), ROOT / "pyproject.toml"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _output(argv: Sequence[str]) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def _run(argv: Sequence[str], more: dict[str, str] | None = None) -> None:
    done = subprocess.run(argv, env=os.environ | (more or {}), check=False)
    if done.returncode != 0:
        sys.exit(f"build-windows: `{' '.join(argv[:5])} …` failed, see the lines above")


if __name__ == "__main__":
    sys.exit(main())
