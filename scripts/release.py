"""Makes what is released: wheels for an old glibc, sdist, lock, SBOM, installers, checksums.

`scripts/release` calls it, with the tools it needs. Every wheel is built from the sdist, so
that the sdist is known to build; nothing is uploaded and nothing is signed here.
"""

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
WORK = ROOT / ".cache" / "release"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
VERSION: str = PROJECT["version"]

GLIBC = "2.28"
"""The oldest one that a wheel runs with: Debian 10, RHEL 8, Ubuntu 20.04."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""By the name in a wheel's, Go's name."""

INSTALLERS = ("install.sh", "install.ps1")

TICK_S = 15.0
"""How often a build that takes long says where it is."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make what is released, in dist/.")
    parser.add_argument("--host", action="store_true", help="this machine's wheel only, quickly")
    parser.add_argument(
        "--try", dest="trial", action="store_true", help="install dist/ in a bare Debian"
    )
    parser.add_argument("--only", choices=ARCHITECTURES, help="the wheel of one architecture")
    parser.add_argument("--draft", action="store_true", help="also from a tree with changes")
    parser.add_argument("--url", default="", help="where it will be, for the installers")
    parser.add_argument(
        "--identity", default="", help="who signs SHA256SUMS, as sigstore names them"
    )
    parser.add_argument("--issuer", default="", help="who vouches for that identity")
    asked = parser.parse_args(argv)
    if asked.trial:
        return _run(
            [sys.executable, str(ROOT / "scripts" / "bare_trial.py"), str(DIST)], check=False
        )
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    if asked.host:
        print("release: building this machine's wheel, minutes in a fresh tree", flush=True)
        with told(phase):
            make_wheel(ROOT, DIST, os.environ)
    else:
        _release([asked.only] if asked.only else list(ARCHITECTURES), draft=asked.draft)
    for name in INSTALLERS:
        text = (ROOT / "scripts" / name).read_text("utf-8")
        filled = {
            "RELEASE_URL": asked.url,
            "SIGNER_IDENTITY": asked.identity,
            "SIGNER_ISSUER": asked.issuer,
        }
        (DIST / name).write_text(fill(text, filled), "utf-8")
        shutil.copymode(ROOT / "scripts" / name, DIST / name)
    write_sums(DIST)
    for wheel in sorted(DIST.glob("*.whl")):
        size = wheel.stat().st_size / 1e6
        print(f"release: {wheel.relative_to(ROOT)}, {size:.0f} MB, and its SHA256SUMS")
    print("next: scripts/install.sh --from dist")
    return 0


def phase() -> str:
    """Return which part of the tree's build is at work, by what is there already."""
    if not (ROOT / "build" / "native" / "libtailscale.a").exists():
        return "compiling the tailnet node (Go, the long part)"
    if not (ROOT / "cmesh" / "node" / "bin" / "cmesh-testnet").exists():
        return "compiling the local tailnet"
    return "linking and packing the wheel"


