"""What the node wrote down about its control server, as people are told it."""

from pathlib import Path

import pytest

from cmesh.node.nodelog import TAIL_BYTES, last_control_error, size

REFUSED = (
    'control: [v1] TryLogin: fetch control key: Get "http://127.0.0.1:9/key?v=142": '
    "dial tcp 127.0.0.1:9: connect: connection refused\n"
)
SERVED = "control: RegisterReq: got response; nodeKeyExpired=false\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "node.log"


def test_the_last_failure_is_told_without_the_log_s_own_words(log: Path):
    log.write_text("control: [v1] PollNetMap: unexpected EOF\n" + REFUSED, "utf-8")
    said = last_control_error(log)
    assert said.startswith("fetch control key: Get")
    assert said.endswith("connection refused")


@pytest.mark.parametrize(
    "text",
    [
        "",
        REFUSED + SERVED,
        REFUSED + "control: [v1] mapRoutine: netmap received: loggedIn=true\n",
        "control: [v1] PollNetMap: stream=true ep=[]\n",
    ],
)
def test_a_server_that_answered_since_is_no_trouble(log: Path, text: str):
    log.write_text(text, "utf-8")
    assert last_control_error(log) == ""


def test_an_earlier_life_s_failure_does_not_count(log: Path):
    log.write_text(REFUSED, "utf-8")
    assert last_control_error(log, size(log)) == ""


def test_a_long_log_is_read_from_its_tail(log: Path):
    log.write_bytes(REFUSED.encode() + b"\xff" * TAIL_BYTES)
    assert last_control_error(log) == ""


def test_no_log_is_no_trouble(log: Path):
    assert (last_control_error(log), size(log)) == ("", 0)
