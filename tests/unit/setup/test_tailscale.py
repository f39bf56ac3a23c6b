"""The system's own Tailscale: read, whatever it says, and never taken at its word for markup."""

import socket
from pathlib import Path

from cmesh.setup import tailscale
from cmesh.setup.facts import SystemPeer

STATUS = {
    "BackendState": "Running",
    "Self": {"DNSName": "laptop.tail1.ts.net.", "HostName": "Laptop"},
    "Peer": {
        "k1": {"DNSName": "nas.tail1.ts.net.", "OS": "linux", "Online": False},
        "k2": {"HostName": "build\u202e\nbox", "OS": "linux", "Online": True},
        "k3": "what",
    },
}


def test_its_peers_are_candidates_the_reachable_first():
    found = tailscale.read_status(STATUS, {}, socket="/s", program="/t")
    assert (found.state, found.name, found.control_url) == ("Running", "laptop", "")
    assert found.peers[0] == SystemPeer(name="build box", os="linux", online=True)
    assert [peer.name for peer in found.peers if peer.name] == ["build box", "nas"]


def test_another_control_server_is_offered():
    prefs = {"ControlURL": "https://hs.example.com"}
    assert (
        tailscale.read_status({}, prefs, socket="", program="").control_url == prefs["ControlURL"]
    )


def test_nothing_there_is_nothing(tmp_path: Path):
    assert tailscale.find("", [str(tmp_path / "none")]) is None


def test_a_socket_alone_says_that_it_is_there(tmp_path: Path):
    place = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        found = tailscale.find("", [str(place)])
    assert found is not None
    assert (found.socket, found.state, found.peers) == (str(place), "", ())


def test_a_program_that_fails_or_lies_is_no_trouble(tmp_path: Path):
    for body in ("exit 1", "echo '[1'", "echo '[]'", 'echo \'{"Peer": 3, "Self": []}\''):
        program = tmp_path / "tailscale"
        program.write_text(f"#!/bin/sh\n{body}\n", "utf-8")
        program.chmod(0o755)
        found = tailscale.find(str(program), [])
        assert found is not None
        assert found.peers == ()
