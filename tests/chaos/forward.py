"""Carries loopback ports over a network: listens on one address, connects to another.

Standard library only: `python -I -S forward.py LISTEN TO tcp:PORT... udp:PORT...`. The test
tailnet serves on loopback alone, so a namespace reaches it by two of these, one on each side
of a cable that a test can cut. A connection whose bytes nobody acknowledges is given up.
"""

import asyncio
import contextlib
import socket
import sys
from typing import cast

CHUNK_BYTES = 65536
UNACKNOWLEDGED_MS = 5000
CONNECT_LIMIT_S = 5.0


async def main(listen: str, to: str, ports: list[str]) -> None:
    """Forward until the process is ended."""
    loop = asyncio.get_running_loop()
    for kind, _, number in (port.partition(":") for port in ports):
        port = int(number)
        if kind == "udp":
            await loop.create_datagram_endpoint(
                lambda target=(to, port): _Datagrams(target), local_addr=(listen, port)
            )
        else:
            await asyncio.start_server(_carrier(to, port), listen, port)
    print("ready", flush=True)
    await asyncio.Event().wait()


def _carrier(to: str, port: int):
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CONNECT_LIMIT_S):
                there_reader, there = await asyncio.open_connection(to, port)
            for end in (writer, there):
                sock = end.get_extra_info("socket")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
            both = [_pump(reader, there), _pump(there_reader, writer)]
            tasks = [asyncio.create_task(one) for one in both]
            # The first end that breaks ends both; the nodes dial again.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            there.close()
        writer.close()

    return carry


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()


class _Datagrams(asyncio.DatagramProtocol):
    """One socket a client, so that answers find back."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._clients: dict[tuple[str, int], socket.socket] = {}

    # `override` is Python 3.12's, and this knows nothing but the standard library of 3.11.
    def connection_made(  # pyright: ignore[reportImplicitOverride]
        self, transport: asyncio.BaseTransport
    ) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(  # pyright: ignore[reportImplicitOverride]
        self, data: bytes, addr: tuple[str, int]
    ) -> None:
        client = self._clients.get(addr)
        if client is None:
            client = self._clients[addr] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.setblocking(False)
            asyncio.get_running_loop().add_reader(client, self._answer, client, addr)
        with contextlib.suppress(OSError):
            client.sendto(data, self._target)

    def _answer(self, client: socket.socket, addr: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):
            self._transport.sendto(client.recv(CHUNK_BYTES), addr)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
