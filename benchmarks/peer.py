"""A process that is a tailnet node and little else, for benchmarks to compare with and to talk to.

`python -m benchmarks.peer idle|echo|sink` takes one JSON line on stdin, prints one when its node
is up, and ends with stdin. `idle` is the least a Python program with a node can be.
"""

import asyncio
import json
import sys
from pathlib import Path

from cmesh.node.node import Node, NodeOptions

__all__ = ["UP_LIMIT_S"]

UP_LIMIT_S = 30.0


def main() -> None:
    """Run the node until stdin ends."""
    asyncio.run(_run(sys.argv[1], json.loads(sys.stdin.readline())))


async def _run(mode: str, given: dict[str, str]) -> None:
    options = NodeOptions(
        state_dir=Path(given["state_dir"]),
        hostname=given["hostname"],
        control_url=given["control_url"],
        auth_key=given["auth_key"],
        allow_testnet=True,
    )
    async with Node(options) as node:
        status = await node.up(timeout_s=UP_LIMIT_S)
        if mode == "echo":
            # Imported here: the idle process must not carry it.
            from benchmarks.link_echo import serve

            await serve(node, status.node_id)
        if mode == "sink":
            from benchmarks.patches import swallow

            swallowing = asyncio.create_task(swallow(node))
            assert not swallowing.done()
        print(json.dumps({"node_id": status.node_id, "address": status.addresses[0]}), flush=True)
        # Its only thread besides the node's: the loop stays free.
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    main()
