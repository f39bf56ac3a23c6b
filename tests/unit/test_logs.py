"""A line of the log: one event, whatever is in its data, in both forms."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from cmesh.interfaces.daemon_log import failure_in
from cmesh.logs import LineFormatter, configure

EVIL = 'a="b"\nc \x1b[31m\u202e'


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:], root.level = before[0], before[1]


def written(stream: io.StringIO, form: LineFormatter) -> str:
    logger = logging.getLogger("cmesh.test")
    logger.info("seen", extra={"data": {"peer": EVIL, "n": 3, "event": "other"}})
    assert form is not None
    return stream.getvalue()


def test_text_is_one_line_that_nothing_in_it_can_end(stream: io.StringIO) -> None:
    line = written(stream, configure(stream))
    assert line.count("\n") == 1
    assert line.isprintable() or line[:-1].isprintable()
    assert " info cmesh.test seen peer=" in line
    assert " n=3" in line


def test_json_is_one_object_and_data_takes_no_place_of_its_head(stream: io.StringIO) -> None:
    formatter = configure(stream)
    formatter.form = "json"
    said = json.loads(written(stream, formatter))
    assert (said["event"], said["level"], said["peer"], said["n"]) == ("seen", "info", EVIL, 3)
    assert stream.getvalue().isascii()


def test_a_failure_has_its_traceback_and_is_what_a_starter_reads(stream: io.StringIO) -> None:
    formatter = configure(stream)
    formatter.form = "json"
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("cmesh.test").exception("it_failed")
    logging.getLogger("cmesh.test").info("after")
    first = json.loads(stream.getvalue().splitlines()[0])
    assert "ValueError: broken" in first["traceback"]
    assert "it_failed" in failure_in(stream.getvalue(), 1).message
