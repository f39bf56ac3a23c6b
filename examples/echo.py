"""Echo over a tailnet, server and client node in one process.

Give it `--testnet` (a tailnet of its own, on loopback) or a control URL (prints login URLs).
"""

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet


async def main(url: str) -> None:
    """Send one line from the client to the server and back."""
    async with AsyncExitStack() as stack:
        if own := url == "--testnet":
            testnet = await stack.enter_async_context(Testnet(auto_user="you@example.com"))
            url = testnet.control_url
        home, nodes = Path(stack.enter_context(tempfile.TemporaryDirectory())), list[Node]()
        for name in ("server", "client"):
            options = NodeOptions(
                state_dir=home / name, hostname=name, control_url=url, allow_testnet=own
            )
            nodes.append(await stack.enter_async_context(Node(options)))
            await nodes[-1].up(on_login=lambda u: asyncio.to_thread(print, "open", u))
        listener = await nodes[0].listen(7)
        near = await nodes[1].dial("server", 7)
        far, remote = await listener.accept()
        who, loop = await nodes[0].whois(remote), asyncio.get_running_loop()
        with near, far:
            await loop.sock_sendall(near, b"hello over the tailnet")
            await loop.sock_sendall(far, await loop.sock_recv(far, 1024))
            print(who.name, "got back:", (await loop.sock_recv(near, 1024)).decode())


asyncio.run(main(*sys.argv[1:]))