@contextlib.contextmanager
def told(where: Callable[[], str], every_s: float = TICK_S) -> Generator[None]:
    """Print where a long step is, again and again until it ends."""
    ended = threading.Event()
    began = time.monotonic()

    def tell() -> None:
        while not ended.wait(every_s):
            print(f"  {time.monotonic() - began:.0f} s  {where()}", flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def _release(architectures: Sequence[str], *, draft: bool) -> None:
    changed = _output(["git", "status", "--porcelain"])
    if changed and not draft:
        sys.exit(f"release: the tree has changes\n{changed}hint: commit them, or --draft")
    epoch = _output(["git", "log", "-1", "--format=%ct"]).strip()
    environment = os.environ | {"SOURCE_DATE_EPOCH": epoch}
    _run(
        [
            sys.executable,
            "-m",
            "build",
            "--sdist",
            "--no-isolation",
            "--outdir",
            str(DIST),
            str(ROOT),
        ],
        environment,
    )
    [sdist] = DIST.glob("*.tar.gz")
    for architecture in architectures:
        tree = _unpacked(sdist, WORK / f"tree-{architecture}")
        raw = _emptied(WORK / f"raw-{architecture}")
        make_wheel(tree, raw, environment | cross(architecture))
        [wheel] = raw.glob("*.whl")
        shutil.copy2(named_manylinux(wheel, architecture), DIST)
    # Compiled and looked at, not released: most of cmesh does not run on Windows yet.
    _run([str(ROOT / "scripts" / "build-windows")])
    lock = DIST / f"cmesh-{VERSION}-lock.txt"
    write_lock(lock)
    _run(
        [
            sys.executable,
            str(ROOT / "scripts" / "sbom.py"),
            str(lock),
            str(DIST / f"cmesh-{VERSION}.cdx.json"),
        ]
    )


def cross(architecture: str) -> dict[str, str]:
    """Return the environment that builds for another processor and an old glibc, with zig."""
    target = f"{architecture}-linux-gnu.{GLIBC}"
    compiler = f"{sys.executable} -m ziglang cc -target {target}"
    return {
        "CC": compiler,
        "AR": f"{sys.executable} -m ziglang ar",
        "LDSHARED": f"{compiler} -shared",
        "CFLAGS": "-O2 -fPIC",
        "GOOS": "linux",
        "GOARCH": ARCHITECTURES[architecture],
        "ZIG_GLOBAL_CACHE_DIR": str(WORK / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(WORK / "zig"),
        "_PYTHON_HOST_PLATFORM": f"linux-{architecture}",
    }


def make_wheel(tree: Path, into: Path, environment: Mapping[str, str]) -> None:
    """Build the wheel of a tree with this interpreter's setuptools."""
    shutil.rmtree(tree / "build" / "lib", ignore_errors=True)
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    _run([*argv, "--wheel-dir", str(into), str(tree)], environment)


def named_manylinux(wheel: Path, architecture: str) -> Path:
    """Return the wheel under the name of `GLIBC`; stops when it needs more than that.

    `auditwheel repair` would do both, but it knows this machine's processor only.
    """
    told = _output([sys.executable, "-m", "auditwheel", "show", str(wheel)])
    found = re.search(rf"\"manylinux_(\d+)_(\d+)_{architecture}\"", " ".join(told.split()))
    if found is None or (int(found[1]), int(found[2])) > tuple(map(int, GLIBC.split("."))):
        sys.exit(f"release: `{wheel.name}` needs more than glibc {GLIBC}: {told}")
    if "no external shared libraries" not in " ".join(told.split()):
        sys.exit(f"release: `{wheel.name}` needs libraries that are not everywhere: {told}")
    tag = f"manylinux_{GLIBC.replace('.', '_')}_{architecture}"
    argv = [sys.executable, "-m", "wheel", "tags", "--platform-tag", tag, "--remove", str(wheel)]
    return wheel.with_name(_output(argv).split()[-1])


def write_lock(path: Path) -> None:
    """Write what an installation fetches: each dependency's version and hashes."""
    argv = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--generate-hashes",
    ]
    argv += ["--python-version", "3.11", "--no-header", "--no-annotate"]
    _run([*argv, "--output-file", str(path), str(ROOT / "pyproject.toml")])


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return an installer with its empty settings filled in."""
    for name, value in values.items():
        if not re.fullmatch(r"[\w@:/.+-]*", value):
            sys.exit(f"release: `{value}` cannot stand in an installer")
        text, count = re.subn(rf"(?m)^(\$?{name} ?= ?)''$", rf"\g<1>'{value}'", text)
        assert count == 1, name
    return text


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over what is there, in the form of sha256sum(1)."""
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines), "utf-8")


def _unpacked(sdist: Path, into: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(_emptied(into), filter="data")
    [tree] = into.iterdir()
    return tree


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _output(argv: Sequence[str]) -> str:
    return subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def _run(
    argv: Sequence[str], environment: Mapping[str, str] | None = None, *, check: bool = True
) -> int:
    status = subprocess.run(argv, cwd=ROOT, env=environment, check=False).returncode
    if status and check:
        sys.exit(f"release: `{' '.join(argv[:6])} …` failed with {status}, see the lines above")
    return status


if __name__ == "__main__":
    sys.exit(main())
