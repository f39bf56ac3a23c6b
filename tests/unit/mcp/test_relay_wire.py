"""JSON lines without the json package mean the same as with it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmesh.interfaces.mcp.relay_wire import Lines, dump, literal, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_what_is_dumped_reads_back_the_same(value: object) -> None:
    assert json.loads(dump(value)) == value
    assert "\n" not in dump(value)


@given(VALUES)
def test_what_json_writes_is_parsed_the_same(value: object) -> None:
    assert parse(json.dumps(value, indent=1).encode()) == value


@pytest.mark.parametrize(
    "line", [b"", b"{", b"{bad", b"nul", b'{"a":1} x', b"\xff", b'{"a":"\n"}', b"[1,]"]
)
def test_a_line_that_is_no_json_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(line)


def test_nesting_without_end_is_refused_not_fatal() -> None:
    with pytest.raises(RecursionError):
        parse(b"[" * 200_000)


@given(st.lists(st.binary(min_size=1).filter(lambda b: b"\n" not in b and b.strip())), st.data())
def test_lines_come_out_whole_however_the_stream_is_cut(
    lines: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter, found, at = Lines(), list[bytes](), 0
    while at < len(stream):
        step = data.draw(st.integers(1, 7))
        found += splitter.feed(stream[at : at + step])
        at += step
    assert found == lines
    assert not splitter.rest


def test_a_literal_is_readable_in_any_language() -> None:
    assert literal("grüße") == '"grüße"'
    assert literal(True) == "True"
    assert literal(["a", 1]) == '["a",1]'
