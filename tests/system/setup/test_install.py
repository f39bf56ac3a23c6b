"""`scripts/install.sh` in fresh homes: what it does, in every shell, and what it does not."""

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from cmesh import __version__
from tests.system.setup.home import INSTALLER, Home, release
from tests.system.setup.wheels import changed

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

SHELLS = {
    "dash": ["dash"],
    "bash": ["bash", "--posix"],
    "zsh": ["zsh"],
    "busybox": ["busybox", "sh"],
}
QUICK = ("--uv", "--offline", "--no-agents")
BLOCK = "# >>> cmesh >>>\n"


def shells(*names: str) -> list[list[str]]:
    """Return the shells' command lines; skips where one is missing."""
    for name in names:
        if shutil.which(SHELLS[name][0]) is None:
            pytest.skip(f"no `{SHELLS[name][0]}` on this machine")
    return [SHELLS[name] for name in names]


@pytest.mark.parametrize(("first", "second"), [("dash", "bash"), ("zsh", "busybox")])
def test_a_fresh_home_gets_a_program_and_a_second_run_changes_nothing(
    first: str, second: str, home: Home, present: Path
) -> None:
    fresh, again = shells(first, second)
    (home.path / ".bashrc").write_text("alias ll='ls -l'", "utf-8")  # its last line has no end
    done = home.install(present, *QUICK, shell=fresh)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"cmesh {__version__} is installed" in done.stdout
    assert home.cmesh("version").stdout.split()[:2] == ["cmesh", __version__]
    [version] = home.versions()
    assert home.link.readlink() == home.data / "versions" / version / "bin" / "cmesh"
    opened = home.run(["bash", "--noprofile", "-i", "-c", "command -v cmesh"])
    assert opened.stdout.strip() == str(home.link), opened.stderr
    assert (home.path / ".bashrc").read_text("utf-8").startswith(f"alias ll='ls -l'\n{BLOCK}")
    everything_is_recorded(home)
    assert home.left_over() == []
    once = home.snapshot()
    done = home.install(present, *QUICK, shell=again)
    assert done.returncode == 0, done.stdout + done.stderr
    assert home.snapshot() == once


def everything_is_recorded(home: Home) -> None:
    record = json.loads((home.data / "installed.json").read_text("utf-8"))
    assert (record["version"], record["cmesh"]) == (1, __version__)
    paths = {entry["path"] for entry in record["entries"]}
    trees = [entry["path"] for entry in record["entries"] if entry.get("tree")]
    written = [home.path / name for name in home.snapshot()]
    unknown = [one for one in written if not any(one.is_relative_to(tree) for tree in trees)]
    assert {str(one) for one in unknown} - paths == {str(home.data / "installed.json")}


def test_pip_does_it_where_there_is_no_uv(home: Home, present: Path) -> None:
    (home.tools / "uv").unlink()
    done = home.install(present, "--offline", "--no-agents", "--no-shell")
    assert done.returncode == 0, done.stdout + done.stderr
    assert home.cmesh("version").returncode == 0
    assert [name for name in home.snapshot() if not name.startswith(".local")] == []


