"""What is taken out of a text, and that it does not depend on how the text came."""

import json
import random
import string
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmesh.redact import Redactor, Stream

LETTERS = string.ascii_letters + string.digits


def token(size: int, letters: str = LETTERS, seed: int = 5) -> str:
    return "".join(random.Random(f"{seed}{size}{letters}").choices(letters, k=size))


HEX = "0123456789abcdef"
# Made here, so that no scanner of this repository takes one for real.
SECRETS = {
    "anthropic": "sk-" + "ant-api03-" + token(80),
    "openai": "sk-" + "proj-" + token(100),
    "openai old": "sk-" + token(48),
    "google": "AI" + "za" + token(35),
    "google token": "ya" + "29." + token(60),
    "aws id": "AK" + "IA" + token(16, string.ascii_uppercase + "234567"),
    "aws key": "aws_secret_access_key = " + token(40),
    "azure": "AccountKey" + "=" + token(86) + "==",
    "github": "gh" + "p_" + token(36),
    "github fine": "github" + "_pat_" + token(70),
    "gitlab": "gl" + "pat-" + token(20),
    "slack": "xox" + "b-" + token(40, string.digits),
    "slack hook": "https://hooks.slack" + ".com/services/" + token(40),
    "stripe": "sk" + "_live_" + token(24),
    "npm": "np" + "m_" + token(36),
    "pypi": "py" + "pi-" + token(120),
    "huggingface": "h" + "f_" + token(34),
    "vault": "hv" + "s." + token(90),
    "sendgrid": "S" + "G." + token(22) + "." + token(43),
    "databricks": "da" + "pi" + token(32, HEX),
    "tailscale": "tskey" + "-auth-" + token(12) + "-" + token(32),
    "node key": "priv" + "key:" + token(64, HEX),
    "jwt": "ey" + "J" + token(40) + ".ey" + "J" + token(100) + "." + token(43),
    "url": "postgres://app:" + token(16) + "@db.internal/app",
    "pem": "-----BEGIN RSA PRIVATE" + " KEY-----\n"
    + "\n".join(token(64, seed=n) for n in range(20))
    + "\n-----END RSA PRIVATE" + " KEY-----",
}  # fmt: skip
CORES = {
    name: secret.rpartition(" = ")[2].rpartition("/services/")[2]
    for name, secret in SECRETS.items()
}
CORES["azure"] = CORES["azure"].removeprefix("AccountKey=")
CORES["url"] = CORES["url"].removeprefix("postgres://app:").partition("@")[0]
CORES["pem"] = token(64, seed=7)
CORES["node key"] = CORES["node key"].removeprefix("privkey:")

INNOCENT = [
    "a sentence about sk- and ghp_ and AKIA, with -----BEGIN CERTIFICATE-----",
    "commit " + token(40, HEX),
    "sha256:" + token(64, HEX),
    "0192b5a0-7c1e-7b3a-8f00-1234567890ab",
    "https://example.com/a/b?c=d#e",
    "task-risk-assessment-and-whatnot-sk-etch",
    "/usr/lib/python3.11/site-packages/eyJ.py",
    "data:image/png;base64," + token(4000, LETTERS + "+/"),
]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_a_known_form_is_taken_out_and_nothing_moves(name: str) -> None:
    text = f"before {SECRETS[name]} after"
    clean, hits = Redactor().text(text)
    assert CORES[name] not in clean
    assert (len(clean), hits) == (len(text), 1)
    assert (clean[:7], clean[-6:]) == ("before ", " after")


@pytest.mark.parametrize("text", INNOCENT)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor().text(text) == (text, 0)


def test_a_secret_that_is_known_is_found_in_any_form_a_stream_gives_it() -> None:
    value = 'pass"word\\here'
    redactor = Redactor([value, "short"])
    for text in (f"x{value}y", json.dumps({"k": value})):
        clean, hits = redactor.text(text)
        assert (hits, len(clean)) == (1, len(text))
        assert "word" not in clean
    assert redactor.text("short") == ("short", 0)
    assert json.loads(redactor.text(json.dumps({"k": value}))[0])["k"].startswith("[secret:")


def test_every_text_of_an_object_is_looked_at_and_its_shape_stays() -> None:
    key = SECRETS["github"]
    clean, hits = Redactor().data({"a": [{"b": key}], key: 1, "n": None, "f": 0.5})
    assert hits == 2
    assert key not in json.dumps(clean)
    assert (clean["n"], clean["f"]) == (None, 0.5)


OUTPUT = "\n".join([*INNOCENT, *(f"{name}: {s}" for name, s in SECRETS.items()), "known-value-1 x"])
WHOLE = Redactor(["known-value-1"]).text(OUTPUT)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(OUTPUT.encode())), max_size=40))
def test_where_a_stream_is_cut_makes_no_difference(cuts: list[int]) -> None:
    raw, stream = OUTPUT.encode(), Stream(Redactor(["known-value-1"]))
    at = [0, *sorted(cuts), len(raw)]
    pieces = [stream.feed(raw[a:b]) for a, b in pairwise(at)]
    assert (b"".join(pieces) + stream.finish()).decode() == WHOLE[0]
    assert stream.hits == WHOLE[1] == len(SECRETS) + 1


def test_every_cut_of_each_secret_in_two_is_found() -> None:
    for name, secret in SECRETS.items():
        raw = f"{secret} ".encode()
        for cut in range(1, len(raw)):
            stream = Stream(Redactor())
            out = stream.feed(raw[:cut]) + stream.feed(raw[cut:]) + stream.finish()
            assert CORES[name].encode() not in out, (name, cut)


def test_a_line_that_has_ended_is_told_at_once_and_a_flood_is_not_kept() -> None:
    stream = Stream(Redactor(["known-value-1"]))
    assert stream.feed(b"one\n") == b"one\n"
    assert stream.feed(b"waiting for known-val") == b"waiting for "
    assert stream.feed(b"ley\n") == b"known-valley\n"
    held = sum(len(stream.feed(b"x" * 65536)) for _ in range(16))
    assert 16 * 65536 - held <= 8 * 1024


def test_a_key_without_an_end_hides_a_bounded_part() -> None:
    begin = "-----BEGIN OPENSSH PRIVATE" + " KEY-----\n"
    clean, hits = Redactor().text(begin + "line\n" * 20_000)
    assert hits == 1
    assert clean.endswith("line\nline\n")
