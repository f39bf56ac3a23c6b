"""What peers have told of their machines: dated, kept over a restart, forgotten with the right."""

import stat
from datetime import timedelta
from pathlib import Path

import pytest

from cmesh.daemon.machines import FILE_BYTES, PEERS_MOST, Machines
from cmesh.model import NodeId
from cmesh.protocol.link_messages import May
from cmesh.protocol.machine import Machine
from tests.fakes.half import StillClock

pytestmark = pytest.mark.anyio
PEER = NodeId("nBOX")


def may(machine: Machine | None) -> May:
    return May(operations=("task",), machine=machine)


async def test_a_word_is_dated_by_this_nodes_clock_and_outlives_the_daemon(tmp_path: Path) -> None:
    clock = StillClock()
    machines = Machines(tmp_path / "machines.json", clock)
    machines.take(PEER, may(Machine(os="linux", age_s=40)))
    await machines.close()
    assert stat.S_IMODE((tmp_path / "machines.json").stat().st_mode) == 0o600
    clock.passed_s += 100
    later = Machines(tmp_path / "machines.json", clock)
    heard = later.of(PEER)
    assert heard is not None
    assert heard.machine == Machine(os="linux")
    assert clock.now() - heard.at == timedelta(seconds=140)


async def test_silence_keeps_the_last_word_and_no_right_forgets_it(tmp_path: Path) -> None:
    machines = Machines(tmp_path / "machines.json", StillClock())
    machines.take(PEER, may(Machine(os="linux")))
    machines.take(PEER, may(None))
    assert machines.of(PEER) is not None, "it starts again, and has not looked at itself yet"
    machines.take(PEER, may(Machine()))
    heard = machines.of(PEER)
    assert heard is not None
    assert not heard.machine.os, "its owner tells nothing any more"
    machines.take(PEER, May())
    assert machines.of(PEER) is None
    await machines.close()
    assert Machines(tmp_path / "machines.json", StillClock()).of(PEER) is None


async def test_a_file_that_is_none_of_ours_is_no_word(tmp_path: Path) -> None:
    place = tmp_path / "machines.json"
    for text in ("", "[]", '{"nBOX": {"machine": {"os": "li nux"}, "at": "now"}}'):
        place.write_text(text, "utf-8")
        assert Machines(place, StillClock()).of(PEER) is None


async def test_a_file_that_is_not_used_is_kept_and_told(tmp_path: Path) -> None:
    place, aside = tmp_path / "machines.json", tmp_path / "machines.unread"
    for text, why in (("x" * (FILE_BYTES + 1), "more than"), ("[]", "cannot be read")):
        place.write_text(text, "utf-8")
        machines = Machines(place, StillClock())
        assert why in machines.trouble
        assert str(aside) in machines.trouble
        machines.take(PEER, may(Machine(os="linux")))
        await machines.close()
        assert aside.read_text("utf-8") == text
        assert Machines(place, StillClock()).trouble == ""


async def test_what_is_written_can_be_read_and_the_newest_words_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cmesh.daemon.machines.FILE_BYTES", 3_000)
    clock = StillClock()
    machines = Machines(tmp_path / "machines.json", clock)
    for number in range(100):
        clock.passed_s += 1
        machines.take(NodeId(f"n{number}"), may(Machine(os="linux")))
    await machines.close()
    assert (tmp_path / "machines.json").stat().st_size <= 3_000
    later = Machines(tmp_path / "machines.json", clock)
    assert later.trouble == ""
    assert later.of(NodeId("n99")) is not None
    assert later.of(NodeId("n0")) is None
    assert "machines_left_out" in caplog.text


async def test_no_more_peers_are_kept_than_there_is_room_for(tmp_path: Path) -> None:
    clock = StillClock()
    machines = Machines(tmp_path / "machines.json", clock)
    for number in range(PEERS_MOST + 1):
        clock.passed_s += 1
        machines.take(NodeId(f"n{number}"), may(Machine(os="linux")))
    assert machines.of(NodeId("n0")) is None
    assert machines.of(NodeId("n1")) is not None
