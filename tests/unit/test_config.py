"""The configuration file: what it means, and what is said about one that means nothing."""

import contextlib
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmesh.config import (
    ApprovalsConfig,
    CommandConfig,
    Config,
    ConfigFileError,
    LogConfig,
    NodeConfig,
    RunnerConfig,
    SandboxConfig,
    StoreConfig,
    TraceConfig,
    WakeConfig,
    WorkerConfig,
    load_config,
    starter_config,
)
from cmesh.configfile import FileTable
from cmesh.errors import ConfigError, UnsafePermissions
from cmesh.model import Profile
from cmesh.policy.rules import Policy, Selector
from cmesh.policy.tables import Table

DOCS = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
RULE = """
[[inbound.allow]]
name = "r"
peers = ["node:nABC"]
operations = ["task"]
profiles = ["query"]
runners = ["claude"]
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path.resolve() / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("CMESH_TESTNET", raising=False)
    return home


def write(directory: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path = directory / "config.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def refused(directory: Path, content: str | bytes) -> ConfigFileError:
    path = write(directory, content)
    with pytest.raises(ConfigFileError) as caught:
        load_config(path)
    assert isinstance(caught.value, ConfigError)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_missing_file_is_not_configured_and_allows_nothing(tmp_path: Path) -> None:
    config = load_config(tmp_path / "config.toml")
    assert not config.configured
    assert config.policy == Policy.of()
    assert (config.node, config.worker) == (NodeConfig(), WorkerConfig())
    assert (config.runners, config.commands, config.store) == ({}, {}, StoreConfig())


def test_an_empty_file_is_configured_and_allows_nothing(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, ""))
    assert config.configured
    assert config.policy == Policy.of()


def test_every_table_is_read(tmp_path: Path, home: Path) -> None:
    config = load_config(
        write(
            tmp_path,
            """
            [node]
            hostname = "box"
            control_url = "http://127.0.0.1:8080"
            auth_key_file = "~/auth.key"
            tags = ["tag:build"]
            [worker]
            allow_root = true
            concurrent = 3
            queue = 0
            [runners.claude]
            program = "/opt/claude"
            key_file = "claude.key"
            model = "m"
            env = { LANG = "C" }
            base_url = "http://127.0.0.1:1/v1"
            idle = "30m"
            [commands.deploy-check]
            argv = ["python3", "/x/y.py"]
            env_pass = ["PATH"]
            [store]
            keep_text = "30d"
            store_prompts = "digest"
            [sandbox]
            accept_tier2_network = true
            read = ["/opt"]
            [wake]
            hook = ["/opt/told", "--now"]
            desktop = true
            [approvals]
            approvers = ["node:nPHONE", "user:me@example.com"]
            port = 7400
            [log]
            format = "json"
            [trace]
            endpoint = "http://127.0.0.1:4318"
            """,
        )
    )
    assert config == Config(
        path=tmp_path / "config.toml",
        configured=True,
        node=NodeConfig(
            hostname="box",
            control_url="http://127.0.0.1:8080",
            auth_key_file=home / "auth.key",
            tags=("tag:build",),
        ),
        worker=WorkerConfig(allow_root=True, concurrent=3, queue=0),
        runners={
            "claude": RunnerConfig(
                program="/opt/claude",
                key_file=tmp_path / "claude.key",
                model="m",
                env={"LANG": "C"},
                base_url="http://127.0.0.1:1/v1",
                idle_s=1800,
            )
        },
        commands={"deploy-check": CommandConfig(argv=("python3", "/x/y.py"), env_pass=("PATH",))},
        store=StoreConfig(keep_text_days=30, store_prompts="digest"),
        sandbox=SandboxConfig(accept_tier2_network=True, read=("/opt",)),
        wake=WakeConfig(hook=("/opt/told", "--now"), desktop=True),
        approvals=ApprovalsConfig(
            approvers=(
                Selector(kind="node", value="nPHONE"),
                Selector(kind="user", value="me@example.com"),
            ),
            port=7400,
        ),
        log=LogConfig(format="json"),
        trace=TraceConfig(endpoint="http://127.0.0.1:4318"),
        policy=Policy.of(),
        sha256=config.sha256,
    )


def test_a_test_tailnet_is_allowed_by_the_environment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "")
    assert not load_config(path).node.allow_testnet
    monkeypatch.setenv("CMESH_TESTNET", "yes")
    assert not load_config(path).node.allow_testnet
    monkeypatch.setenv("CMESH_TESTNET", "1")
    assert load_config(path).node.allow_testnet
    assert refused(tmp_path, "[node]\nallow_testnet = true").key == "node.allow_testnet"


def test_rule_paths_are_expanded_and_their_links_resolved(tmp_path: Path, home: Path) -> None:
    (home / "real").mkdir()
    (home / "link").symlink_to(home / "real")
    (home / "loop").symlink_to(home / "loop")
    rule = RULE + 'paths = ["~/link/sub", "~/new", "~/loop"]\n'
    out = '[[outbound.allow]]\nname = "o"\npeers = ["*"]\nprofiles = ["query"]\nrepos = ["~"]\n'
    policy = load_config(write(tmp_path, rule + out)).policy
    assert policy.inbound[0].paths[:2] == (f"{home}/real/sub", f"{home}/new")
    assert policy.outbound[0].repos == (str(home),)


@pytest.mark.parametrize(
    ("text", "line", "key", "expected"),
    [
        pytest.param("[node\n", 1, "", "not TOML", id="syntax"),
        pytest.param('[node]\nhostname = "a\n', 2, "", "column", id="open string"),
        pytest.param("a = [1,\n\n", 3, "", "not TOML", id="end of file"),
        pytest.param("[node]\n[node]\n", 2, "", "not TOML", id="table twice"),
        pytest.param("[nod]\n", 1, "nod", "did you mean `node`?", id="unknown table"),
        pytest.param(
            '\n[node]\nhostnme = "a"\n', 3, "node.hostnme", "did you mean `hostname`?", id="key"
        ),
        pytest.param('node.hostname = "a b"\n', 1, "node.hostname", "a host name", id="dotted key"),
        pytest.param('[node]\ncontrol_url = "x"', 2, "node.control_url", "a URL", id="no url"),
        pytest.param('[node]\ntags = ["x"]', 2, "node.tags[0]", "a tag", id="no tag"),
        pytest.param(
            "[worker]\nconcurrent = 0", 2, "worker.concurrent", "at least 1", id="too small"
        ),
        pytest.param(
            '[worker]\nconcurrent = "2"', 2, "worker.concurrent", "a whole number", id="text"
        ),
        pytest.param(
            '[approvals]\napprovers = ["tag:x"]',
            2,
            "approvals.approvers[0]",
            "node id",
            id="no one",
        ),
        pytest.param(
            '[approvals]\napprovers = ["user:tagged-devices"]',
            2,
            "approvals.approvers[0]",
            "login name",
            id="everybody's machines",
        ),
        pytest.param("[approvals]\nport = 7333", 2, "approvals.port", "links", id="port of links"),
        pytest.param("[runners.claud]\n", 1, "runners.claud", '"claude"', id="unknown agent"),
        pytest.param(
            '[runners.claude]\nkeyfile = "x"',
            2,
            "runners.claude.keyfile",
            "did you mean `key_file`?",
            id="key of an agent",
        ),
        pytest.param("[commands.x]\n", 1, "commands.x.argv", "this key", id="missing key"),
        pytest.param(
            '[commands."a b"]\nargv = ["x"]', 1, 'commands."a b"', "as its name", id="bad name"
        ),
        pytest.param("[commands.x]\nargv = []", 2, "commands.x.argv", "at least 1", id="empty"),
        pytest.param(
            '[commands.x]\nargv = ["a\\u0000b"]', 2, "commands.x.argv[0]", "null", id="a null byte"
        ),
        pytest.param(
            '[store]\nkeep_text = "720h"', 2, "store.keep_text", 'such as "30d"', id="days"
        ),
        pytest.param(
            RULE + 'paths = ["/a"]\n' + RULE.replace('"r"', '"s"') + 'paths = ["b"]\n',
            16,
            "inbound.allow[1].paths[0]",
            "an absolute path",
            id="second rule",
        ),
        pytest.param(
            RULE + 'paths = [\n  "/a",\n  1,\n]\n',
            8,
            "inbound.allow[0].paths[1]",
            "a string",
            id="list over lines",
        ),
        pytest.param(
            RULE + 'paths = ["/a"]\nlimits = { runtime = "1x" }\n',
            9,
            "inbound.allow[0].limits.runtime",
            '"15m"',
            id="inline table",
        ),
        pytest.param(
            RULE + 'paths = ["/a"]\n[inbound.allow.limits]\nruntme = "1m"\n',
            10,
            "inbound.allow[0].limits.runtme",
            "did you mean `runtime`?",
            id="table of a rule",
        ),
        pytest.param(
            '[inbound]\nallow = [{ name = "x" }]\n',
            2,
            "inbound.allow[0].peers",
            "this key",
            id="rule in one line",
        ),
        pytest.param(RULE, 2, "inbound.allow[0].paths", "needs it", id="rule without paths"),
    ],
)
def test_a_mistake_names_line_key_and_expectation(
    tmp_path: Path, text: str, line: int, key: str, expected: str
) -> None:
    error = refused(tmp_path, text)
    assert (error.line, error.key) == (line, key)
    assert expected in error.expected
    assert f"line {line}" in error.message
    assert key in error.message


def test_bytes_that_are_no_text_name_their_line(tmp_path: Path) -> None:
    error = refused(tmp_path, b"[node]\nhostname = '\xff'")
    assert (error.line, error.expected) == (2, "expected UTF-8 text")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("a = " + "[" * 100_000, id="nested"),
        pytest.param("a = " + "9" * 5_000, id="a long number"),
        pytest.param("#" * 1024 * 1024 + "\n", id="too large"),
    ],
)
def test_an_unreasonable_file_is_refused_with_a_sentence(tmp_path: Path, content: str) -> None:
    assert refused(tmp_path, content).expected


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(UnsafePermissions):
        load_config(write(tmp_path, "", mode))


def test_a_directory_or_link_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(UnsafePermissions):
        load_config(tmp_path / "config.toml")
    (tmp_path / "link").symlink_to(write(tmp_path / "config.toml", ""))
    with pytest.raises(UnsafePermissions):
        load_config(tmp_path / "link")


def test_a_file_below_a_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    with pytest.raises(ConfigFileError, match="cannot be read: Not a directory"):
        load_config(path / "config.toml")


WORDS = """[ ] [[ ]] inbound .allow node = " ''' { } , 1 peers name # \\ limits 1979-05-27 true é"""
TOML_BITS = st.sampled_from([*WORDS.split(), *"\n\r\0 ", '"' * 3])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.lists(TOML_BITS, max_size=25).map(lambda x: "".join(x).encode()))
def test_no_bytes_make_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("c"), content)
    with contextlib.suppress(ConfigError):
        load_config(path)


