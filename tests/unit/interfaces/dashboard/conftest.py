"""A dashboard over the fake daemon's control socket, and a browser that is signed in to it."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from cmesh.clock import SystemClock
from cmesh.interfaces.control import ControlServer
from cmesh.interfaces.dashboard.app import create_app
from cmesh.interfaces.dashboard.colours import Colours
from cmesh.interfaces.dashboard.daemon import Daemon
from cmesh.interfaces.dashboard.guard import Guard
from cmesh.interfaces.dashboard.sign_in import SignIn
from cmesh.paths import control_socket

PORT = 7341
ORIGIN = f"http://127.0.0.1:{PORT}"


class Browser:
    """Asks as a browser does: with an origin for forms, and links below the pages' root."""

    def __init__(self, client: httpx2.AsyncClient, base: str) -> None:
        self.client = client
        self.base = base

    async def get(self, path: str, **more: str) -> httpx2.Response:
        return await self.client.get(self.base + path, headers=more)

    async def post(self, path: str, **fields: str) -> httpx2.Response:
        return await self.client.post(self.base + path, data=fields, headers={"Origin": ORIGIN})


@pytest.fixture
def sign_in() -> SignIn:
    return SignIn()


@pytest.fixture
async def daemon(state: Path, server: ControlServer) -> AsyncIterator[Daemon]:
    del server
    daemon = Daemon(control_socket(state), SystemClock())
    yield daemon
    await daemon.close()


@pytest.fixture
async def colours() -> AsyncIterator[Colours]:
    colours = Colours()
    yield colours
    await colours.close()


@pytest.fixture
def dashboard(daemon: Daemon, colours: Colours, sign_in: SignIn) -> Guard:
    return create_app(daemon, colours, sign_in, SystemClock(), PORT)


@pytest.fixture
async def stranger(dashboard: Guard) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a browser that is not signed in."""
    transport = httpx2.ASGITransport(dashboard)
    async with httpx2.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield client


@pytest.fixture
async def browser(stranger: httpx2.AsyncClient, dashboard: Guard, sign_in: SignIn) -> Browser:
    code = sign_in.link(SystemClock().monotonic())
    answer = await stranger.post("/sign-in", data={"code": code}, headers={"Origin": ORIGIN})
    assert answer.status_code == 303
    return Browser(stranger, dashboard.base)
