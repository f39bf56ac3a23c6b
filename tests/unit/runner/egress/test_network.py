"""What a task is granted, from the runner's hosts and the owner's base URL."""

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from cmesh.errors import RunnerUnavailable
from cmesh.runner.egress.credentials import Credential
from cmesh.runner.egress.network import (
    RELAY_PORT,
    Endpoint,
    Network,
    grant,
    grant_gateway,
    load,
    save,
    variables,
)
from cmesh.runner.manifest import load_manifests

HOSTS = ("api.example.com",)
CREDENTIAL = Credential(variable="KEY", base_url_variable="BASE_URL")


def test_without_a_base_url_the_runner_s_own_hosts_are_reached() -> None:
    found = grant("claude", load_manifests()["claude"].network.hosts)
    assert found.hosts == {"api.anthropic.com"}
    assert found.model is None


def test_a_command_reaches_nothing() -> None:
    assert grant("command:x", load_manifests()["command"].network.hosts).hosts == frozenset()


def test_a_base_url_replaces_the_hosts_and_a_profile_adds_to_them() -> None:
    found = grant("x", HOSTS, base_url="https://Model.example.net/v1", more=["pypi.org"])
    assert found.hosts == {"model.example.net", "pypi.org"}
    assert grant("x", HOSTS, base_url="https://model.example.net:443").model is None


@pytest.mark.parametrize(
    ("url", "address", "port"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1", 8080),
        ("http://localhost:11434/api", "127.0.0.1", 11434),
        ("http://192.168.1.9", "192.168.1.9", 80),
        ("http://[::1]:8080", "::1", 8080),
    ],
)
def test_an_http_base_url_is_one_address_and_nothing_else(
    url: str, address: str, port: int
) -> None:
    found = grant("x", HOSTS, base_url=url)
    assert found.model == Endpoint(address=ip_address(address), port=port)
    assert found.hosts == frozenset()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://model.lan:8080", "exact address"),
        ("https://127.0.0.1", "host name and port 443"),
        ("https://model.example.net:8443", "host name and port 443"),
        ("https://localhost", "host name and port 443"),
        ("https://me:secret@model.example.net", "user or password"),
        ("http://127.0.0.1:99999", "not a URL"),
        ("http://[::1", "not a URL"),
    ],
)
def test_a_base_url_that_a_task_cannot_reach_is_refused_with_a_way_out(url: str, said: str) -> None:
    with pytest.raises(RunnerUnavailable, match=said) as caught:
        grant("x", HOSTS, base_url=url)
    assert "secret" not in str(caught.value)
    assert "[runners.x]" in caught.value.hint


def test_each_task_has_a_token_of_its_own() -> None:
    first, second = grant("x", HOSTS), grant("x", HOSTS)
    assert first.token != second.token
    assert len(first.token) >= 43
    assert first.token not in repr(first)


def test_a_program_is_told_by_its_environment() -> None:
    found = grant("x", HOSTS)
    proxy = f"http://task:{found.token}@127.0.0.1:{RELAY_PORT}"
    told = variables(found, CREDENTIAL)
    assert told == {
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def test_the_owner_s_server_is_found_at_the_relay_s_port_under_its_own_path() -> None:
    url = "http://127.0.0.1:8080/v1/"
    told = variables(grant("x", HOSTS, base_url=url), CREDENTIAL, base_url=url)
    assert told["BASE_URL"] == f"http://127.0.0.1:{RELAY_PORT}/v1/"


@pytest.mark.parametrize("url", ["", "http://[::1]:8080"])
def test_a_saved_network_is_the_same_and_private(tmp_path: Path, url: str) -> None:
    path = tmp_path / "network.json"
    found = grant("x", HOSTS, base_url=url)
    save(found, path)
    assert load(path) == found
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[]", '{"hosts": [], "model": ["x", 1], "token": "", "port": 1}']
)
def test_a_damaged_file_is_no_network(tmp_path: Path, text: str) -> None:
    path = tmp_path / "network.json"
    path.write_text(text)
    assert load(path) is None
    assert load(tmp_path / "missing.json") is None


def test_a_network_without_hosts_is_a_value_like_any_other() -> None:
    assert Network(hosts=frozenset(), token="x") == Network(hosts=frozenset(), token="x")


def test_a_task_that_may_delegate_is_told_where_and_its_proxy_stays_out_of_it(
    tmp_path: Path,
) -> None:
    found = replace(grant("x", HOSTS), mcp_token="a token")
    told = variables(found)
    assert told["CMESH_MCP_URL"] == f"http://localhost:{RELAY_PORT}/cmesh/mcp"
    assert told["CMESH_MCP_TOKEN"] == "a token"
    assert told["NO_PROXY"] == told["no_proxy"] == "127.0.0.1,localhost"
    assert "a token" not in repr(found)
    save(found, tmp_path / "network.json")
    assert load(tmp_path / "network.json") == found


def test_a_task_that_reaches_nothing_but_cmesh_is_told_of_no_proxy() -> None:
    found = replace(grant("command:x", ()), mcp_token="a token")
    assert not found.empty
    assert sorted(variables(found)) == ["CMESH_MCP_TOKEN", "CMESH_MCP_URL"]


def test_a_saved_gateway_is_the_same_and_holds_no_key(tmp_path: Path) -> None:
    credential, key = load_manifests()["claude"].credential, tmp_path / "key"
    assert credential is not None
    assert credential.gateway is not None
    key.write_text("sk-of-the-owner")
    found = grant_gateway("claude", credential.gateway, key, base_url="https://[::1]:8443/base/")
    assert found.gate is not None
    assert (found.gate.host, found.gate.port, found.gate.path) == ("::1", 8443, "/base")
    save(found, tmp_path / "network.json")
    assert load(tmp_path / "network.json") == found
    assert "sk-of" not in (tmp_path / "network.json").read_text()
    assert found.gate.token not in repr(found)
    assert grant_gateway("claude", credential.gateway, key).gate != found.gate
