"""Every class of address that no task may reach, in each spelling that leads there."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmesh.runner.egress.addresses import parse_address, refusal

REFUSED = {
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "::1": "loopback",
    "10.0.0.0": "private",
    "10.255.255.255": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "fc00::1": "private",
    "fdff:ffff::1": "private",
    "fec0::1": "private",
    "100.64.0.0": "tailnet",
    "100.127.255.255": "tailnet",
    "100.100.100.100": "tailnet",
    "fd7a:115c:a1e0::53": "tailnet",
    "169.254.169.254": "link-local",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "2606:4700::1111%eth0": "link-local",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "ff02::1": "multicast",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "::": "unspecified",
    "192.0.0.1": "reserved",
    "192.0.2.1": "reserved",
    "198.18.0.1": "reserved",
    "198.19.255.255": "reserved",
    "198.51.100.1": "reserved",
    "203.0.113.1": "reserved",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "100::1": "reserved",
    "2001:db8::1": "reserved",
    "2001:2::1": "reserved",
    "3fff::1": "reserved",
    "5f00::1": "reserved",
    "2001::1": "tunnel",
    "2002:7f00:1::": "tunnel",
    "64:ff9b:1::7f00:1": "tunnel",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:10.0.0.1": "private",
    "::ffff:100.64.0.1": "tailnet",
    "::ffff:8.8.8.8": "IPv4 in IPv6",
    "::127.0.0.1": "loopback",
    "::8.8.8.8": "IPv4 in IPv6",
    "64:ff9b::7f00:1": "loopback",
    "64:ff9b::a9fe:a9fe": "link-local",
    "64:ff9b::6440:1": "tailnet",
    "4000::1": "not global",
}
ALLOWED = ["1.1.1.1", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2606:4700::1111"]


@pytest.mark.parametrize(("text", "why"), REFUSED.items())
def test_a_forbidden_address_is_refused_by_its_kind(text: str, why: str) -> None:
    assert refusal(ip_address(text)) == why


@pytest.mark.parametrize("text", [*ALLOWED, "64:ff9b::808:808"])
def test_the_public_internet_may_be_reached(text: str) -> None:
    assert refusal(ip_address(text)) == ""


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_in_an_ipv6_one_never_gains_anything(address: IPv4Address) -> None:
    mapped = IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
    translated = IPv6Address(bytes.fromhex("0064ff9b") + b"\0" * 8 + address.packed)
    assert refusal(mapped)
    assert bool(refusal(translated)) == bool(refusal(address))


@given(st.ip_addresses())
def test_what_may_be_reached_is_global_and_no_multicast(
    address: IPv4Address | IPv6Address,
) -> None:
    if not refusal(address):
        assert address.is_global
        assert not any((address.is_private, address.is_multicast, address.is_link_local))


def test_what_is_no_address_is_none() -> None:
    assert parse_address("api.example.com") is None
    assert parse_address("10.0.0.1") == ip_address("10.0.0.1")
