"""What a worker's machine says to a task that policy has allowed: a profile with a sandbox."""

from pathlib import Path

import pytest

from cmesh.daemon.admission import Admission, Count, admit
from cmesh.model import Profile
from cmesh.runner.standing import CHECK_RETRY_S, Verdict
from cmesh.runner.verdicts import Record, subject_of
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
    verdict: Verdict | None = None,
) -> Admission:
    """Return what a worker decides on a `query` of a peer whom a rule allows it.

    `verdict` is that of the runner's self-test; None = it has not run.
    """
    laptop, builder = (Half(name, base, StillClock()) for name in ("laptop", "builder"))
    builder.enforcement = enforcement
    builder.configure(agent_config(builder, base_url, version))
    await builder.start()
    try:
        if verdict is not None:
            _tested(builder, runner, verdict)
        spec = laptop.record(builder, runner=runner, profile=Profile.QUERY).spec
        return await admit(builder.parts, laptop.identity, spec, Count(of_peer=0, unfinished=0))
    finally:
        await builder.stop()


def _tested(half: Half, name: str, verdict: Verdict) -> None:
    runner = half.parts.runners().resolve(name)
    subject = subject_of(
        runner.manifest, runner.program, runner.version, model=runner.model, env=runner.env
    )
    assert subject is not None
    sprung = ("hook-Stop",) if verdict == "failed" else ()
    half.verdicts.keep(name, Record(subject=subject, verdict=verdict, at="", sprung=sprung))


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


@pytest.mark.parametrize(
    ("version", "verdict", "effect"),
    [
        ("2.2.0", "passed", "allow"),
        ("2.2.0", "failed", "deny"),
        ("2.2.0", "unable", "deny"),
        ("2.1.331", "unable", "allow"),
        ("2.1.331", "failed", "deny"),
    ],
)
async def test_a_self_test_on_this_machine_speaks_for_a_version_and_against_it(
    tmp_path: Path, version: str, verdict: Verdict, effect: str
) -> None:
    found = await asked(tmp_path, "claude", OWN_NETWORK, version=version, verdict=verdict)
    assert found.effect == effect
    assert "hook-Stop" not in found.reason  # what works on an agent is the owner's to know
    assert ("hook-Stop" in found.record.reason) == (verdict == "failed")


async def test_a_task_for_an_agent_that_is_being_checked_may_be_asked_for_again(
    tmp_path: Path,
) -> None:
    refused = await asked(tmp_path, "claude", OWN_NETWORK, version="2.2.0")
    assert "is being checked here" in refused.record.reason
    assert refused.retry_after_s == CHECK_RETRY_S


async def test_an_address_of_a_model_that_cannot_be_used_is_told_before_anything_starts(
    tmp_path: Path,
) -> None:
    refused = await asked(
        tmp_path, "claude", OWN_NETWORK, base_url="http://me:pw@model.example.com"
    )
    assert (refused.effect, refused.code) == ("deny", "runner_unavailable")
    assert "user or password" in refused.record.reason  # the owner is told; the peer is not
    assert "user or password" not in refused.reason
