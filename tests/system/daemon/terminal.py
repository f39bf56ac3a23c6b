"""A terminal of a machine at which a person runs a command, reads what it says, and types."""

import asyncio
import contextlib
import os
import pty
import subprocess
from collections.abc import AsyncGenerator
from typing import Any

from tests.system.daemon.machine import END_LIMIT_S, ROOT, Machine, as_user

__all__ = ["Terminal", "at_terminal"]


LIMIT_S = 20.0


class Terminal:
    """A running command; `said` is all that it has written."""

    def __init__(self, process: "subprocess.Popen[Any]", fd: int) -> None:
        self.said = ""
        self._process = process
        self._fd = fd
        self._news = asyncio.Event()
        self._over = False
        asyncio.get_running_loop().add_reader(fd, self._read)

    async def until(self, text: str) -> str:
        """Wait until `text` was said after what was read up to now; return that part, and on."""
        await self._hears(text)
        _, found, rest = self.said.partition(text)
        self.said = rest
        return found + rest

    async def _hears(self, text: str) -> None:
        try:
            async with asyncio.timeout(LIMIT_S):
                while text not in self.said:
                    assert not self._over, self.said
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"nobody said {text!r}: {self.said}") from None

    async def screen_until(self, text: str) -> str:
        """Wait until `text` was said after what was read up to now; return all of that, and on."""
        await self._hears(text)
        return self.said

    async def code(self) -> str:
        """Wait for the code that is shown."""
        await self.until("type this code:")
        await self.until("    ")
        async with asyncio.timeout(END_LIMIT_S):
            while "\n" not in self.said:
                self._news.clear()
                await self._news.wait()
        return self.said.partition("\n")[0].strip()

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._fd, f"{line}\n".encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._fd, b"\x03")

    def close(self) -> None:
        """Close the window; the command hears of it by SIGHUP."""
        if not self._over:
            self._stop()
            os.close(self._fd)
        self._process.wait(END_LIMIT_S)

    async def end(self) -> tuple[int, str]:
        """Wait for the command's end; its status and what it has said since."""
        status = await asyncio.to_thread(self._process.wait, END_LIMIT_S)
        async with asyncio.timeout(END_LIMIT_S):
            while not self._over:
                self._news.clear()
                await self._news.wait()
        return status, self.said

    def _stop(self) -> None:
        self._over = True
        asyncio.get_running_loop().remove_reader(self._fd)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65_536)
        except OSError:  # EIO: nobody has the other end any more
            data = b""
        if not data:
            self._stop()
            os.close(self._fd)
        self.said += data.decode().replace("\r\n", "\n")
        self._news.set()


@contextlib.asynccontextmanager
async def at_terminal(machine: Machine, *arguments: str) -> AsyncGenerator[Terminal]:
    """Run the command line at a terminal of its own, as the machine's user."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", *machine.command(*arguments)],
        cwd=ROOT,
        env=machine.environment() | {"TERM": "dumb"},
        stdin=child,
        stdout=child,
        stderr=child,
        **as_user(machine._user),  # pyright: ignore[reportPrivateUsage]
    ) as process:
        os.close(child)
        terminal = Terminal(process, parent)
        try:
            yield terminal
        finally:
            terminal.close()
