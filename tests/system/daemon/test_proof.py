"""Two daemons that vouch for each other's audit, and one whose owner cuts his off."""

import json
import os
from typing import Any

import pytest

from tests.security.two_logs import cut
from tests.system.daemon.machine import Machine, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

RECEIPT = "SELECT count(*) FROM receipts WHERE kind = 'head' AND task_id IS NULL"
ROWS = "SELECT max(seq) FROM audit"


def verify(machine: Machine, *against: str) -> tuple[int, dict[str, Any]]:
    arguments = [word for name in against for word in ("--against", name)]
    done = machine.cli("audit", "verify", "--json", *arguments)
    return done.returncode, json.loads(done.stdout)


async def test_what_an_owner_cuts_off_the_other_daemon_still_vouches_for(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, builder = pair
    place = builder.base / "app"
    before = int((await builder.sql(RECEIPT))[0][0])
    [[keep]] = await laptop.sql(ROWS)
    asked = await laptop.delegate("builder", "command:cat", place, prompt="hello")
    await laptop.ended(asked.task_id)

    async def receipt() -> bool | None:
        return int((await builder.sql(RECEIPT))[0][0]) > before or None

    await eventually(receipt)  # the caller's head, which came with its receipt of the end

    exports = laptop.base / "exports"
    exported = laptop.cli("audit", "export", str(exports), "--json")
    assert json.loads(exported.stdout)["last_seq"] >= keep, exported.stderr
    begun = "SELECT data->>'where', data->>'$.by.program' FROM audit WHERE kind = 'export_begun'"
    [[where, program]] = await laptop.sql(begun)  # by the daemon, which knows who asked
    assert (where, bool(program)) == (str(exports), True)
    opened = laptop.cli("audit", "open", str(exports), "--verify", "--json")
    assert json.loads(opened.stdout)["ok"], opened.stderr
    for machine, target, other in ((laptop, "builder", builder), (builder, "all", laptop)):
        status, told = verify(machine, target)
        [one] = told["against"]
        assert (status, told["ok"], told["live"], one["verdict"]) == (0, True, True, "fits"), told
        assert (one["peer"], one["via"]) == (other.name, "link")
        assert one["ends"] >= 1
        assert one["peer_heads"] >= 1
        assert one["covered_through"] > int(keep) or machine is builder
    confirmed = {key["name"].partition(".")[0]: key["confirmed"] for key in told["keys"]}
    assert confirmed["laptop"] == "by_person"

    # The whole end goes, head file included; then its daemon runs on as if nothing had been.
    await laptop.stop()
    cut(laptop.state / "store", int(keep))
    owner = laptop.state.stat()
    for path in (laptop.state / "store").iterdir():
        os.chown(path, owner.st_uid, owner.st_gid)
    status, told = verify(laptop)
    assert (status, told["ok"], told["rows"]) == (0, True, int(keep))
    status, told = verify(laptop, "builder")
    assert (status, told["against"][0]["code"]) == (77, "daemon_not_running")
    file = laptop.base / "laptop.receipts"
    file.write_text(builder.cli("audit", "receipts", "laptop").stdout, "utf-8")
    file.chmod(0o644)
    status, told = verify(laptop, str(file))
    first = told["against"][0]["differences"][0]
    assert (status, first["seq"], first["proved"]) == (76, int(keep) + 1, True)

    await laptop.up()

    async def asked_anew() -> tuple[int, dict[str, Any]] | None:
        # The first link shows the laptop that it lost rows: it ends, and the next one stands.
        status, told = verify(laptop, "builder")
        return (status, told) if told["against"][0]["verdict"] != "not_asked" else None

    status, told = await eventually(asked_anew)
    own = [one for one in told["against"][0]["differences"] if one["whose"] == "own"]
    assert (status, told["finding"]) == (76, None), told
    assert asked.task_id in {one["task_id"] for one in own}
    assert int(keep) < min(one["seq"] for one in own if one["seq"])

    await builder.stop()
    status, told = verify(laptop, "builder")
    assert (status, told["ok"], told["against"][0]["verdict"]) == (77, False, "not_asked")
    assert told["against"][0]["code"] == "peer_unreachable"
