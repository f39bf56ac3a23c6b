"""The second half of an installation: what a new environment does to take its place.

`scripts/install.sh` makes the environment, then runs this in it: the link in
`~/.local/bin`, the running daemon, the shells' start files, the record, the agents. What
fails before the daemon has changed hands is undone; after it nothing can fail but what is
only said. It never touches configuration, state or keys.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cmesh import __version__
from cmesh.errors import CmeshError, DaemonError, DaemonNotRunning, UsageError
from cmesh.paths import config_dir, data_dir, program_link, state_dir
from cmesh.setup.installed import Entry, merged, read_installed, write_installed
from cmesh.setup.shells import BEGIN, END, Block, added, is_on_path, plan_blocks

__all__ = ["main"]

REGISTER_LIMIT_S = 120.0
STATUS_LIMIT_S = 60.0
_NO_PROGRAM = 127


@dataclass(slots=True, kw_only=True)
class _Installation:
    """One run; `final` is where the environment is, or in a dry run where it would be.

    Attributes:
        before: the program that the link named, None when there was no link.
        made: folders that this run made, those of the shell script first; deepest last.
    """

    environment: Path
    final: Path
    sha256: str
    link: Path
    data: Path
    dry: bool
    before: Path | None = None
    made: list[Path] = field(default_factory=list[Path])
    entries: list[Entry] = field(default_factory=list[Entry])

    @property
    def program(self) -> Path:
        """The program in the environment."""
        return self.final / "bin" / "cmesh"

    def tell(self, infinitive: str, past: str) -> None:
        """Say what is done, or in a dry run what would be."""
        _say(f"would {infinitive}" if self.dry else past)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status. Blocks for as long as a replacement takes."""
    parser = argparse.ArgumentParser(prog="cmesh.setup.install", description=__doc__)
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--sha256", required=True, help="of the wheel")
    parser.add_argument("--folders", default="", help="made already, a line each")
    for name in ("--dry-run", "--no-shell", "--no-agents"):
        parser.add_argument(name, action="store_true")
    asked = parser.parse_args(argv)
    try:
        _install(asked)
    except (CmeshError, OSError) as error:
        hint = getattr(error, "hint", "") or "see the lines above"
        sys.stderr.write(f"install: {error}\nhint: {hint}\n")
        return getattr(error, "exit_status", 1)
    return 0


def _install(asked: argparse.Namespace) -> None:
    link, data = program_link(), data_dir()
    before = link.parent / link.readlink() if link.is_symlink() else None
    if before is None and link.exists():
        raise UsageError(f"`{link}` is there already and no link", hint=f"mv {link} {link}.old")
    work = _Installation(
        environment=asked.environment,
        final=data / "versions" / asked.environment.name,
        sha256=asked.sha256,
        link=link,
        data=data,
        dry=asked.dry_run,
        before=before,
        made=[Path(line) for line in reversed(asked.folders.splitlines())],
    )
    old = read_installed(data)
    blocks: Sequence[Block] = () if asked.no_shell else _blocks(work)
    _switch_and_replace(work)
    for block in blocks:
        _add_block(work, block)
    gone = _prune(work)
    _record(work, old, gone)
    if not asked.no_agents:
        _register(work)
    _say_what_next(work, reopened=bool(blocks))


def _blocks(work: _Installation) -> Sequence[Block]:
    if is_on_path(work.link.parent, os.environ.get("PATH", "")):
        return ()
    home = Path.home()
    return plan_blocks(
        home=home,
        shell=os.environ.get("SHELL", ""),
        config=Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config"),
        zsh=Path(os.environ.get("ZDOTDIR") or home),
    )


def _switch_and_replace(work: _Installation) -> None:
    """Point the link to the new program, and let a running daemon be replaced by it."""
    if work.before != work.program:
        work.tell(f"link {work.link} to {work.program}", f"linked {work.link}")
    running = _status(work.environment / "bin" / "cmesh")
    if work.dry:
        if running and not _is_ours(work):
            _say("would replace the running daemon: `cmesh up --replace`")
        return
    _make_parents(work, work.link.parent)
    try:
        _point(work.link, work.program)
        if running and not _is_ours(work):
            _replace(work)
    except (CmeshError, OSError):
        _go_back(work)
        raise
    work.entries.append({"kind": "link", "path": str(work.link), "target": str(work.program)})


def _replace(work: _Installation) -> None:
    _say("replacing the running daemon; tasks run on")
    # No limit of its own: each step of it has one, and between two daemons is no place to stop.
    status = subprocess.run([work.link, "up", "--replace"], check=False).returncode  # noqa: S603
    if status and not _is_ours(work):
        raise DaemonError(
            f"cmesh {__version__} did not take the daemon's place (status {status})",
            hint="see the lines above; the version before is in use again",
        )


