"""Which addresses a task's connections may go to: those of the public internet. Pure.

Tables after the IANA special-purpose address registries (RFC 6890). A form of IPv6 that carries
an IPv4 address is judged by both. What is in no table is refused when Python does not call it
global either, so a newer registry narrows and never widens. Never resolves or connects.
"""

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

__all__ = ["Address", "parse_address", "refusal"]

Address = IPv4Address | IPv6Address

_TABLE = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",  # unique local; tailnets have fd7a:115c:a1e0::/48 of it
        "fec0::/10",  # site-local, RFC 3879
    ),
    "tailnet": ("100.64.0.0/10", "fd7a:115c:a1e0::/48"),  # also carrier-grade NAT, RFC 6598
    "link-local": ("169.254.0.0/16", "fe80::/10"),  # metadata services of clouds too
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "unspecified": ("0.0.0.0/8", "::/128"),
    "reserved": (
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",  # with 255.255.255.255
        "100::/64",
        "2001:2::/48",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
    ),
    # A gateway on the way decides where these end, so the address says nothing.
    "tunnel": ("2001::/32", "2002::/16", "64:ff9b:1::/48"),
}
_NETWORKS = [
    (ip_network(text), name)
    # Narrow before wide: a tailnet's address is private as well, and its own name says more.
    for name in ("tailnet", *(name for name in _TABLE if name != "tailnet"))
    for text in _TABLE[name]
]
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that was ever given out, RFC 4291 section 2.4


def refusal(address: Address) -> str:
    """Return why a task may not connect to `address`, in a word or two; empty = it may."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return "link-local"
        embedded = _embedded(address)
        if embedded is not None:
            return refusal(embedded) or ("" if address in _NAT64 else "IPv4 in IPv6")
        if address not in _GLOBAL_UNICAST:
            return _named(address) or "not global"
    return _named(address) or ("" if address.is_global else "not global")


def parse_address(text: str) -> Address | None:
    """Return the address that a text of getaddrinfo(3) is, or None."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def _named(address: Address) -> str:
    return next((name for network, name in _NETWORKS if _within(address, network)), "")


def _within(address: Address, network: IPv4Network | IPv6Network) -> bool:
    if isinstance(address, IPv4Address):
        return isinstance(network, IPv4Network) and address in network
    return isinstance(network, IPv6Network) and address in network


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that packets to this one end at: RFC 4291 2.5.5, RFC 6052."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    low = int(address) & 0xFFFFFFFF
    if address in _NAT64 or (address in _COMPATIBLE and low > 1):
        return IPv4Address(low)
    return None
