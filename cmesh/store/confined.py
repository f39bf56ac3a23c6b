"""One confined process for what nobody vouches for: started, asked, ended.

Users' SQL runs in one, other machines' files are read in one. On Linux this project's own
sandbox is around it: one directory to read and nothing else, no network, a filter of system
calls. Where there is no sandbox, limits of the operating system are, and a query's answer says
so. Nothing here knows SQL or files.
"""

import asyncio
import contextlib
import importlib.util
import itertools
import json
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from cmesh.errors import CmeshError, QueryRefused
from cmesh.paths import ensure_private_dir
from cmesh.sandbox.plan import interpreter, plan
from cmesh.sandbox.probe import find_enforcement
from cmesh.sandbox.profile import SandboxSpec
from cmesh.sandbox.start import start
from cmesh.sandbox.tier import NO_SANDBOX, Enforcement
from cmesh.store.snapshot import discard
from cmesh.text import one_line

__all__ = ["LESS", "QUERY", "Confined", "Confinement", "Program", "QueryLimits", "refused_untold"]

_log = logging.getLogger(__name__)

MIB = 1024**2

LESS = "ask for less: fewer rows, a shorter time, an aggregate"
"""What helps who reached a limit."""

_HEADER = struct.Struct(">I")
_NUMBERS = itertools.count(1)
_SHOWN_AT = "/snapshot"
"""Where the copy is seen below bubblewrap, so that a query cannot tell where it really lies."""

