"""One database process as the daemon sees it: start it, ask it, end it.

Nothing here knows what is asked, nor starts a second one.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import cmesh
from cmesh.errors import StoreError
from cmesh.store.exchange import HEADER, Answer, Ask, Opening, pack, unpack

__all__ = ["Child", "Gone", "spawn"]

END_LIMIT_S = 10.0

# The same code as the daemon's, wherever that was imported from, and nothing else of there.
ROOT = Path(cmesh.__file__).parents[1]
_BOOT = """
import sys
sys.path.insert(0, sys.argv[1])
import cmesh
del sys.path[0]
from cmesh.store.database_worker import main
main(int(sys.argv[2]))
"""


async def spawn(*arguments: str) -> asyncio.subprocess.Process:
    """Start this interpreter for a process that uses DuckDB: two pipes, nothing of the user's.

    Raises:
        OSError: it cannot be started.
    """
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # DuckDB's words may hold rows; what matters of them is in the answers.
        stderr=asyncio.subprocess.DEVNULL,
        # DuckDB would look for secrets and extensions below a home.
        env={"HOME": "/nonexistent", "LC_ALL": "C.UTF-8"},
        cwd="/",
        start_new_session=True,
    )


class Gone(Exception):
    """Raised when there is no answer: the process ended by itself, or is silent for too long."""

    def __init__(self, problem: StoreError, *, by_itself: bool) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.by_itself = by_itself


class Child:
    """A process of `database_worker.py`; make it with `start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> "Child":
        """Start one. It ends when this process does, however that ends.

        Raises:
            StoreError: it cannot be started.
        """
        # Its death signal comes with the end of the *thread* that starts it: the loop's.
        try:
            process = await spawn("-c", _BOOT, str(ROOT), str(os.getpid()))
        except OSError as error:
            raise StoreError(f"the database process did not start: {error.strerror}") from error
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self._process.returncode is None

    async def ask(self, message: Opening | Ask, limit_s: float) -> Answer:
        """Return the answer to a message; one at a time.

        Raises:
            Gone: there is none; `end` it.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            async with asyncio.timeout(limit_s):
                stdin.write(pack(message))
                await stdin.drain()
                length = HEADER.unpack(await stdout.readexactly(HEADER.size))[0]
                answer = unpack(await stdout.readexactly(length))
        except TimeoutError as error:
            problem = StoreError(f"the database has not answered for {limit_s:g} s")
            raise Gone(problem, by_itself=False) from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            status = await self._process.wait()
            problem = StoreError(f"the database process ended (status {status})")
            raise Gone(problem, by_itself=True) from error
        assert isinstance(answer, Answer)
        return answer

    async def ended(self) -> None:
        """Wait until it has ended by itself, or end it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_LIMIT_S):
                await self._process.wait()
        await self.end()

    async def end(self) -> None:
        """Kill it and reap it: only then may another one be started."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        # The pipes' transports close only when the loop next looks at them.
        if self._process.stdin is not None:
            self._process.stdin.close()
            with contextlib.suppress(ConnectionError):
                await self._process.stdin.wait_closed()
