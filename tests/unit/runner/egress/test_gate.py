"""What of a task's request to its model goes on: everything else is refused or left out."""

from dataclasses import replace

import pytest

from cmesh.runner.egress.gate import Gate, Header, answer_headers, judge
from cmesh.runner.egress.trail import Refused

PORT = 8119
HOST = (b"host", b"127.0.0.1:8119")
SHOWN = (b"x-api-key", b"dummy")
GATE = Gate(
    host="api.example.com",
    port=443,
    secure=True,
    own=False,
    path="/base",
    header="x-api-key",
    scheme="",
    routes=("POST /v1/messages", "POST /v1/models/*:ask"),
    query=("beta",),
    headers=("anthropic-*", "x-app", "x-*"),
    token="dummy",
    key_file="/none",
)


def asked(*headers: Header, method: bytes = b"POST", target: bytes = b"/base/v1/messages") -> str:
    """Return the code of a refusal; empty = it goes on."""
    try:
        judge(GATE, method, target, headers, port=PORT)
    except Refused as refused:
        told = refused
    else:
        return ""
    assert "dummy" not in told.reason + told.detail
    return told.code


@pytest.mark.parametrize(
    "target",
    [
        b"/base/v1/messages",
        b"/base/v1/messages?beta=true",
        b"/base/v1/models/gemini-3.8_x:ask",
    ],
)
def test_what_the_manifest_names_goes_on(target: bytes) -> None:
    assert asked(HOST, SHOWN, target=target) == ""


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/messages",
        b"/base/v1/messages/",
        b"/base/v1/messages/batches",
        b"/base/v1/files",
        b"/base//v1/messages",
        b"//base/v1/messages",
        b"/base/../base/v1/messages",
        b"/base/v1/models/..:ask",
        b"/base/v1/models/a/b:ask",
        b"/base/v1/models/:ask",
        b"/base/v1/models/x:delete",
        b"/base/v1/messages?key=other",
        b"/base/v1/messages?beta=1&beta=2",
        b"/base/v1/messages?beta=1&",
        b"/base/v1/messages?",
    ],
)
def test_another_path_or_parameter_does_not(target: bytes) -> None:
    refused = target != b"/base/v1/messages?"
    assert asked(HOST, SHOWN, target=target) == ("route_refused" if refused else "")


@pytest.mark.parametrize(
    "target",
    [
        b"http://evil.example.com/base/v1/messages",
        b"/base/v1/messages#x",
        b"/base/v1/%2e%2e/messages",
        b"/base/v1\\messages",
        b"/base/v1/messages;x=1",
        b"/base/v1/messages?a=%0d%0a",
        b"*",
        b"evil.example.com:443",
        b"/base/v1/" + b"a" * 2000,
        "/base/v1/m\u00e9ssages".encode(),
    ],
)
def test_a_target_that_could_be_read_in_two_ways_is_no_request(target: bytes) -> None:
    assert asked(HOST, SHOWN, target=target) == "bad_request"


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE", b"CONNECT", b"post", b"OPTIONS"])
def test_another_method_does_not_go_on(method: bytes) -> None:
    assert asked(HOST, SHOWN, method=method) == "route_refused"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ((HOST,), "no_token"),
        ((HOST, (b"x-api-key", b"dummy2")), "wrong_token"),
        ((HOST, (b"x-api-key", b"")), "wrong_token"),
        ((HOST, SHOWN, SHOWN), "wrong_token"),
        ((HOST, (b"authorization", b"Bearer dummy")), "no_token"),
        (((b"host", b"api.example.com"), SHOWN), "host_refused"),
        (((b"host", b"127.0.0.1"), SHOWN), "host_refused"),
        ((SHOWN,), "host_refused"),
        ((HOST, HOST, SHOWN), "bad_request"),
        (
            (HOST, SHOWN, (b"content-length", b"5"), (b"transfer-encoding", b"chunked")),
            "bad_request",
        ),
        ((HOST, SHOWN, (b"upgrade", b"websocket")), "upgrade_refused"),
    ],
)
def test_a_request_that_does_not_show_whose_it_is_or_has_two_readings_is_refused(
    headers: tuple[Header, ...], code: str
) -> None:
    assert asked(*headers) == code


def test_only_named_headers_go_on_and_none_that_is_a_credential() -> None:
    kept = ((b"content-type", b"application/json"), (b"anthropic-beta", b"x"), (b"x-app", b"cli"))
    dropped = (
        (b"authorization", b"Bearer mine"),
        (b"cookie", b"a=b"),
        (b"x-goog-api-key", b"mine"),
        (b"x-auth-token", b"mine"),
        (b"anthropic-secret", b"mine"),
        (b"proxy-authorization", b"Basic mine"),
        (b"connection", b"x-app"),
        (b"forwarded", b"host=evil"),
        (b"expect", b"100-continue"),
        (b"openai-organization", b"other"),
    )
    found = judge(GATE, b"POST", b"/base/v1/messages", (HOST, SHOWN, *kept, *dropped), port=PORT)
    assert found.headers == kept


def test_a_key_goes_into_one_header() -> None:
    assert GATE.credential("k") == (b"x-api-key", b"k")
    bearer = replace(GATE, header="authorization", scheme="Bearer")
    assert bearer.credential("k") == (b"authorization", b"Bearer k")
    assert "dummy" not in repr(GATE)


@pytest.mark.parametrize(
    ("host", "port", "secure", "said"),
    [
        ("api.example.com", 443, True, b"api.example.com"),
        ("api.example.com", 8443, True, b"api.example.com:8443"),
        ("127.0.0.1", 80, False, b"127.0.0.1"),
        ("::1", 8080, False, b"[::1]:8080"),
    ],
)
def test_the_api_is_told_its_own_name(host: str, port: int, secure: bool, said: bytes) -> None:
    assert replace(GATE, host=host, port=port, secure=secure).authority == said


def test_an_answer_loses_what_is_of_one_connection_or_of_the_owner() -> None:
    kept = [(b"content-type", b"text/event-stream"), (b"retry-after", b"3")]
    dropped = [
        (b"connection", b"close, X-Hop"),
        (b"x-hop", b"1"),
        (b"set-cookie", b"session=owner"),
        (b"transfer-encoding", b"chunked"),
    ]
    assert answer_headers([*kept, *dropped]) == kept
