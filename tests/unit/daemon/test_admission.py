"""What a worker's machine says to a task that policy has allowed: a profile with a sandbox."""

from pathlib import Path

import pytest

from cmesh.daemon.admission import Admission, Count, admit
from cmesh.model import Profile
from cmesh.sandbox.tier import Enforcement
from tests.fakes.half import Half, StillClock
from tests.unit.daemon.conftest import OWN_NETWORK, agent_config

pytestmark = pytest.mark.anyio

NO_BWRAP = Enforcement(landlock_abi=7, seccomp=True, why="no bubblewrap", hint="install it")


async def asked(
    base: Path,
    runner: str,
    enforcement: Enforcement,
    *,
    base_url: str = "",
    version: str = "2.1.330",
) -> Admission:
    """Return what a worker decides on a `query` of a peer whom a rule allows it."""
    laptop, builder = (Half(name, base, StillClock()) for name in ("laptop", "builder"))
    builder.enforcement = enforcement
    builder.configure(agent_config(builder, base_url, version))
    await builder.start()
    try:
        spec = laptop.record(builder, runner=runner, profile=Profile.QUERY).spec
        return await admit(builder.parts, laptop.identity, spec, Count(of_peer=0, unfinished=0))
    finally:
        await builder.stop()


async def test_an_agent_in_a_query_needs_a_network_namespace(tmp_path: Path) -> None:
    refused = await asked(tmp_path, "claude", NO_BWRAP)
    assert (refused.effect, refused.code) == ("deny", "sandbox_unavailable")
    assert "no network namespace" in refused.reason
    assert NO_BWRAP.why in refused.reason


@pytest.mark.parametrize(
    ("runner", "enforcement"),
    [("claude", OWN_NETWORK), ("command:x", OWN_NETWORK), ("command:x", NO_BWRAP)],
)
async def test_what_can_be_held_is_allowed(
    tmp_path: Path, runner: str, enforcement: Enforcement
) -> None:
    found = await asked(tmp_path, runner, enforcement)
    assert (found.effect, found.reason) == ("allow", "")


@pytest.mark.parametrize("version", ["2.1.329", "2.2.0", "next"])
async def test_an_agent_of_a_version_that_was_not_tried_is_refused_for_a_query(
    tmp_path: Path, version: str
) -> None:
    refused = await asked(tmp_path, "claude", OWN_NETWORK, version=version)
    assert (refused.effect, refused.code) == ("deny", "runner_unavailable")
    assert f"version `{version} (Claude Code)`" in refused.record.reason
    assert "2.1" not in refused.reason  # what is installed is the owner's to know


async def test_a_model_that_no_task_can_reach_is_told_before_anything_starts(
    tmp_path: Path,
) -> None:
    refused = await asked(tmp_path, "claude", OWN_NETWORK, base_url="http://model.example.com")
    assert (refused.effect, refused.code) == ("deny", "runner_unavailable")
    assert "exact address" in refused.record.reason  # the owner is told; the peer is not
    assert "exact address" not in refused.reason