_ENVIRONMENT = {"HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
_MODULES = ("_duckdb", "pytz")
_MAIN = Path(__file__).with_name("confined_main.py")
_SIGNALLED = 128  # what bubblewrap and shells add to the number of a signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A work for `confined_main.py`: a file that imports the standard library alone.

    Attributes:
        name: begins the names of its directories.
        work: what it does, as it is told of a limit.
    """

    file: Path
    name: str
    work: str


QUERY = Program(file=Path(__file__).with_name("query_worker.py"), name="query", work="the query")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLimits:
    """What a query may take. Who asks is told which of them it reached.

    Attributes:
        engine_s: then the engine ends it; what the engine does not notice ends with `wall_s`.
        wall_s: then its process is killed.
        cpu_s: of processor time, likewise.
        memory_bytes: the engine's own; it counts no single value that is being made.
        data_bytes: of all that its process may write to, such a value as well.
        address_bytes: of addresses, files and libraries included.
        answer_bytes: of rows as JSON; the rest is cut.
        file_bytes: of a file that it may write in its own `scratch`; 0 = it writes nothing.
        start_s: for a process to start and open a copy.
        queue_s: how long to wait for the queries before.
        idle_s: then the processes end and the copies go.
    """

    engine_s: float = 5.0
    wall_s: float = 8.0
    cpu_s: int = 10
    memory_bytes: int = 256 * MIB
    data_bytes: int = 768 * MIB
    address_bytes: int = 3 * 1024 * MIB
    answer_bytes: int = 8 * MIB
    file_bytes: int = 0
    start_s: float = 20.0
    queue_s: float = 30.0
    idle_s: float = 60.0

    def resources(self) -> dict[str, int]:
        """Return the limits of the operating system, by name of RLIMIT_* (getrlimit(2))."""
        sizes = {"AS": self.address_bytes, "DATA": self.data_bytes, "FSIZE": self.file_bytes}
        return {**sizes, "CORE": 0, "NOFILE": 64}

    def reached(self, name: str) -> str:
        """Return what is told of a limit that the query process names."""
        if name == "time":
            return f"the query reached its limit of {self.engine_s:g} s and was ended"
        return f"the query reached its limit of {self.memory_bytes // MIB} MiB of memory"


def refused_untold(what: str, error: object) -> QueryRefused:
    """Return a refusal that says `what`, and leave the error in this node's log alone.

    What is said of it may name paths, and whoever asks may be elsewhere.
    """
    _log.warning("query_failed what=%r error=%s", what, one_line(str(error), 500))
    return QueryRefused(f"{what}; this node's log says why")


class Confined:
    """A process with a directory that it may read; make it with `Confinement.begin`.

    Attributes:
        directory: what it sees; what it is to read is put there before it is told so.
        seen_at: where the process itself finds that directory.
        scratch: where it may write, if its limits let it; found by the same path inside.
        held_by: the sandbox around it in one word, `none` = limits of the operating system alone.
    """

    def __init__(self, place: Path, pid: int, own: socket.socket, held_by: str, work: str) -> None:
        self.directory = place / "store"
        self.scratch = place.resolve() / "tmp"
        self.seen_at = str(self.directory) if held_by == NO_SANDBOX else "."
        self.held_by = held_by
        self._work = work
        self._place = place
        self._pid = pid
        self._own = own
        self._status: asyncio.Future[int] | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._over = False

    async def ask(
        self, message: dict[str, object], *, limit_s: float, limit_bytes: int
    ) -> dict[str, Any]:
        """Return the answer to a message; one at a time. After an error, end the process.

        Raises:
            QueryRefused: there is none, and why: which limit was reached.
        """
        body = json.dumps(message).encode()
        try:
            async with asyncio.timeout(limit_s):
                if self._over:
                    raise QueryRefused(f"the process of {self._work} was ended")
                if self._streams is None:
                    self._streams = await asyncio.open_unix_connection(sock=self._own)
                    if self._over:  # it was ended while they were opened, which did not see them
                        self._streams[1].close()
                        raise QueryRefused(f"the process of {self._work} was ended")
                reader, writer = self._streams
                writer.write(_HEADER.pack(len(body)) + body)
                await writer.drain()
                length = _HEADER.unpack(await reader.readexactly(_HEADER.size))[0]
                if length > limit_bytes:
                    raise QueryRefused(
                        f"the answer is longer than its limit of {limit_bytes} bytes", hint=LESS
                    )
                return cast("dict[str, Any]", json.loads(await reader.readexactly(length)))
        except TimeoutError as error:
            raise QueryRefused(
                f"{self._work} reached its limit of {limit_s:g} s and was ended", hint=LESS
            ) from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise QueryRefused(await self._why_gone(), hint=LESS) from error

    async def end(self) -> None:
        """Kill the process and all it may have started, reap it, remove its directory."""
        self._over = True
        if self._status is None or not self._status.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
        await self._ended()
        if self._streams is None:
            self._own.close()
        else:
            writer = self._streams[1]
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await asyncio.to_thread(discard, self._place)

    async def _ended(self) -> int:
        """Return how the process ended: its exit code, or the negative number of its signal."""
        if self._status is None:
            self._status = asyncio.ensure_future(asyncio.to_thread(_reap, self._pid))
        return await asyncio.shield(self._status)

    async def _why_gone(self) -> str:
        status = await self._ended()
        signalled = -status if status < 0 else status - _SIGNALLED
        if signalled == signal.SIGXCPU:
            return f"{self._work} reached its limit of processor time and was ended"
        return f"{self._work} reached its limit of memory, or broke its process (status {status})"


class Confinement:
    """Where confined processes are made, and what this machine can hold them with.

    Attributes:
        directory: each has a new one below it.
        found: what holds them, looked at once; None = not yet.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.found: Enforcement | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    async def begin(
        self, program: Program, limits: QueryLimits, threads: ThreadPoolExecutor
    ) -> Confined:
        """Start one.

        Args:
            program: what runs in it.
            limits: what it may take.
            threads: one that lives longer than the process, which dies with its thread.

        Raises:
            QueryRefused: it did not start; nothing of it is left.
        """
        if self.found is None:
            self.found = await asyncio.to_thread(find_enforcement)
            if not self.found.tier:
                _log.warning("query_without_sandbox why=%s", self.found.why)
        place = self.directory / f"{program.name}-{next(_NUMBERS)}"
        own, other = socket.socketpair()
        loop = asyncio.get_running_loop()
        try:
            pid = await loop.run_in_executor(
                threads, _start, place, self.found, limits, program, other
            )
        except (OSError, ValueError, CmeshError) as error:
            own.close()
            await asyncio.to_thread(discard, place)
            raise refused_untold(f"the process of {program.work} did not start", error) from error
        finally:
            other.close()
        return Confined(place, pid, own, self.found.label, program.work)

    def let_go(self, starting: asyncio.Task[Confined] | None) -> asyncio.Future[None]:
        """End a process that was begun, or is being begun; return what tells when it has ended.

        In a task of its own: who waits for that may be cancelled, the end may not.
        """
        loop = asyncio.get_running_loop()
        if starting is None:
            done: asyncio.Future[None] = loop.create_future()
            done.set_result(None)
            return done
        task = loop.create_task(_end_begun(starting))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return asyncio.shield(task)

    async def close(self) -> None:
        """Wait until what was let go has ended."""
        if self._leaving:
            await asyncio.wait(self._leaving)


async def _end_begun(starting: asyncio.Task[Confined]) -> None:
    with contextlib.suppress(QueryRefused):  # it did not start, which whoever asked was told
        await (await starting).end()


def _start(
    place: Path, found: Enforcement, limits: QueryLimits, program: Program, end: socket.socket
) -> int:
    """Start the process with `end` as its standard input and output; return its number. Blocks."""
    ensure_private_dir(place.parent)
    place.mkdir(mode=0o700)
    writes = 0o700 if limits.file_bytes else 0o500
    for name, mode in (("store", 0o700), ("home", 0o500), ("tmp", writes)):
        (place / name).mkdir(mode=mode)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        if not found.tier:
            return _start_unheld(limits, program, end.fileno(), null)
        return start(_launch(place, found, limits, program), end.fileno(), end.fileno(), null)
    finally:
        os.close(null)


def _launch(
    place: Path, found: Enforcement, limits: QueryLimits, program: Program
) -> dict[str, Any]:
    where, python = os.path.realpath(place), interpreter()
    mounts = found.tier in {1, 3}
    spec = SandboxSpec(
        directory=_SHOWN_AT if mounts else f"{where}/store",
        copy=f"{where}/store" if mounts else "",
        writes_directory=False,
        home=f"{where}/home",
        tmp=f"{where}/tmp",  # noqa: S108 - its own
        read=(*python.needs, str(_MAIN), str(program.file), *_places()),
        limits=limits.resources(),
    )
    return {
        "argv": [python.program, *_arguments(limits, program, held=True)],
        "cwd": spec.directory,
        "env": _ENVIRONMENT,
        "sandbox": plan(spec, found),
    }


def _start_unheld(limits: QueryLimits, program: Program, end: int, null: int) -> int:
    return os.posix_spawn(
        sys.executable,
        [sys.executable, *_arguments(limits, program, held=False)],
        _ENVIRONMENT,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate((end, end, null))],
        setsid=True,
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD),
    )


def _arguments(limits: QueryLimits, program: Program, *, held: bool) -> Sequence[str]:
    told = {
        "held": held,
        "resources": limits.resources(),
        "cpu_s": limits.cpu_s,
        "engine_ms": round(limits.engine_s * 1000),
        "memory_bytes": limits.memory_bytes,
    }
    return ["-I", "-S", str(_MAIN), json.dumps(told), str(program.file), *_places()]


@cache
def _places() -> tuple[str, ...]:
    """Return the directories that hold what the process imports; none of it is loaded here."""
    found = [importlib.util.find_spec(name) for name in _MODULES]
    origins = [Path(spec.origin).resolve() for spec in found if spec and spec.origin]
    # A package's origin is in its own directory.
    return tuple({str(o.parents[1] if o.stem == "__init__" else o.parent): None for o in origins})


def _reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
