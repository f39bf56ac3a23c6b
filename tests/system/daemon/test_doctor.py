"""`cmesh doctor` on real machines: linked, with a broken configuration, and without a daemon."""

import json
import os
import subprocess
import tarfile
from typing import Any

import pytest

from cmesh.daemon.arguments import NoArguments
from tests.system.daemon.machine import Machine, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system]

Found = dict[tuple[str, str], dict[str, Any]]


def doctor(machine: Machine, *options: str) -> tuple[int, Found]:
    done = machine.cli("doctor", "--json", *options)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    return done.returncode, {(one["group"], one["check"]): one for one in report["findings"]}


async def linked(laptop: Machine) -> None:
    async def is_linked() -> bool | None:
        [peer] = (await laptop.call("list_peers", NoArguments()))["peers"]
        return peer["link"] == "connected" or None

    await eventually(is_linked)


async def test_two_linked_machines_are_well_but_for_what_their_rules_grant(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, builder = pair
    await linked(laptop)
    _status, found = doctor(laptop)
    for check in (
        ("installation", "config"), ("installation", "modes"), ("installation", "daemon"),
        ("node", "phase"), ("node", "control"), ("node", "clock"), ("store", "health"),
        ("store", "texts"),
    ):  # fmt: skip
        assert found[check]["level"] == "ok", found[check]
    peer = found["peers", "builder"]
    assert peer["level"] == "ok", peer
    assert "direct in" in peer["what"] or "by the relay" in peer["what"]
    assert "I may ask for full with command:" in peer["what"]
    status, found = doctor(builder)
    assert status == 90
    assert found["policy", "full"]["level"] == "warning"
    assert not [one for one in found.values() if one["level"] == "problem"]


async def test_a_broken_configuration_is_named_and_the_rest_is_looked_at(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, _builder = pair
    before = laptop.config_file.read_text("utf-8")
    laptop.config_file.write_text(f"{before}\n[[inbound.allow]]\nname = 3\n", "utf-8")
    try:
        status, found = doctor(laptop)
    finally:
        laptop.config_file.write_text(before, "utf-8")
    assert status == 91
    assert "`inbound.allow[0].name`" in found["installation", "config"]["what"]
    assert found["node", "phase"]["level"] == "ok"
    assert found["peers", "builder"]["level"] == "ok"


async def test_a_bundle_is_written_once_and_names_nobody(pair: tuple[Machine, Machine]) -> None:
    laptop, builder = pair
    file = laptop.base / "report.tar.gz"
    doctor(laptop, "--bundle", str(file), "--yes")
    with tarfile.open(file) as archive:
        texts = [archive.extractfile(one) for one in archive.getmembers()]
        text = b"".join(one.read() for one in texts if one is not None).decode()
    node_id = (await builder.status()).node_id
    for private in ("laptop", "builder", node_id, "me@example.com", str(laptop.base)):
        assert private not in text
    again = laptop.cli("doctor", "--json", "--bundle", str(file), "--yes")
    assert json.loads(again.stdout)["error"]["code"] == "bad_config"


async def test_without_a_daemon_it_says_what_is_left_behind_and_mends_it(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, _builder = pair
    laptop.kill()
    key = laptop.state / "key"
    key.chmod(0o644)
    settings = laptop.base / ".claude.json"
    entry = {"type": "stdio", "command": "/gone/bin/cmesh", "args": ["mcp"]}
    settings.write_text(json.dumps({"mcpServers": {"cmesh": entry}, "other": 1}), "utf-8")
    os.chown(settings, laptop.base.stat().st_uid, laptop.base.stat().st_gid)
    status, found = doctor(laptop)
    assert status == 91
    assert found["installation", "daemon"]["next"] == "run `cmesh up`"
    assert found["installation", "modes"]["fix"] == "mode"
    assert found["node", "phase"]["level"] == "skipped"
    assert found["agents", "claude"]["level"] == "warning"
    assert found["node", "control"]["level"] == "ok"
    unasked = laptop.cli("doctor", "--fix")
    assert (unasked.returncode, "--yes" in unasked.stderr) == (2, True)
    assert doctor(laptop, "--fix", "--yes")[0] == 90
    assert key.stat().st_mode & 0o777 == 0o600
    assert not (laptop.state / "control.sock").exists()
    status, found = doctor(laptop)
    assert ("installation", "socket") not in found
    assert found["agents", "claude"]["level"] == "ok"
    assert json.loads(settings.read_text("utf-8"))["other"] == 1
    await laptop.up()


async def test_a_frozen_daemon_is_told_from_none(pair: tuple[Machine, Machine]) -> None:
    _laptop, builder = pair
    subprocess.run(["kill", "-STOP", str(builder.pid)], check=True)
    try:
        status, found = doctor(builder)
    finally:
        subprocess.run(["kill", "-CONT", str(builder.pid)], check=True)
    assert status == 91
    assert f"process {builder.pid}" in found["installation", "daemon"]["what"]
