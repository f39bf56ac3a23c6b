"""The daemon for the chaos suite: the real one, with a clock that jumps and points to die at.

A composition root of the tests: it wraps the product's parts from outside, so that none of
this is in them. `CHAOS_DIR` holds what the harness says: `clock`, seconds to add to the wall
clock; `arm`, the point to die at and how often to pass it before. Dying is SIGKILL to itself,
after `arm` was renamed to `reached`. Run as `python -m tests.chaos.crashing`.
"""

import functools
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from typing_extensions import override

from cmesh.clock import SystemClock
from cmesh.interfaces import serve
from cmesh.link.link import Link
from cmesh.runner import shim
from cmesh.runner.supervise import Supervisor
from cmesh.store import journal
from cmesh.store.head import HeadFile
from cmesh.store.journal import Journal
from cmesh.store.records import EventRecord, Record, ResultRecord, StepRecord, TaskRecord
from cmesh.store.store import Store
from tests.chaos.points import SUPERVISOR_STEPS

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
_Sync = Callable[..., Any]
_Async = Callable[..., Awaitable[Any]]


def main(place: Path, arguments: Sequence[str] = ()) -> int:
    """Serve as the real daemon does; `place` is the harness's directory."""
    point = _Points(place)
    _wrap_parts(point)
    _wrap_disk(point)
    shifted: Any = functools.partial(_ShiftedClock, place / "clock")
    _replace(serve, SystemClock=shifted)
    program = place / "shim.py"
    incoming = place / f".shim.{os.getpid()}"
    incoming.write_text(_SHIM.format(paths=_SHIM_PATHS, place=str(place)), "utf-8")
    incoming.replace(program)  # a daemon that is about to be replaced may read it just now
    shim.__file__ = str(program)
    return serve.main(arguments)


_SHIM_PATHS = [str(ROOT / "tests" / "chaos"), str(ROOT / "cmesh" / "runner")]
_SHIM = """import sys
sys.path[:0] = {paths!r}
import crashing_shim
sys.exit(crashing_shim.main({place!r}))
"""


class _ShiftedClock(SystemClock):
    """The machine's clock, and what the harness adds to it; the monotonic one stays."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @override
    def now(self) -> datetime:
        try:
            shift = timedelta(seconds=float(self._file.read_text("ascii")))
        except FileNotFoundError:
            shift = timedelta()
        return datetime.now(UTC) + shift


class _Points:
    """Dies at the armed point."""

    def __init__(self, place: Path) -> None:
        self._arm, self._reached = place / "arm", place / "reached"

    def __call__(self, name: str) -> None:
        """Say that `name` is passed; does not return when it is the armed one's turn."""
        if self.is_due(name):
            os.kill(os.getpid(), signal.SIGKILL)

    def is_due(self, name: str) -> bool:
        """Return whether to die here; True once."""
        try:
            armed = json.loads(self._arm.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        if armed["point"] != name:
            return False
        if armed["skip"] > 0:
            left = self._arm.with_suffix(".new")
            left.write_text(json.dumps({"point": name, "skip": armed["skip"] - 1}), "utf-8")
            left.replace(self._arm)
            return False
        try:
            self._arm.rename(self._reached)
        except FileNotFoundError:
            return False
        return True


def _wrap_parts(point: _Points) -> None:
    commit = Store.commit

    async def committed(store: Store, records: Sequence[Record]) -> int:
        names = sorted({name for record in records if (name := _name(record))})
        for name in names:
            point(f"before commit {name}")
        number = await commit(store, records)
        for name in names:
            point(f"after commit {name}")
        return number

    _replace(Store, commit=committed)
    for name in SUPERVISOR_STEPS:
        method = getattr(Supervisor, name)
        wrapped = _awaited(method, name, point) if name == "spawn" else _called(method, name, point)
        _replace(Supervisor, **{name: wrapped})
    post, send = Link.post, Link.send

    def posted(link: Link, message: Any) -> None:
        point(f"before send {message.type}")
        post(link, message)
        point(f"after send {message.type}")

    async def sent(link: Link, message: Any) -> None:
        name = getattr(message, "type", "chunk")
        point(f"before send {name}")
        await send(link, message)
        point(f"after send {name}")

    _replace(Link, post=posted, send=sent)


def _wrap_disk(point: _Points) -> None:
    Journal.append = _called(Journal.append, "journal", point)
    HeadFile.write = _called(HeadFile.write, "head", point)
    write_all: _Sync = vars(journal)["_write_all"]

    def torn(fd: int, data: bytes, at: int) -> None:
        if point.is_due("mid journal"):
            write_all(fd, data[: len(data) // 2], at)
            os.kill(os.getpid(), signal.SIGKILL)
        write_all(fd, data, at)

    _replace(journal, _write_all=torn)


def _replace(owner: Any, **parts: Any) -> None:
    """Put `parts` in the place of a class's or a module's own; each must be there."""
    for name, part in parts.items():
        assert hasattr(owner, name), f"the product has no `{name}` any more"
        setattr(owner, name, part)


def _called(function: _Sync, name: str, point: _Points) -> Any:
    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        point(f"before {name}")
        answer = function(*arguments, **named)
        point(f"after {name}")
        return answer

    return wrapped


def _awaited(function: _Async, name: str, point: _Points) -> Any:
    @functools.wraps(function)
    async def wrapped(*arguments: Any, **named: Any) -> Any:
        point(f"before {name}")
        answer = await function(*arguments, **named)
        point(f"after {name}")
        return answer

    return wrapped


def _name(record: Record) -> str:
    """Return what a commit with this record is called; empty for what is no point."""
    match record:
        case TaskRecord():
            return f"{record.direction.value} task"
        case StepRecord():
            return f"{record.direction.value} {record.kind} {record.name}"
        case EventRecord():
            return f"{record.direction.value} event"
        case ResultRecord():
            return f"{record.direction.value} result"
        case _:
            return ""


if __name__ == "__main__":
    sys.exit(main(Path(os.environ["CHAOS_DIR"]), sys.argv[1:]))
