"""The head of a CONNECT request: one form is read, everything else is refused."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmesh.runner.egress.request import HEAD_BYTES, RequestError, is_name, parse_head
from tests.fakes.egress import ALLOWED, TOKEN, connect_head


def test_host_port_and_token_are_read() -> None:
    request = parse_head(connect_head("API.Example.com"))
    assert (request.host, request.port, request.token) == (ALLOWED, 443, TOKEN)
    assert TOKEN not in repr(request)


def test_other_headers_are_let_be() -> None:
    head = b"CONNECT a.example.com:443 HTTP/1.0\r\nUser-Agent: x\r\nX-Empty:\r\n\r\n"
    assert parse_head(head).token is None


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\r\n\r\n",
        b"CONNECT a.example.com:443 HTTP/1.1\r\n",
        b"CONNECT a.example.com:443\r\n\r\n",
        b"CONNECT  a.example.com:443 HTTP/1.1\r\n\r\n",
        b"connect a.example.com:443 HTTP/1.1\r\n\r\n",
        b"CONNECT a.example.com:443 HTTP/2.0\r\n\r\n",
        b"CONNECT a.example.com HTTP/1.1\r\n\r\n",
        b"CONNECT a.example.com: HTTP/1.1\r\n\r\n",
        b"CONNECT a.example.com:0 HTTP/1.1\r\n\r\n",
        b"CONNECT a.example.com:443443 HTTP/1.1\r\n\r\n",
        b"CONNECT a.example.com:+443 HTTP/1.1\r\n\r\n",
        b"CONNECT user@a.example.com:443 HTTP/1.1\r\n\r\n",
        b"CONNECT a.example.com.:443 HTTP/1.1\r\n\r\n",
        b"CONNECT a..example.com:443 HTTP/1.1\r\n\r\n",
        b"CONNECT localhost:443 HTTP/1.1\r\n\r\n",
        b"CONNECT 0x7f.1:443 HTTP/1.1\r\n\r\n",
        b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n",
        b"CONNECT a.example.com:443 HTTP/1.1\r\nno colon\r\n\r\n",
        b"CONNECT a.example.com:443 HTTP/1.1\r\n folded: x\r\n\r\n",
        b"CONNECT a.example.com:443 HTTP/1.1\r\nA : x\r\n\r\n",
        b"CONNECT a.example.com:443 HTTP/1.1\r\nA: \x00\r\n\r\n",
        b"CONNECT a.example.com:443 HTTP/1.1\nA: x\r\n\r\n",
        b"CONNECT a.example.com:443 HTTP/1.1\r\nA: \xc3\xa4\r\n\r\n",
        b"CONNECT a.example.com:443 HTTP/1.1\r\nA: " + b"x" * HEAD_BYTES + b"\r\n\r\n",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(head: bytes) -> None:
    with pytest.raises(RequestError):
        parse_head(head)


@pytest.mark.parametrize(
    "lines",
    [
        ["Bearer x"],
        ["Basic"],
        ["Basic !!!"],
        [f"Basic {base64.b64encode(b'no colon').decode()}"],
        [f"Basic {base64.b64encode(b'a:' + bytes([200])).decode()}"],
        ["Basic eDp5", "Basic eDp5"],
    ],
)
def test_a_credential_of_another_form_is_refused(lines: list[str]) -> None:
    fields = "".join(f"proxy-authorization: {line}\r\n" for line in lines)
    with pytest.raises(RequestError):
        parse_head(f"CONNECT a.example.com:443 HTTP/1.1\r\n{fields}\r\n".encode())


def test_a_password_may_hold_colons() -> None:
    assert parse_head(connect_head(token="a:b:c")).token == "a:b:c"


@pytest.mark.parametrize("text", ["a.b", "api.anthropic.com", "x" * 63 + ".com", "a-b.c1"])
def test_a_name_has_labels(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize(
    "text", ["", "a", "a.1", "1.2.3.4", "-a.b", "a-.b", "x" * 64 + ".com", "a_b.c", "a.b\n"]
)
def test_what_is_no_name_is_none(text: str) -> None:
    assert not is_name(text)
    assert not is_name("a." * 127 + "com")


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    for head in (data, b"CONNECT " + data + b"\r\n\r\n", connect_head()[:-2] + data + b"\r\n\r\n"):
        try:
            request = parse_head(head)
        except RequestError:
            continue
        assert is_name(request.host)
        assert 1 <= request.port <= 99999
