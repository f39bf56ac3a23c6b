"""A change of the configuration's directory is taken up, whoever looks first."""

import asyncio
import json
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.daemon.core import Daemon
from cmesh.daemon.settings import Settings
from cmesh.runner.own_manifests import write_own
from cmesh.runner.template import manifest_text

pytestmark = pytest.mark.anyio

LIMIT_S = 20.0


async def test_a_change_that_a_thread_sees_first_is_taken_up_and_recorded(tmp_path: Path) -> None:
    settings = Settings(
        state_dir=tmp_path / "state",
        config_file=tmp_path / "config" / "config.toml",
        environment={},
        clock=SystemClock(),
    )
    daemon = await Daemon.open(settings)
    try:
        text = manifest_text("mine", "/bin/cat")
        write_own(settings.config_file.parent, "mine", text, force=False)
        await asyncio.to_thread(daemon.rules.config)
        assert "mine" in daemon.runners.names()
        async with asyncio.timeout(LIMIT_S):
            while not (rows := (await daemon.store.sql(QUERY, (), 1)).rows):
                await asyncio.sleep(0)
        assert list(json.loads(str(rows[0][0]))["manifests"]) == ["mine"]
    finally:
        await daemon.close()


QUERY = "SELECT data FROM audit WHERE kind = 'config_changed'"
