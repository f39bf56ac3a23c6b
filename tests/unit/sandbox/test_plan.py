"""What is started for a sandbox: bubblewrap's options, the launcher's order, Seatbelt's text."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmesh.errors import SandboxUnavailable
from cmesh.runner.programs import Needs, needs_of
from cmesh.sandbox import bwrap, seatbelt
from cmesh.sandbox.plan import plan, require_fit
from cmesh.sandbox.profile import Objects, Parts, SandboxSpec, View, views
from cmesh.sandbox.tier import Enforcement

SPEC = SandboxSpec(
    directory="/srv/app",
    writes_directory=False,
    home="/state/tasks/t/home",
    tmp="/state/tasks/t/tmp",
    read=("/home/me/tools",),
    hidden=("/state", "/srv/app/state"),
)
TIER3 = Enforcement(landlock_abi=7, bwrap=True, seccomp=True, netns=True)
TIER2 = Enforcement(landlock_abi=7, seccomp=True, why="no bwrap", hint="install it")


def options(spec: SandboxSpec, launcher: str = "/py") -> list[str]:
    links = {"/bin": "usr/bin"}
    return bwrap.arguments(
        spec,
        numbers=bwrap.Numbers(directory=3, objects=7, parts=16, beside=80),
        links=links,
        launcher=[launcher],
    )


def at(argv: list[str], *words: str) -> int:
    [found] = [i for i in range(len(argv)) if tuple(argv[i : i + len(words)]) == words]
    return found


def test_the_directory_is_bound_by_its_descriptor_and_read_only() -> None:
    assert at(options(SPEC), "--ro-bind-fd", "3", "/srv/app")
    assert at(options(replace(SPEC, writes_directory=True)), "--bind-fd", "3", "/srv/app")


PARTS = Parts(read=("docs", "src", "docs/api"), write=("src/a", "docs"))


def test_parts_lie_in_an_empty_directory_that_hides_what_is_shown_above_it() -> None:
    above = replace(SPEC, parts=PARTS, read=("/srv", "/srv/app/tool"), hidden=("/srv/app/docs/x",))
    argv = options(above)
    empty = at(argv, "--tmpfs", "/srv/app")
    assert at(argv, "--ro-bind-try", "/srv", "/srv") < empty
    docs = at(argv, "--ro-bind-fd", "16", "/srv/app/docs")
    assert empty < at(argv, "--ro-bind-fd", "17", "/srv/app/src")
    assert argv.count("/srv/app/tool") == 4  # once more, in what is empty otherwise
    assert empty < docs < at(argv, "--tmpfs", "/srv/app/docs/x")
    assert docs < at(argv, "--remount-ro", "/srv/app")
    assert "3" not in argv


def test_the_launcher_is_there_also_where_it_lies_in_a_directory_of_parts() -> None:
    argv = options(replace(SPEC, parts=PARTS), "/srv/app/py")
    assert argv[at(argv, "--tmpfs", "/srv/app") :].count("/srv/app/py") == 2
    assert options(replace(SPEC, parts=PARTS)).count("/py") == 2  # once, where it is


def test_what_may_be_written_lies_over_what_may_be_read() -> None:
    spec = replace(SPEC, parts=PARTS, writes_directory=True)
    assert views(spec) == [View("docs", True), View("src", False), View("src/a", True)]
    assert views(replace(SPEC, parts=PARTS)) == [View("docs", False), View("src", False)]
    whole = replace(spec, parts=Parts(write=("src",)))
    argv = options(whole)
    assert at(argv, "--ro-bind-fd", "3", "/srv/app") < at(argv, "--bind-fd", "16", "/srv/app/src")


@pytest.mark.parametrize("found", [TIER3, TIER2])
def test_landlock_allows_the_parts_and_not_the_directory(found: Enforcement) -> None:
    spec = replace(SPEC, hidden=(), parts=PARTS, writes_directory=True)
    record: Any = plan(spec, found)
    rules, outer = record["order"]["landlock"], found is TIER3
    names = [f"/srv/app/{name}" for name in ("docs", "src", "src/a")]
    names = names if outer else [f"/proc/self/fd/{fd}" for fd in (16, 17, 18)]
    assert rules["read"][-4:-1] == names
    assert [name for name in names if name in rules["write"]] == [names[0], names[2]]
    assert not {"/srv/app", "/proc/self/fd/3"} & {*rules["read"], *rules["write"]}
    assert rules["folders"] == (["/srv/app"] if outer else [])
    assert (record["parts"], record["whole"]) == (["docs", "src", "src/a"], not outer)


def test_without_mounts_a_part_cannot_be_hidden_below_what_every_task_may_read() -> None:
    spec = replace(SPEC, hidden=(), parts=PARTS)
    for change in ({"read": ("/srv",)}, {"directory": "/usr/share/doc"}):
        plan(replace(spec, **change), TIER3)
        with pytest.raises(SandboxUnavailable, match="no part of it can be hidden"):
            plan(replace(spec, **change), TIER2)


def test_what_is_hidden_lies_over_the_directory_and_under_what_is_the_tasks_own() -> None:
    argv = options(SPEC)
    hidden = at(argv, "--tmpfs", "/srv/app/state")
    assert at(argv, "--ro-bind-fd", "3", "/srv/app") < hidden
    assert hidden < at(argv, "--bind", SPEC.home, SPEC.home)
    assert "/state" not in argv  # not shown by anything, so nothing to hide


def test_a_link_of_the_system_stays_one_and_so_does_a_programs() -> None:
    assert at(options(SPEC), "--symlink", "usr/bin", "/bin")
    linked = replace(SPEC, links=(("/x/a", "../b"), ("/home/me/tools/c", "d")))
    assert at(options(linked), "--symlink", "../b", "/x/a")
    assert "/home/me/tools/c" not in options(linked)


def test_every_namespace_is_its_own() -> None:
    wanted = {"user", "ipc", "pid", "net", "uts"}
    assert {f"--unshare-{name}" for name in wanted} < set(options(SPEC))
    assert {"--disable-userns", "--die-with-parent"} < set(options(SPEC))


def test_no_text_of_the_task_stands_in_an_argv() -> None:
    record: Any = plan(SPEC, TIER3)
    assert not [text for text in record["argv"] if "srv" in text or "home" in text]


@pytest.mark.parametrize("found", [TIER3, TIER2])
def test_the_launcher_has_to_report_what_was_planned(found: Enforcement) -> None:
    record = plan(replace(SPEC, hidden=()), found)
    assert record["enforcement"] == found.label
    assert record["expect"] == f"landlock=7 seccomp own_network={found is TIER3}"


def test_without_bubblewrap_the_directory_is_named_by_its_descriptor() -> None:
    record = plan(replace(SPEC, hidden=()), TIER2)
    order: Any = record["order"]
    assert order["landlock"]["read"][-2:] == ["/proc/self/fd/3", "/proc/self"]
    assert order["metadata"] is False
    assert "NPROC" not in order["limits"]
    assert "/tmp" not in order["landlock"]["write"]


@pytest.mark.parametrize("directory", ["/", "/proc", "/proc/1", "/dev/shm", "/sys/fs", "/state/x"])
def test_a_directory_that_would_show_too_much_is_refused(directory: str) -> None:
    with pytest.raises(SandboxUnavailable):
        require_fit(directory, ["/state"], TIER3)


def test_below_tier_3_a_directory_above_what_is_hidden_is_refused() -> None:
    require_fit("/home/me", ["/home/me/.local/state"], TIER3)
    with pytest.raises(SandboxUnavailable) as refused:
        require_fit("/home/me", ["/home/me/.local/state"], TIER2)
    assert refused.value.hint == "install it"


def test_nothing_is_planned_where_nothing_holds() -> None:
    with pytest.raises(SandboxUnavailable):
        plan(SPEC, Enforcement(why="nothing"))


def test_seatbelt_denies_first_and_hides_last() -> None:
    lines = seatbelt.profile(replace(SPEC, port=8123, directory='/srv/a"b')).splitlines()
    assert lines[1] == "(deny default)"
    assert '(subpath "/srv/a\\"b")' in lines[6]
    assert '(allow network-outbound (remote ip "localhost:8123"))' in lines
    assert lines[-2].startswith("(deny file-read* file-write*")
    assert "file-write*" not in lines[6]


def test_seatbelt_shows_the_parts_alone() -> None:
    lines = seatbelt.profile(replace(SPEC, parts=PARTS, writes_directory=True)).splitlines()
    assert '(subpath "/srv/app/docs")' in lines[6]
    assert '(subpath "/srv/app")' not in lines[6] + lines[7]
    assert '(subpath "/srv/app/src/a")' in lines[7]
    assert '(subpath "/srv/app/src")' not in lines[7]


def test_a_task_without_a_port_has_no_network_rule_on_macos() -> None:
    assert "network" not in seatbelt.profile(SPEC)


def test_a_script_needs_its_interpreter_and_the_links_to_it(tmp_path: Path) -> None:
    tool, link, python = tmp_path / "tool", tmp_path / "link", tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_bytes(b"\x7fELF")
    python.chmod(0o755)
    tool.write_text("#!/usr/bin/env python\n")
    link.symlink_to("tool")
    needs = needs_of(str(link), str(python.parent))
    assert needs == Needs(read=(str(tool), str(python)), links=((str(link), "tool"),))


def test_a_program_below_a_linked_directory_needs_each_link_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "v2" / "bin").mkdir(parents=True)
    (tmp_path / "v2" / "bin" / "agent").write_bytes(b"\x7fELF")
    (tmp_path / "now").symlink_to("v2")
    (tmp_path / "agents").symlink_to(tmp_path / "now")
    needs = needs_of(str(tmp_path / "agents" / "bin" / "agent"), os.defpath)
    assert needs.read == (str(tmp_path / "v2" / "bin" / "agent"),)
    assert needs.links == (
        (str(tmp_path / "agents"), str(tmp_path / "now")),
        (str(tmp_path / "now"), "v2"),
    )


def test_links_that_lead_to_each_other_are_followed_no_further(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert len(needs_of(str(tmp_path / "a" / "x"), os.defpath).links) == 2


def test_a_program_of_node_needs_its_packages(tmp_path: Path) -> None:
    script = tmp_path / "node_modules" / "agent" / "cli.js"
    script.parent.mkdir(parents=True)
    script.write_text("//\n")
    (tmp_path / "agent").symlink_to("node_modules/agent/cli.js")
    needs = needs_of(str(tmp_path / "agent"), os.defpath)
    assert needs.read == (str(tmp_path / "node_modules"),)


COPY = replace(
    SPEC,
    copy="/state/tasks/t/copy",
    writes_directory=True,
    objects=Objects(judged=("/srv", "app", 1, 2), below=".git/objects", place="/run/cmesh/objects"),
)


def test_a_copy_appears_under_the_directorys_name_with_what_it_borrows() -> None:
    argv = options(COPY)
    assert at(argv, "--bind-fd", "3", "/srv/app") < at(
        argv, "--ro-bind-fd", "7", "/run/cmesh/objects"
    )
    assert "/srv/app/state" not in argv  # what is hidden of the source is not in the copy
    record: Any = plan(COPY, TIER3)
    assert record["directory"] == "/state/tasks/t/copy"
    assert record["objects"]["below"] == ".git/objects"
    assert "/run/cmesh/objects" in record["order"]["landlock"]["read"]
    assert "/run/cmesh/objects" not in record["order"]["landlock"]["write"]


def test_without_mounts_what_a_copy_borrows_is_named_by_its_descriptor() -> None:
    record: Any = plan(replace(COPY, directory="/state/tasks/t/copy"), TIER2)
    rules = record["order"]["landlock"]
    assert "/proc/self/fd/7" in rules["read"]
    assert rules["write"] == [SPEC.home, SPEC.tmp, "/proc/self/fd/3"]
