"""The examples of grants, read by the parser and decided by the policy that a daemon uses."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cmesh.config import load_config
from cmesh.model import Identity, NodeId, Operation
from cmesh.policy.decide import decide_inbound
from cmesh.policy.match import grant_values
from cmesh.policy.rules import CAPABILITY_PREFIX
from tests.contract.grants import EXAMPLES, capabilities, read_policy
from tests.unit.policy.support import asks, who

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.hujson"))
BOB = who(user="bob@example.com")
CAROL = who(user="carol@example.com")
MALLORY = who(user="mallory@example.com")
CI = who(user="", tags=("tag:ci",))

CELLS: tuple[tuple[str, Identity, str, str, str, bool], ...] = (
    ("developers", BOB, "task", "command:check", "/srv/myapp/src", True),
    ("developers", BOB, "task", "command:units", "/srv/other", True),
    ("developers", BOB, "follow_up", "command:check", "/srv/myapp", True),
    ("developers", BOB, "task", "command:check", "/etc", False),
    ("developers", BOB, "task", "claude", "/srv/myapp", False),
    ("developers", MALLORY, "task", "command:check", "/srv/myapp", False),
    ("developers", replace(BOB, shared=True), "task", "command:check", "/srv/myapp", False),
    ("developers", replace(BOB, router=True), "task", "command:check", "/srv/myapp", False),
    ("developers", replace(BOB, expired=True), "task", "command:check", "/srv/myapp", False),
    ("pipeline", CI, "task", "command:check", "/srv/myapp", True),
    ("pipeline", CI, "task", "command:check", "/srv/other", False),
    ("pipeline", CI, "task", "command:units", "/srv/myapp", False),
    ("pipeline", CI, "follow_up", "command:check", "/srv/myapp", False),
    ("pipeline", CAROL, "task", "command:units", "/srv/other", True),
    ("pipeline", CAROL, "follow_up", "command:check", "/srv/myapp", True),
    ("pipeline", CAROL, "task", "command:units", "/srv", False),
    ("pipeline", MALLORY, "task", "command:check", "/srv/myapp", False),
    ("pipeline", replace(CAROL, node_id=NodeId("nLOBBY")), "task", "command:check", "/srv/myapp", False),
)  # fmt: skip


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell[0]}-{cell[2]}-{cell[3]}-{cell[5]}")
def test_each_example_allows_and_denies_as_written(
    tmp_path: Path, cell: tuple[str, Identity, str, str, str, bool]
) -> None:
    name, caller, operation, runner, directory, allowed = cell
    path = tmp_path / "config.toml"
    shutil.copy(EXAMPLES / f"{name}.toml", path)
    path.chmod(0o600)
    known = capabilities(read_policy(EXAMPLES / f"{name}.hujson"), caller)
    request = asks(
        identity=replace(caller, capabilities=known),
        operation=Operation(operation),
        runner=runner,
        directory=directory,
    )
    decided = decide_inbound(request, load_config(path).policy)
    assert (decided.effect == "allow") == allowed, decided


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_an_example_is_one_that_cmesh_can_read(name: str) -> None:
    policy = read_policy(EXAMPLES / f"{name}.hujson")
    assert (EXAMPLES / f"{name}.toml").is_file()
    for grant in policy["grants"]:
        assert grant["ip"] == ["tcp:7333"]
        for capability, values in grant["app"].items():
            caller = who(capabilities={capability: tuple(values)})
            read = grant_values(caller, capability.removeprefix(CAPABILITY_PREFIX))
            assert len(read) == len(values) > 0


def test_both_examples_have_cells() -> None:
    assert sorted({cell[0] for cell in CELLS}) == NAMES
    for name in NAMES:
        assert {cell[5] for cell in CELLS if cell[0] == name} == {True, False}
