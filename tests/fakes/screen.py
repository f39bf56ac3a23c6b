"""A person at `cmesh watch`: presses keys, and reads what stands on the screen of 80 x 24.

As a program it does so for a test that is another user: JSON lines in, `{"press": "a"}` or
`{"until": "running"}`, each answered by a line with the screen once it is so.
"""

# pyright: reportPrivateUsage=false

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.app import App
from textual.events import Key
from textual.keys import _character_to_key
from textual.pilot import Pilot
from textual.widgets import Input

from cmesh.clock import SystemClock
from cmesh.interfaces.cli.watching.app import WatchApp
from cmesh.interfaces.cli.watching.screens import Question
from cmesh.interfaces.cli.watching.source import Watcher
from cmesh.paths import control_socket

__all__ = ["asked", "press", "screen", "until", "watching"]

LIMIT_S = 20.0
SIZE = (80, 24)
_NAMES = {"\r": "enter", "\x1b": "escape", " ": "space"}


@asynccontextmanager
async def watching(socket: Path, **more: Any) -> AsyncGenerator[tuple[WatchApp, Pilot[None]]]:
    """Watch the daemon behind a control socket, until it has been looked at."""
    app = WatchApp(Watcher(socket, SystemClock(), limit_s=None), **more)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await until(pilot, lambda: " link" in screen(app))
        yield app, pilot


def screen(app: App[None]) -> str:
    """Return what stands on the screen."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def press(app: App[None], keys: str) -> None:
    """Press the keys of a text, with `\\r` for Enter and `\\x1b` for Esc, as a driver does.

    The pilot's own press waits after each key for a processor that has nothing to do.
    """
    for key in keys:
        app.post_message(Key(_NAMES.get(key) or _character_to_key(key), key))


async def until(pilot: Pilot[None], check: Callable[[], Any]) -> None:
    """Wait until it is so; else fail with the screen."""
    try:
        async with asyncio.timeout(LIMIT_S):
            while not check():
                await pilot.pause(0.01)
    except TimeoutError:
        raise AssertionError(screen(pilot.app)) from None


async def asked(pilot: Pilot[None]) -> None:
    """Wait until a question takes a line."""
    app = pilot.app
    await until(
        pilot,
        lambda: (
            isinstance(app.screen, Question)
            and isinstance(app.screen.focused, Input)
            and "Esc" in screen(app)
        ),
    )


async def _serve(state: Path) -> None:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    said = sys.stdout
    async with watching(control_socket(state)) as (app, pilot):
        while line := await reader.readline():
            await _obey(app, pilot, json.loads(line))
            said.write(json.dumps(screen(app)) + "\n")
            said.flush()


async def _obey(app: WatchApp, pilot: Pilot[None], order: dict[str, str]) -> None:
    if "press" in order:
        press(app, order["press"])
    elif "answer" in order:
        await asked(pilot)
        press(app, order["answer"])
    else:
        await until(pilot, lambda: order["until"] in screen(app))


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