def test_a_changed_wheel_is_refused(home: Home, present: Path, wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "release"
    shutil.copytree(present, place, copy_function=os.link)
    (place / wheel.name).unlink()
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 1
    (place / wheel.name).write_bytes(content)
    done = home.install(place, *QUICK)
    assert done.returncode == 1
    assert f"`{wheel.name}` is not what SHA256SUMS says" in done.stderr
    assert home.snapshot() == {}


def test_a_dependency_that_is_not_the_locked_one_is_refused(
    home: Home, present: Path, tmp_path: Path
) -> None:
    place = tmp_path / "release"
    shutil.copytree(present, place, copy_function=os.link)
    [victim] = place.glob("pytz-*.whl")
    content = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(content)
    with zipfile.ZipFile(victim, "a") as altered:
        altered.comment = b"another"
    done = home.install(place, *QUICK)
    assert done.returncode == 1
    assert "the packages that cmesh needs could not be installed" in done.stderr
    assert "ash mismatch" in done.stderr
    assert home.snapshot() == {}


def test_a_version_that_does_not_start_is_taken_back(
    home: Home, wheel: Path, wheels: Path, tmp_path: Path
) -> None:
    broken = {"cmesh/interfaces/cli/app.py": ('"""', 'raise SystemExit("no luck")\n"""')}
    place = release(wheels, tmp_path / "next", changed(wheel, "9.9.9", broken, tmp_path))
    done = home.install(place, *QUICK)
    assert done.returncode == 1
    assert "this version does not start here" in done.stderr
    assert "no luck" in done.stderr
    assert home.snapshot() == {}


def test_a_dry_run_says_each_change_and_the_agents_found_get_the_link(
    home: Home, present: Path
) -> None:
    settings = home.path / ".cursor" / "mcp.json"
    settings.parent.mkdir()
    before = home.snapshot()
    words = ("--uv", "--offline")
    tried = home.install(present, *words, "--dry-run")
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert f'"{home.link}"' in tried.stdout
    for change in (f"would link {home.link}", f"would add to {home.path}/.bashrc", "nothing was"):
        assert change in tried.stdout
    assert home.snapshot() == before
    assert home.left_over() == []
    done = home.install(present, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    entry = json.loads(settings.read_text("utf-8"))["mcpServers"]["cmesh"]
    assert (entry["command"], entry["args"][0]) == (str(home.link), "mcp")
    kinds = {
        one["kind"]
        for one in json.loads((home.data / "installed.json").read_text("utf-8"))["entries"]
    }
    assert kinds == {"directory", "link", "block", "mcp"}


def test_an_ended_installation_leaves_nothing(home: Home, present: Path) -> None:
    (home.tools / "uv").unlink()
    home.tool("uv", "kill -TERM $PPID")
    done = home.install(present, *QUICK)
    assert done.returncode == 143, done.stdout + done.stderr
    assert home.snapshot() == {}


def test_what_a_killed_installation_left_is_taken_over(home: Home, present: Path) -> None:
    uv = home.tools / "uv"
    real = uv.resolve()
    uv.unlink()
    home.tool("uv", f'{real} "$@" && kill -KILL $PPID')
    killed = home.install(present, *QUICK)
    assert killed.returncode == -9, killed.stdout + killed.stderr
    [half] = (name for name in home.versions() if name != ".installing")
    assert not (home.data / "versions" / half / "ready").exists()
    home.tool("uv", f'exec {real} "$@"')
    done = home.install(present, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert home.versions() == [half]
    assert home.cmesh("version").returncode == 0


def test_two_at_once_are_one_after_the_other(home: Home, present: Path) -> None:
    (home.tools / "uv").unlink()
    again = f"sh {INSTALLER} --from {present} --uv --offline --allow-root > {home.base}/second 2>&1"
    home.tool(
        "uv", f"[ -e {home.base}/second ] || {{ {again}; echo $? >> {home.base}/second; }}; exit 1"
    )
    home.install(present, *QUICK)
    second = (home.base / "second").read_text("utf-8")
    assert "is installing already" in second
    assert second.endswith("\n1\n")


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
@pytest.mark.parametrize("left", ["nothing", "link", "folder"])
def test_of_many_that_find_a_dead_ones_lock_at_once_one_goes_on(
    tmp_path: Path, shell: str, left: str
) -> None:
    text = INSTALLER.read_text("utf-8")
    functions = text[text.index("take_turn() {") : text.index("broken() {")]
    (tmp_path / "race").write_text(
        f"versions={tmp_path}\nstop() {{ echo refused; exit 1; }}\n{functions}\n"
        "read -r _\ntake_turn\necho won\nread -r _\n",
        "utf-8",
    )
    lock = tmp_path / ".installing"
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    if left == "link":
        lock.symlink_to(str(dead.pid))
    elif left == "folder":  # of an older installer
        lock.mkdir()
        (lock / "pid").write_text(str(dead.pid), "utf-8")
    racers = [
        subprocess.Popen(
            [*shell.split(), str(tmp_path / "race")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )
        for _ in range(12)
    ]  # fmt: skip
    said: list[bytes] = []
    for one in racers:
        assert one.stdin is not None
        one.stdin.write(b"go\n")
    for one in racers:
        assert one.stdout is not None
        said.append(one.stdout.readline())
    for one in racers:
        one.communicate()
    assert sorted(said) == [b"refused\n"] * 11 + [b"won\n"]
    assert not lock.with_name(".installing.taking").is_symlink()


def test_a_program_of_another_installation_is_left_alone(home: Home, present: Path) -> None:
    home.link.parent.mkdir(parents=True)
    home.link.write_text("#!/bin/sh\n", "utf-8")
    before = home.snapshot()
    done = home.install(present, *QUICK)
    assert done.returncode == 1
    assert f"`{home.link}` is there already" in done.stderr
    assert home.snapshot() == before


def test_a_home_that_cannot_be_written_is_named(home: Home, present: Path) -> None:
    (home.path / ".local").write_text("a file where a folder is wanted", "utf-8")
    before = home.snapshot()
    done = home.install(present, *QUICK)
    assert done.returncode == 1
    assert f"`{home.path}/.local` could not be made" in done.stderr
    assert home.snapshot() == before


@pytest.mark.parametrize(
    ("name", "script", "words"),
    [
        ("ldd", "echo 'musl libc (x86_64)' >&2; exit 1", "uses musl, which cmesh does not support"),
        (
            "uname",
            '[ "$1" = -m ] && echo riscv64 || echo Linux',
            "no wheel for the processor `riscv64`",
        ),
        ("uname", '[ "$1" = -m ] && echo x86_64 || echo Plan9', "no wheel for `Plan9`"),
        ("uname", '[ "$1" = -m ] && echo arm64 || echo Darwin', "no wheel for Darwin on arm64"),
        ("id", "echo 0", "this is root"),
    ],
)
def test_a_machine_that_is_not_served_is_told_why(
    home: Home, present: Path, name: str, script: str, words: str
) -> None:
    home.tool(name, script)
    argv = ["sh", str(INSTALLER), "--from", str(present)]
    argv += ["--allow-root"] if name != "id" and os.getuid() == 0 else []
    done = home.run(argv)
    assert done.returncode == 1
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert home.snapshot() == {}


def test_without_a_python_the_commands_that_bring_one_are_named(home: Home, present: Path) -> None:
    (home.tools / "uv").unlink()
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        home.tool(name, "exit 1")
    done = home.install(present, python=False)
    assert done.returncode == 1
    assert "neither Python from 3.11 on with venv nor uv is here" in done.stderr
    assert "apt-get install python3 python3-venv" in done.stderr
    assert home.snapshot() == {}


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no `shellcheck` on this machine")
    scripts = [str(INSTALLER), str(INSTALLER.with_name("release"))]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
