"""Wheels for tests of the installer: cmesh's own, and those of what it needs, without a network.

A dependency's wheel is put together again from its files in the environment that runs the
tests. cmesh's comes from the tree, with the native parts that are built already.
"""

import base64
import csv
import fcntl
import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cmesh import __version__
from tests.system.daemon.machine import ROOT

__all__ = ["changed", "dependencies", "own_wheel"]

BUILD_LIMIT_S = 300


def own_wheel(into: Path) -> Path:
    """Build cmesh's wheel from the tree; nothing native is compiled again when it is current."""
    script = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import release, os; release.make_wheel(release.ROOT, Path(sys.argv[2]), os.environ)"
    argv = [sys.executable, "-c", script, str(ROOT / "scripts"), str(into)]
    with Path(__file__).open("rb") as ours:
        fcntl.flock(ours, fcntl.LOCK_EX)  # the tree has one `build/lib`, tests several processes
        environment = os.environ | {"PYTHONPATH": ""}
        subprocess.run(argv, check=True, timeout=BUILD_LIMIT_S, env=environment)
    [wheel] = into.glob("cmesh-*.whl")
    return wheel


def dependencies(into: Path) -> None:
    """Write a wheel for each distribution that cmesh needs here."""
    seen, packed = set[tuple[str, str]](), set[str]()
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = re.search(r"(?ms)^dependencies = \[(.*?)^\]", project)
    assert listed is not None
    wanted = [(requirement, "") for requirement in re.findall(r'"([^"]+)"', listed[1])]
    while wanted:
        line, extra = wanted.pop()  # `extra`: of the package that names it
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found = distribution(name)
        for part in {"", *requirement.extras}:
            if (name, part) not in seen:
                seen.add((name, part))
                wanted += [(one, part) for one in found.requires or []]
        if name not in packed:
            packed.add(name)
            _repacked(found, into)


def changed(wheel: Path, number: str, changes: Mapping[str, tuple[str, str]], into: Path) -> Path:
    """Write a wheel as version `number`, with what stands in some files replaced."""
    own = {
        "cmesh/__init__.py": (f'"{__version__}"', f'"{number}"'),
        "cmesh/interfaces/mcp/handshake.json": (f'"{__version__}"', f'"{number}"'),
        f"cmesh-{__version__}.dist-info/METADATA": (
            f"Version: {__version__}",
            f"Version: {number}",
        ),
    }
    target = into / wheel.name.replace(__version__, number, 1)
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w") as new:
        files = {info.filename: old.read(info) for info in old.infolist()}
        for name, (text, instead) in (own | dict(changes)).items():
            assert text.encode() in files[name], name
            files[name] = files[name].replace(text.encode(), instead.encode(), 1)
        modes = {info.filename: info.external_attr for info in old.infolist()}
        moved = {
            name.replace(f"-{__version__}.dist-info", f"-{number}.dist-info"): (
                content,
                modes[name],
            )
            for name, content in files.items()
            if not name.endswith("/RECORD")
        }
        _write(new, moved, f"cmesh-{number}.dist-info")
    return target


def _repacked(found: Distribution, into: Path) -> None:
    about = found.read_text("WHEEL") or ""
    tags = re.findall(r"(?m)^Tag: (\S+)$", about)
    python, abi = tags[0].split("-")[:2]
    platforms = ".".join(dict.fromkeys(tag.split("-")[2] for tag in tags))
    pythons = (
        ".".join(dict.fromkeys(tag.split("-")[0] for tag in tags)) if abi == "none" else python
    )
    info = next(str(f.parent) for f in found.files or [] if f.name == "WHEEL")
    stem = info.removesuffix(".dist-info")
    files = {
        str(file): (Path(str(file.locate())).read_bytes(), 0o644 << 16)
        for file in found.files or []
        if ".." not in file.parts and "__pycache__" not in file.parts and file.name != "RECORD"
    }
    with zipfile.ZipFile(into / f"{stem}-{pythons}-{abi}-{platforms}.whl", "w") as wheel:
        _write(wheel, files, info)


def _write(wheel: zipfile.ZipFile, files: Mapping[str, tuple[bytes, int]], info: str) -> None:
    """Write the files and a RECORD of them, uncompressed: it is read once."""
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for name, (content, mode) in files.items():
        member = zipfile.ZipInfo(name)
        member.external_attr = mode
        wheel.writestr(member, content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow([name, f"sha256={digest}", len(content)])
    rows.writerow([f"{info}/RECORD", "", ""])
    wheel.writestr(f"{info}/RECORD", record.getvalue())