def _go_back(work: _Installation) -> None:
    """Put the link back, and see to it that a daemon runs where one ran."""
    if work.before is None:
        work.link.unlink(missing_ok=True)
        for folder in reversed(work.made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        return
    _point(work.link, work.before)
    if _status(work.before):
        return
    _call([str(work.before), "up"], STATUS_LIMIT_S)
    if not _status(work.before):
        # It had begun to take work on a migrated store: only the new one can go on.
        _point(work.link, work.program)
        _say(f"note: the version before cannot go on; {work.link} stays with {__version__}")


def _is_ours(work: _Installation) -> bool:
    """Return whether the running daemon is of the new environment."""
    try:
        text = (state_dir() / "launch.json").read_text("utf-8")
    except (OSError, ValueError):
        return False
    return f'"{work.final}/bin/' in text


def _status(program: Path) -> bool:
    """Return whether a daemon runs; one that does not answer well runs too."""
    status = _call([str(program), "status"], STATUS_LIMIT_S)
    return status not in (DaemonNotRunning.exit_status, _NO_PROGRAM)


def _add_block(work: _Installation, block: Block) -> None:
    """Append the lines to a start file. That it fails is said; cmesh is installed without."""
    try:
        new = not block.path.exists()
        text, newline = added(b"" if new else block.path.read_bytes(), block)
        if text:
            work.tell(
                f"add to {block.path}: {block.line}", f"added ~/.local/bin to PATH in {block.path}"
            )
        if work.dry:
            return
        if text:
            _make_parents(work, block.path.parent)
            with block.path.open("ab") as file:
                file.write(text)
    except OSError as error:
        _say(f"note: {block.path} was left alone ({error.strerror}); add to it: {block.line}")
        return
    work.entries.append(
        {
            "kind": "block",
            "path": str(block.path),
            "begin": BEGIN,
            "end": END,
            "made": new,
            "newline": newline,
        }
    )


def _prune(work: _Installation) -> list[str]:
    """Remove environments that nothing uses; the one before stays, to go back to."""
    kept = {work.final, work.before.parent.parent if work.before else work.final}
    gone: list[str] = []
    for folder in sorted((work.data / "versions").glob("*-*")):
        if folder in kept or _is_used(folder):
            continue
        work.tell(f"remove the old {folder}", f"removed the old {folder.name}")
        gone.append(str(folder))
        if not work.dry:
            # What could not be removed is tried again the next time.
            shutil.rmtree(folder, ignore_errors=True)
    return gone


def _is_used(folder: Path) -> bool:
    """Return whether a process was started from an environment: a daemon, a shim, a relay."""
    lines: list[bytes] = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(process.read_bytes())
    if not lines:  # a system without /proc
        listing = ["ps", "-A", "-o", "args="]
        lines = [subprocess.run(listing, capture_output=True, check=True).stdout]  # noqa: S603
    return any(f"{folder}/".encode() in line for line in lines)


def _record(work: _Installation, old: Sequence[Entry], gone: Sequence[str]) -> None:
    if work.dry:
        return
    tree: Entry = {"kind": "directory", "path": str(work.final), "tree": True}
    tree |= {"cmesh": __version__, "sha256": work.sha256}
    # What the daemon will make on its way to its own places belongs to the installation too.
    later = [path for own in (state_dir(), config_dir()) for path in _missing(own.parent)]
    paths = dict.fromkeys([*work.made, *later])
    folders: list[Entry] = [{"kind": "directory", "path": str(path)} for path in paths]
    write_installed(
        work.data, merged(old, [tree, *folders, *work.entries], gone), version=__version__
    )


def _register(work: _Installation) -> None:
    """Let `cmesh mcp add` register the link with each agent found; it says what it does."""
    own = str(work.environment / "bin" / "cmesh")
    argv = (
        [own, "mcp", "add", "--all", "--dry-run"]
        if work.dry
        else [str(work.link), "mcp", "add", "--all"]
    )
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=REGISTER_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        _say(
            f"note: no agent was registered within {REGISTER_LIMIT_S:g} s; again: `cmesh mcp add --all`"
        )
        return
    # A dry run knows no link yet, and would name the temporary environment.
    sys.stdout.write(done.stdout.replace(own, str(work.link)))
    if done.returncode:
        _say("note: not every agent could be registered; again: `cmesh mcp add --all`")


def _say_what_next(work: _Installation, *, reopened: bool) -> None:
    if work.dry:
        _say("nothing was changed")
        return
    _say(f"cmesh {__version__} is installed")
    if reopened:
        _say('open a new terminal, or: export PATH="$HOME/.local/bin:$PATH"')
    _say("next: `cmesh setup`, or say to your agent: help me setup cmesh")
    _say("to see a delegation on this machine alone: `cmesh demo`")


def _make_parents(work: _Installation, folder: Path) -> None:
    """Make a folder and those above it, and remember which were not there."""
    new = _missing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    work.made += new


def _missing(folder: Path) -> list[Path]:
    """Return a folder and those above it that are not there, the outermost first."""
    return [one for one in (*reversed(folder.parents), folder) if not one.exists()]


def _point(link: Path, target: Path) -> None:
    """Let a link name a target, in one step: no moment is without a program."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def _call(argv: Sequence[str], limit: float) -> int:
    try:
        return subprocess.run(  # noqa: S603 - our own program
            argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=limit
        ).returncode
    except OSError:
        return _NO_PROGRAM
    except subprocess.TimeoutExpired:
        return -1


def _say(text: str) -> None:
    sys.stdout.write(f"install: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
