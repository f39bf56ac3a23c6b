"""The real daemon on a fake node: a composition root of tests and benchmarks.

It puts the fake in the place of the node class before the daemon is made, so that the product
needs no option for it. Run as `python -m tests.fakes.node_daemon NETMAP LABEL`; the netmap is
`FakeTailnet.dump`.
"""

import sys
from pathlib import Path

from cmesh.daemon import presence
from cmesh.interfaces import serve
from cmesh.node.node import NodeOptions
from tests.fakes.tailnet import FakeNode, FakeTailnet

__all__ = ["main"]


def main(netmap: Path, label: str) -> int:
    """Serve as the real daemon does; `label` is who it is on the tailnet."""
    tailnet = FakeTailnet.load(netmap.read_text("utf-8"))

    def make(options: NodeOptions) -> FakeNode:
        assert options.hostname == label
        return FakeNode(options, tailnet)

    assert hasattr(presence, "Node"), "the product makes its node elsewhere"
    setattr(presence, "Node", make)  # noqa: B010 - pyright knows it as a class
    return serve.main()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
