"""The process that marks syntax, as pages ask it: begun when one does, ended when it takes too long.

A patch is another machine's text: its author chooses the lexer, by a file's name, and what it gets.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterable, Mapping

from cmesh.interfaces.dashboard.diff import Piece

__all__ = ["COLOURING_S", "Colours"]

COLOURING_S = 2.0
"""After which the rest of a patch stays plain."""

START_LIMIT_S = 10.0
END_LIMIT_S = 2.0
ANSWER_BYTES = 1024 * 1024

_PROGRAM = "cmesh.interfaces.dashboard.colouring"


class Colours:
    """One process for all pages, one page at a time; close it in the end."""

    def __init__(self, limit_s: float = COLOURING_S) -> None:
        self._limit_s = limit_s
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    async def of(self, pieces: Iterable[Piece]) -> Mapping[Piece, list[str]]:
        """Return the lines of pieces as HTML; what is missing stays plain.

        It takes the time limit, once the pages before have had theirs, and up to `START_LIMIT_S`
        more where no process is there.
        """
        found: dict[Piece, list[str]] = {}
        wanted = list(dict.fromkeys(pieces))
        if not wanted:
            return found
        async with self._turn:
            process = await self._begun()
            if process is None:
                return found
            try:
                async with asyncio.timeout(self._limit_s):
                    await _ask(process, wanted, found)
            except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
                await self._end()
            except BaseException:  # the page is gone: its answers must not be taken for another's
                await self._end()
                raise
        return found

    async def close(self) -> None:
        """End the process, and let no other begin; who waits for it gets nothing more."""
        self._closed = True
        await self._end()

    async def _begun(self) -> asyncio.subprocess.Process | None:
        """Return the process once it is ready; None = none can be begun now."""
        if self._process is not None and self._process.returncode is None:
            return self._process
        if self._closed:
            return None
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", _PROGRAM),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=ANSWER_BYTES,
                env={"HOME": "/nonexistent", "LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,  # Ctrl-C at the terminal is the dashboard's to take
            )
            async with asyncio.timeout(START_LIMIT_S):
                await _line(self._process)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            await self._end()
        except BaseException:  # its first line would be taken for the answer to a later piece
            await self._end()
            raise
        if self._closed:
            await self._end()
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_LIMIT_S):
                await process.wait()


async def _ask(
    process: asyncio.subprocess.Process, wanted: list[Piece], found: dict[Piece, list[str]]
) -> None:
    assert process.stdin is not None
    # Not drained: all of it is bounded, and the process may be writing while it is written to.
    process.stdin.writelines(
        json.dumps([name, "\n".join(lines)]).encode() + b"\n" for name, lines in wanted
    )
    for piece in wanted:
        lines = json.loads(await _line(process))
        if isinstance(lines, list):
            found[piece] = lines


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    try:
        return await process.stdout.readuntil(b"\n")
    except asyncio.LimitOverrunError as error:
        raise ValueError("a piece has more marks than a page takes") from error
