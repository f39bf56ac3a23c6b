"""What the owner is shown before a yes: all that it would start, and what comes with it."""

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cmesh.daemon.admission import Grant
from cmesh.daemon.answers import WillRunView
from cmesh.daemon.approval import will_run
from cmesh.model import Changes, Limits, Profile
from cmesh.policy.profiles import BUILT_IN
from tests.unit.daemon.conftest import OWN_NETWORK, Pair, agent_config

pytestmark = pytest.mark.anyio

PATCH = b"diff --git a/x b/x\n--- a/x\n+++ b/x\ndiff --git a/y b/y\n"


async def shown(pair: Pair, *, accept: Sequence[str] = (), **change: Any) -> WillRunView:
    doer = pair.doer
    doer.enforcement = OWN_NETWORK
    doer.configure(agent_config(doer))
    await doer.restart()
    parts = doer.worker._parts  # pyright: ignore[reportPrivateUsage] -- the parts of its daemon
    place = doer.place
    stat = place.stat()
    grant = Grant(
        runner=doer.runners().resolve("claude"),
        profile=BUILT_IN[Profile.EDIT],
        directory=str(place),
        judged=(str(place), "", stat.st_dev, stat.st_ino),
        limits=Limits(),
        on_revoke="end",
        bind_ignored=("node_modules",),
    )
    record = pair.asker.record(
        doer, runner="claude", profile=Profile.EDIT, accept=tuple(accept), **change
    )
    return will_run(parts, replace(record, peer="asker.test"), grant)


async def test_what_comes_with_a_task_and_what_runs_after_it_is_shown(pair: Pair) -> None:
    sha256 = hashlib.sha256(PATCH).hexdigest()
    changes = Changes(commit="a" * 40, sha256=sha256, bytes=len(PATCH))
    asks: dict[str, Any] = {
        "changes": changes,
        "artifacts": ("dist/*.whl",),
        "answer_schema": '{"type":"object"}',
        "accept": ("true", "a b"),
    }
    view = await shown(pair, **asks)
    assert view.changes == f"{len(PATCH)} bytes on commit {'a' * 12}; they are not here yet"
    assert (view.bind_ignored, view.artifacts) == (["node_modules"], ["dist/*.whl"])
    assert view.accept == ["true", "a b"]
    assert view.answer == "a JSON Schema, by --json-schema"
    assert view.preface == "cmesh's words for profile edit, as its system text"
    assert "--append-system-prompt {preface}" in " ".join(view.argv)
    assert shlex.join(view.argv).endswith('\'{"type":"object"}\'')
    source = pair.doer.base / "patch"
    source.write_bytes(PATCH)
    await pair.doer.store.blob(source)
    view = await shown(pair, **asks)
    assert view.changes == f"{len(PATCH)} bytes on commit {'a' * 12}, 2 files"


async def test_an_acceptance_command_that_is_not_here_is_an_obstacle(pair: Pair) -> None:
    view = await shown(pair, accept=("no-such-program",))
    assert "`no-such-program` is not on the worker" in view.obstacle


async def test_nothing_is_said_of_what_is_not_asked(pair: Pair) -> None:
    view = await shown(pair)
    assert (view.changes, view.accept, view.artifacts, view.answer) == ("", [], [], "")