def test_the_digest_is_of_the_files_bytes(tmp_path: Path) -> None:
    one = load_config(write(tmp_path, "# a\n")).sha256
    assert one != load_config(write(tmp_path, "# b\n")).sha256
    assert one == load_config(write(tmp_path, "# a\n")).sha256


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("box", "box"),
        ("My_Box.local", "my-box"),
        ('a"\n[worker]\nallow_root = true #', "a-worker-allow-root-true"),
        ("-" * 70, ""),
        ("", ""),
        ("x" * 70, "x" * 63),
    ],
)
def test_the_starter_is_valid_and_allows_nothing(tmp_path: Path, host: str, name: str) -> None:
    config = load_config(write(tmp_path, starter_config(host)))
    assert config.node.hostname == name
    assert config.worker == WorkerConfig()
    assert config.policy == Policy.of()


def test_the_starters_commented_tables_are_valid_when_uncommented(tmp_path: Path) -> None:
    text = re.sub(r"(?m)^# (?=\[|[a-z_]+ = )", "", starter_config("box"))
    config = load_config(write(tmp_path, text))
    assert [rule.name for rule in config.policy.inbound] == ["laptop may ask about myapp"]
    assert [rule.name for rule in config.policy.outbound] == ["ask the build box"]
    assert {rule.profiles for rule in (*config.policy.inbound, *config.policy.outbound)} == {
        (Profile.QUERY,)
    }
    assert set(config.runners) == {"claude"}
    assert set(config.commands) == {"deploy-check"}
    assert config.store.keep_text_days == 30


