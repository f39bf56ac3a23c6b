"""Rules go into a person's configuration and come out again, and nothing else of it changes."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cmesh.config import load_config
from cmesh.errors import ConfigError, UnsafePermissions
from cmesh.setup.configtext import rule_text, with_rule, without_block
from cmesh.setup.configwrite import put, rewrite

IN = rule_text(
    "inbound",
    {
        "name": 'it may "ask"',
        "peers": ["node:nBOX"],
        "operations": ["task"],
        "profiles": ["query"],
        "runners": ["command:x"],
        "paths": ["/srv/app"],
        "limits": {"runtime": "15m", "concurrent": 2},
    },
    comment="why it is here",
)
OUT = rule_text("outbound", {"name": "ask", "peers": ["node:nBOX"], "profiles": ["query"]})
FILES = {
    "empty": "",
    "no newline at the end": "# mine\n[node]\nhostname = 'a'",
    "comments and rules": '[node] # here\nhostname = "a"\n\n# theirs\n[[outbound.allow]]\n'
    'name = "mine"\npeers = ["*"]\nprofiles = ["edit"]\n\n\n# the end\n',
    "windows": "[node]\r\nhostname = 'a'\r\n",
}


def asks(text: str) -> str:
    return with_rule(text, "outbound", OUT)


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_rules_go_in_and_come_out_to_the_letter(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode())
    path.chmod(0o600)
    before = load_config(path).policy
    rewrite(path, lambda old: asks(with_rule(old, "inbound", IN)))
    after = load_config(path).policy
    assert {rule.name for rule in after.inbound} == {'it may "ask"'}
    assert {rule.name for rule in after.outbound} == {
        "ask",
        *(rule.name for rule in before.outbound),
    }
    now = path.read_bytes().decode()
    assert now.startswith(text)
    assert ("\r\n" in text) == ("\n" not in now.replace("\r\n", ""))
    for rule in (IN, OUT):
        rest = without_block(now, rule)
        assert rest is not None
        now = rest
    assert now in (text, f"{text}\n")


def test_a_rule_that_was_changed_or_stands_there_twice_is_not_taken_out() -> None:
    text = with_rule("", "inbound", IN)
    assert without_block(text.replace("15m", "20m"), IN) is None
    assert without_block(text + IN, IN) is None
    assert without_block("", IN) is None


def test_a_form_that_cannot_be_added_to_is_refused() -> None:
    with pytest.raises(ConfigError):
        asks('outbound = { allow = [{ name = "a", peers = ["*"] }] }\n')


def test_what_could_not_be_used_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(OUT)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="could not be used"):
        rewrite(path, asks)  # a name that is taken
    assert path.read_text() == OUT
    assert os.listdir(tmp_path) == ["config.toml"]  # noqa: PTH208


def test_a_file_keeps_its_mode_and_others_may_not_have_written_it(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("")
    path.chmod(0o640)
    rewrite(path, asks)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o666)
    with pytest.raises(ConfigError, match=r"mode|others"):
        rewrite(path, lambda text: text + "# more\n")


def test_what_somebody_else_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("# one\n")
    path.chmod(0o600)
    meanwhile = ["# two\n"]

    def change(text: str) -> str:
        if meanwhile:
            path.write_text(meanwhile.pop())
        return asks(text)

    rewrite(path, change)
    assert path.read_text() == f"# two\n\n{OUT}"


def test_a_file_is_put_there_only_over_what_it_was_made_of(tmp_path: Path) -> None:
    path = tmp_path / "c" / "config.toml"
    assert put(path, None, OUT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not put(path, None, "")  # somebody has made one meanwhile
    assert not put(path, "", IN)
    assert not put(path, "", None)
    assert path.read_text() == OUT
    path.chmod(0o640)
    assert put(path, OUT, IN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert put(path, IN, None)
    assert not put(path, IN, OUT)  # somebody has taken it away meanwhile
    assert os.listdir(path.parent) == []  # noqa: PTH208


@pytest.mark.parametrize("what", ["config.toml", "."])
def test_a_link_in_its_place_is_neither_followed_nor_replaced(tmp_path: Path, what: str) -> None:
    real, link = tmp_path / "real", tmp_path / "c"
    real.mkdir(mode=0o700)
    (real / "config.toml").write_text(OUT)
    (real / "config.toml").chmod(0o600)
    if what == ".":
        link.symlink_to(real)
    else:
        link.mkdir(mode=0o700)
        (link / what).symlink_to(real / what)
    for after in (IN, None):
        with pytest.raises(UnsafePermissions, match="is not a plain"):
            put(link / "config.toml", OUT, after)
    assert (real / "config.toml").read_text() == OUT


def test_of_many_writers_at_once_each_change_is_there_or_was_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("")
    path.chmod(0o600)

    def rule(number: int) -> str:
        return rule_text(
            "outbound", {"name": f"r{number}", "peers": ["node:nBOX"], "profiles": ["query"]}
        )

    def puts(number: int) -> int | None:
        before = path.read_text()
        wanted = with_rule(before, "outbound", rule(number))
        return number if put(path, before, wanted) else None

    def rewrites(number: int) -> int | None:
        try:
            rewrite(path, lambda old: with_rule(old, "outbound", rule(number)))
        except ConfigError:  # others were faster, again and again
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        done = {*pool.map(puts, range(16)), *pool.map(rewrites, range(16, 32))} - {None}
    assert done
    assert {rule.name for rule in load_config(path).policy.outbound} == {f"r{n}" for n in done}
