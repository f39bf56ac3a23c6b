from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from cmesh.sandbox.tier import Enforcement
from tests.fakes.half import Half, StillClock, connect

OWN_NETWORK = Enforcement(landlock_abi=7, bwrap=True, seccomp=True, netns=True)
"""What can hold a `query` of an agent."""


def agent_config(half: Half, base_url: str = "", version: str = "2.1.330") -> str:
    """Return a worker's configuration that lets friends ask an agent, or a command, for a look.

    The agent is a program that says its version and does nothing else.
    """
    program = half.base / "agent"
    program.write_text(f"#!/bin/sh\necho {version} '(Claude Code)'\n", "utf-8")
    program.chmod(0o755)
    key_file = half.base / "agent.key"
    key_file.write_text("sk-test-0000", "utf-8")
    key_file.chmod(0o600)
    return f"""
[sandbox]
accept_tier2_network = true
[commands.x]
argv = ["/bin/true"]
[runners.claude]
program = "{program}"
key_file = "{key_file}"
{f'base_url = "{base_url}"' if base_url else ""}
[[inbound.allow]]
name = "friends may look"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["query"]
runners = ["command:x", "claude"]
paths = ["{half.place}"]
"""


class Pair:
    """`asker` asks, `doer` works."""

    def __init__(self, base: Path) -> None:
        self.clock = StillClock()
        self.asker = Half("asker", base, self.clock)
        self.doer = Half("doer", base, self.clock)

    async def connect(self) -> None:
        await connect(self.asker, self.doer)


class MakePair(Protocol):
    async def __call__(self, *, linked: bool = True) -> Pair: ...


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Both halves run; a test connects them."""
    made = Pair(tmp_path)
    halves = (made.asker, made.doer)
    for half in halves:
        await half.start()
    made.asker.known[made.doer.node_id] = made.doer.identity
    made.doer.known[made.asker.node_id] = made.asker.identity
    yield made
    for half in halves:
        await half.stop()
