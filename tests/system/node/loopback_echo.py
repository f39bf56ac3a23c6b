"""Run in a network namespace that has only `lo`: two nodes echo, or this fails."""

import asyncio
import fcntl
import socket
import struct
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet, allow_loopback_only

# linux/sockios.h, net/if.h
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8913, 0x8914, 0x8916, 1
STAND_IN = "192.0.2.1"  # what native/interfaces.go gives nodes; documentation only (RFC 5737)


def raise_loopback() -> None:
    """Do what `ip link set lo up` does, and make sure that nothing else is there."""
    assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
        # Nodes probe the stand-in's address; here it is ours, so that only others are counted.
        address = struct.pack("=H2x4s8x", socket.AF_INET, socket.inet_aton(STAND_IN))
        fcntl.ioctl(sock, SIOCSIFADDR, struct.pack("16s16s", b"lo:1", address))


async def echo(directory: Path) -> None:
    """Send one line to the other node and back."""
    async with AsyncExitStack() as stack:
        testnet = await stack.enter_async_context(Testnet(auto_user="you@example.com"))
        nodes: list[Node] = []
        for name in ("server", "client"):
            options = NodeOptions(
                state_dir=directory / name,
                hostname=name,
                control_url=testnet.control_url,
                allow_testnet=True,
            )
            nodes.append(await stack.enter_async_context(Node(options)))
            await nodes[-1].up(timeout_s=15)
        listener = await stack.enter_async_context(await nodes[0].listen(7))
        near = await nodes[1].dial("server", 7)
        far, remote = await listener.accept()
        with near, far:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(near, b"echo")
            await loop.sock_sendall(far, await loop.sock_recv(far, 4))
            print((await loop.sock_recv(near, 4)).decode(), (await nodes[0].whois(remote)).user)


def packets_without_a_way() -> int:
    """Count what this namespace was asked to send and had no route for."""
    lines = Path("/proc/net/snmp").read_text("ascii").splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("Ip:"))
    six = dict(line.split() for line in Path("/proc/net/snmp6").read_text("ascii").splitlines())
    return int(dict(zip(names, values, strict=True))["OutNoRoutes"]) + int(six["Ip6OutNoRoutes"])


raise_loopback()
allow_loopback_only()
before = packets_without_a_way()
asyncio.run(echo(Path(sys.argv[1])))
print("tried to leave:", packets_without_a_way() - before)