SECTIONS = {
    "NodeTable": "## `[node]`",
    "WorkerTable": "## `[worker]`",
    "RunnerTable": "## `[runners.NAME]`",
    "CommandTable": "## `[commands.NAME]`",
    "StoreTable": "## `[store]`",
    "WakeTable": "## `[wake]`",
    "ApprovalsTable": "## `[approvals]`",
    "LogTable": "## `[log]`",
    "TraceTable": "## `[trace]`",
    "SandboxTable": "## `[sandbox]`",
    "ProfileTable": "## `[profiles.NAME]`",
    "ProfileLimitsTable": "### `limits` of a profile",
    "InboundAllowTable": "### `[[inbound.allow]]`",
    "InboundDenyTable": "### `[[inbound.deny]]`",
    "OutboundAllowTable": "### `[[outbound.allow]]`",
    "OutboundDenyTable": "### `[[outbound.deny]]`",
    "LimitsTable": "### `limits`",
}


def documented(heading: str) -> dict[str, str]:
    """The rows of the table under a heading: key and, when there are three columns, default."""
    _, found, rest = DOCS.read_text(encoding="utf-8").partition(f"\n{heading}\n")
    assert found, f"{heading} is missing"
    section = re.split(r"\n##", rest)[0]
    rows = re.findall(r"(?m)^\| `(\w+)` \| (.*?) \|", section)
    return dict(rows)


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    groups = {"FileTable", "PolicyTables", "InboundTables", "OutboundTables"}
    tables = {table.__name__: table for table in _tables() if table.__name__ not in groups}
    assert set(tables) == set(SECTIONS)
    for name, heading in SECTIONS.items():
        assert set(documented(heading)) == set(tables[name].model_fields), heading


