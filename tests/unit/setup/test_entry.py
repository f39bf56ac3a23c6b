"""What stands under cmesh's name in an agent's settings: ours, an older one, somebody else's."""

from typing import Any

import pytest

from cmesh.setup.clients import CLIENTS, Client
from cmesh.setup.entry import is_ours, needed, standing
from tests.unit.setup.machine import machine

WANTED: dict[str, Any] = {"command": "/new/cmesh", "args": ["mcp"], "timeout": 120_000}


@pytest.mark.parametrize(
    "entry",
    [
        {"command": "/x/cmesh", "args": ["mcp"]},
        {"command": "cmesh", "args": ["mcp"]},
        {"command": ["/x/cmesh", "mcp"]},
        {"command": "/usr/bin/python3", "args": ["-I", "-m", "cmesh", "mcp"]},
        {"command": "uvx", "args": ["cmesh", "mcp"]},
        {"command": "C:\\Users\\me\\cmesh.exe", "args": ["mcp"]},
    ],
)
def test_what_starts_the_relay_is_ours(entry: object) -> None:
    assert is_ours(entry)
    assert standing(entry, WANTED) == "outdated"


@pytest.mark.parametrize(
    "entry",
    [
        {"command": "npx", "args": ["cmesh-other", "mcp"]},
        {"command": "cmesh", "args": ["demo"]},
        {"command": "mcp"},
        {"command": 5, "args": ["cmesh", "mcp"]},
        {"url": "https://example.com/mcp"},
        "cmesh mcp",
        [],
        {},
    ],
)
def test_all_else_is_somebody_elses(entry: object) -> None:
    assert standing(entry, WANTED) == "foreign"


def test_no_entry_is_absent_and_the_wanted_one_current() -> None:
    assert standing(None, WANTED) == "absent"
    assert standing(WANTED, WANTED) == "current"


def test_what_its_owner_set_stays() -> None:
    own = WANTED | {"timeout": 9, "trust": True, "env": {"HTTP_PROXY": "p"}}
    assert standing(own, WANTED) == "current"
    assert needed(own | {"command": "/old/cmesh"}, WANTED) == {"command": "/new/cmesh"}


def test_a_variable_is_set_beside_those_of_the_owner() -> None:
    wanted = WANTED | {"env": {"CMESH_STATE_DIR": "/s"}}
    own = WANTED | {"env": {"HTTP_PROXY": "p"}}
    assert needed(own, wanted) == {"env": {"HTTP_PROXY": "p", "CMESH_STATE_DIR": "/s"}}


@pytest.mark.parametrize("name", ["env", "environment"])
def test_a_variable_that_leads_to_another_daemon_goes(name: str) -> None:
    own = WANTED | {name: {"HTTP_PROXY": "p", "CMESH_STATE_DIR": "/demo"}}
    assert needed(own, WANTED) == {name: {"HTTP_PROXY": "p"}}


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_each_agents_own_form_is_seen_as_current(client: Client, tmp_path: Any) -> None:
    here = machine(tmp_path, env={"CMESH_STATE_DIR": "/s"})
    entry = client.entry(here)
    assert is_ours(entry)
    assert standing(entry, entry) == "current"
    assert "/s" in str(entry)
