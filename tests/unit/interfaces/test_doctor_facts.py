"""What the doctor is told by a daemon, and by none: views become facts, and nothing is lost."""

import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest

from cmesh.clock import SystemClock
from cmesh.daemon.answers import PeerView
from cmesh.daemon.diagnosis_answers import PathView
from cmesh.daemon.runner_answers import RunnerView, SelfTestView
from cmesh.interfaces import doctor_facts
from cmesh.interfaces.doctor_facts import find_out, peer_fact, runner_fact
from cmesh.paths import config_file, state_dir
from cmesh.setup.doctor.facts import PeerFact, RunnerFact
from tests.fakes.daemon import DaemonThread

THEN = datetime(2027, 1, 2, tzinfo=UTC)


def _nothing(names: Mapping[str, str]) -> dict[str, str]:
    return dict.fromkeys(names, "")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep to a short place of the test's own, without shells and agents."""
    with tempfile.TemporaryDirectory(prefix="cm-") as directory:
        for name in ("STATE", "CONFIG"):
            monkeypatch.setenv(f"CMESH_{name}_DIR", f"{directory}/{name.lower()}")
        Path(directory, "config").mkdir(mode=0o700)
        monkeypatch.setattr(doctor_facts, "survey", Mock(return_value=()))
        monkeypatch.setattr(doctor_facts, "shell_programs", Mock(side_effect=_nothing))
        yield


def test_a_daemon_tells_of_itself_its_runners_and_its_peers(alone: None) -> None:
    with DaemonThread():
        facts = find_out(state_dir(), config_file(), SystemClock(), live=False)
    assert facts.no_daemon is None
    assert facts.daemon is not None
    assert (facts.daemon.phase, facts.daemon.search_path) == ("up", "/usr/bin")
    assert facts.runners is not None
    claude = next(one for one in facts.runners if one.name == "claude")
    assert (claude.wanted, claude.available, claude.shell_program) == (True, True, "")
    assert claude.live is None
    assert facts.peers is not None
    worker = next(one for one in facts.peers if one.name == "worker")
    assert (worker.direct, worker.ping_ms, worker.may_ask) == (True, 1.5, ("query", "full"))


def test_asked_live_only_what_is_used_here_is_asked(alone: None) -> None:
    with DaemonThread():
        facts = find_out(state_dir(), config_file(), SystemClock(), live=True)
    assert facts.runners is not None
    asked = {one.name: one.live for one in facts.runners if one.live is not None}
    assert list(asked) == ["claude"]
    assert asked["claude"].ok


def test_without_a_daemon_it_says_why(alone: None) -> None:
    facts = find_out(state_dir(), config_file(), SystemClock(), live=False)
    assert (facts.daemon, facts.runners, facts.peers) == (None, None, None)
    assert facts.no_daemon is not None
    assert facts.no_daemon.code == "daemon_not_running"


def test_a_file_that_is_no_configuration_is_told_with_its_line(alone: None) -> None:
    config_file().write_text("[node]\nhostname = 3\n", "utf-8")
    config_file().chmod(0o600)
    facts = find_out(state_dir(), config_file(), SystemClock(), live=False)
    assert facts.config is None
    assert facts.config_error is not None
    assert "line 2" in facts.config_error.what


def test_views_become_facts() -> None:
    view = RunnerView(name="claude", expires_at=THEN, self_test=SelfTestView(state="failed"))
    assert runner_fact(view) == RunnerFact(name="claude", login_until=THEN, test="failed")
    peer = PeerView(name="box", node_id="n1")
    path = PathView(node_id="n1", problem="no answer")
    assert peer_fact(peer, path) == PeerFact(name="box", node_id="n1", path_problem="no answer")
    assert peer_fact(peer, None).direct is None