@pytest.mark.parametrize(
    "name", ["NodeTable", "WorkerTable", "StoreTable", "WakeTable", "InboundAllowTable"]
)
def test_documented_defaults_are_the_real_ones(name: str) -> None:
    model = {table.__name__: table for table in _tables()}[name]
    for key, default in documented(SECTIONS[name]).items():
        field = model.model_fields[key]
        if default.startswith("`"):
            real = field.get_default(call_default_factory=True)
            shown = tomllib.loads(f"x = {default.strip('`')}")["x"]
            assert shown == (real.model_dump(exclude_none=True) if key == "limits" else real), key
        else:
            assert field.is_required() == (default == "required"), key


def test_the_documented_files_are_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"(?s)```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"))
    whole, profiles, consent = blocks
    assert len(load_config(write(tmp_path, whole)).policy.inbound) == 2
    named = RULE.replace('"query"', '"docs", "python-build"') + 'paths = ["/a"]\n' + profiles
    (rule,) = load_config(write(tmp_path, named)).policy.inbound
    assert rule.profile_names == ("docs", "python-build")
    full = RULE.replace('"query"', '"full"') + 'paths = ["/a"]\n' + consent
    assert load_config(write(tmp_path, full)).policy.inbound[0].consent


def _tables() -> list[type[Table]]:
    """Every table of the file, found from its root."""
    found: list[type[Table]] = [FileTable]
    for table in found:
        for field in table.model_fields.values():
            found += [inner for inner in _inner(field.annotation) if inner not in found]
    return found


def _inner(annotation: Any) -> list[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return [annotation]
    return [table for part in get_args(annotation) for table in _inner(part)]
