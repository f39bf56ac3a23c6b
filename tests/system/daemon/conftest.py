"""Two machines on one test tailnet, `laptop` that asks and `builder` that works."""

import asyncio
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest

from cmesh.node.testnet import Testnet
from tests.system.daemon.machine import Machine, consent, worker_user

OUTBOUND = """
[[outbound.allow]]
name = "ask the builder"
peers = ["user:me@example.com"]
profiles = ["query", "edit", "build", "full"]
"""


COMMANDS: dict[str, tuple[str, ...]] = {
    "cat": ("/bin/cat",),
    "true": ("/bin/true",),
    "fail": ("/bin/sh", "-c", "echo went wrong >&2; exit 3"),
    "sleep": ("/bin/sleep", "300"),
    "stubborn": (
        "/bin/sh",
        "-c",
        "trap '' TERM; setsid sleep 300 & echo ready; while :; do sleep 1; done",
    ),
    "held": ("/bin/sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.05; done; rm go; echo two"),
    "flood": ("/bin/sh", "-c", "yes flood | head -c 40000000"),
}


class MakeMachine(Protocol):
    async def __call__(
        self, name: str, text: str = "", *, user: pwd.struct_passwd | None = None
    ) -> Machine: ...


def inbound(directory: Path, runners: list[str], more: str = "") -> str:
    """Return a rule that lets the laptop run `runners` in `directory`."""
    names = ", ".join(f'"{name}"' for name in runners)
    return f"""
[[inbound.allow]]
name = "the laptop may work here"
peers = ["user:me@example.com"]
operations = ["task", "follow_up"]
profiles = ["full"]
runners = [{names}]
paths = ["{directory}"]
{consent()}
{more}
"""


def command(name: str, *argv: str) -> str:
    """Return the table of one command runner."""
    words = ", ".join(f'"{word}"' for word in argv)
    return f"[commands.{name}]\nargv = [{words}]\n"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    """Return a directory that every user can reach, with a short path for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="cmesh-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
async def testnet() -> AsyncIterator[Testnet]:
    async with Testnet() as running:
        yield running


@pytest.fixture
async def make_machine(ground: Path, testnet: Testnet) -> AsyncIterator[MakeMachine]:
    """Make machines that end with the test; names are unique within a module."""
    async with AsyncExitStack() as stack:

        async def make(
            name: str, text: str = "", *, user: pwd.struct_passwd | None = None
        ) -> Machine:
            assert not (ground / name).exists(), f"a test of this module left a `{name}`"
            machine = Machine(name, ground, testnet, user or worker_user())
            stack.push_async_callback(machine.stop)
            await machine.configure(text)
            return machine

        yield make


@pytest.fixture(scope="module")
async def pair(ground: Path, testnet: Testnet) -> AsyncIterator[tuple[Machine, Machine]]:
    """Return laptop and builder, up, the laptop trusted, with a few commands."""
    place = ground / "builder" / "app"
    text = "".join(command(name, *argv) for name, argv in COMMANDS.items())
    rule = inbound(place, [f"command:{name}" for name in COMMANDS])
    laptop = Machine("laptop", ground, testnet, worker_user())
    builder = Machine("builder", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, lines in ((laptop, OUTBOUND), (builder, text + rule)):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        builder.directory("app")
        await asyncio.gather(builder.up(), laptop.up())
        await laptop.delegate("builder", "command:true", place)
        await builder.trust(laptop)
        yield laptop, builder
