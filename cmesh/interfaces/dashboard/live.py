"""What pages are told as it happens, over restarts of the daemon. Nothing is lost or repeated.

Of a task: its events and states; the browser names the last number it has, and what it was not shown
is asked for from there. Of everything else: that it has changed, since a mark that the browser names.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cmesh.daemon.answers import EventView, TaskView
from cmesh.daemon.arguments import TaskArguments
from cmesh.daemon.changes import ChangesArguments, ChangesView
from cmesh.daemon.event_lines import event_line
from cmesh.errors import QueueFull, UsageError
from cmesh.interfaces.dashboard.daemon import AWAY, Daemon, Work
from cmesh.interfaces.dashboard.page import CHANGES, Sent, area_of, streamed
from cmesh.interfaces.dashboard.shown import event_kind
from cmesh.model import ENDED, TaskState

__all__ = ["ROUTE", "changed", "follow", "merged", "shown_event"]

WAIT_S = 15.0
"""How long a call waits for news; after it the browser gets a sign of life."""

CHANGE_WAIT_S = 40.0
"""After which pages look again although nothing was told, for what only time changes."""

CHANGED_EVERY_S = 1.0
"""A change after a quiet moment is told at once; of more, however many, one in this time."""

MARK_CHARACTERS = 64
PAGE_EVENTS = 200
LINE_CHARACTERS = 1_000
AWAY_PAUSE_S = 0.2

_V = TypeVar("_V")


async def follow(
    daemon: Daemon, task_id: str, *, after: int, state: TaskState
) -> AsyncGenerator[Sent]:
    """Yield what happens to a task after an event and a state, until it has ended.

    `daemon` is this stream's own connection, closed in the end.
    """
    seen, known = after, state

    def asked() -> Work[TaskView]:
        arguments = TaskArguments(
            task_id=task_id,
            wait_s=WAIT_S,
            after_event=seen,
            events=PAGE_EVENTS,
            known_state=known,
        )
        return lambda client: client.get_task(arguments)

    async with aclosing(_answers(daemon, asked)) as answers:
        async for view in answers:
            if isinstance(view, Sent):
                yield view
                continue
            for event in view.events:
                yield Sent(event="line", data=shown_event(event), number=str(event.seq))
                seen = event.seq
            if view.state != known:
                yield Sent(event="state", data={"state": view.state.value})
            elif not view.events:
                yield Sent(event="alive", data={})
            known = view.state
            if _over(view, seen):
                yield Sent(event="end", data={"state": view.state.value})
                return


async def changed(daemon: Daemon, since: str) -> AsyncGenerator[Sent]:
    """Yield that something has changed since a mark, each time with the new mark.

    `daemon` is this stream's own connection, closed in the end.
    """
    mark = since

    def asked() -> Work[ChangesView]:
        arguments = ChangesArguments(since=mark, wait_s=CHANGE_WAIT_S)
        return lambda client: client.changes(arguments)

    async with aclosing(_answers(daemon, asked)) as answers:
        async for view in answers:
            if isinstance(view, Sent):
                yield view
                continue
            mark = view.mark
            yield Sent(event="changed", data={"mark": mark}, number=mark)
            await asyncio.sleep(CHANGED_EVERY_S)


async def merged(first: AsyncGenerator[Sent], other: AsyncGenerator[Sent]) -> AsyncGenerator[Sent]:
    """Yield what two streams have, as it comes, until one has ended.

    One stream for a page, since a browser opens six connections to an address and no more. Of the
    other only changes, which have no number here: a number is one of the first.
    """
    nexts = {stream: asyncio.create_task(_next(stream)) for stream in (first, other)}
    try:
        while True:
            await asyncio.wait(nexts.values(), return_when=asyncio.FIRST_COMPLETED)
            for stream, task in list(nexts.items()):
                if not task.done():
                    continue
                one = task.result()
                if one is None:
                    return
                nexts[stream] = asyncio.create_task(_next(stream))
                if stream is first:
                    yield one
                elif one.event == "changed":
                    yield Sent(event=one.event, data=one.data)
    finally:
        for task in nexts.values():
            task.cancel()
        await asyncio.gather(*nexts.values(), return_exceptions=True)
        await first.aclose()
        await other.aclose()


async def _next(stream: AsyncGenerator[Sent]) -> Sent | None:
    return await anext(stream, None)


def shown_event(event: EventView) -> dict[str, object]:
    """Return an event as a row of the list shows it."""
    return {
        "seq": event.seq,
        "at": event.ts.isoformat(),
        "kind": event_kind(event.kind),
        "line": event_line(event, LINE_CHARACTERS),
    }


async def _answers(daemon: Daemon, asked: Callable[[], Work[_V]]) -> AsyncGenerator[_V | Sent]:
    """Yield the daemon's answer to one question after another, and that it is away or back."""
    away = False
    try:
        while not daemon.closed:
            try:
                view = await daemon.call(asked(), away_s=0)
            except (*AWAY, QueueFull):
                if not away:
                    yield Sent(event="away", data={"away": True})
                away = True
                await asyncio.sleep(AWAY_PAUSE_S)
                continue
            if away:
                yield Sent(event="away", data={"away": False})
            away = False
            yield view
    finally:
        await daemon.close()


def _over(view: TaskView, seen: int) -> bool:
    """Say whether nothing comes any more; of what is missing then, nothing is kept."""
    return view.state in ENDED and (seen >= view.last_event or not view.events)


async def _changes(request: Request) -> Response:
    """Stream changes after the last one that the browser was told."""
    since = request.headers.get("last-event-id") or request.query_params.get("since", "")
    if len(since) > MARK_CHARACTERS:
        raise UsageError("a stream begins after a mark that was given before")
    return streamed(changed(area_of(request).daemon.another(), since))


ROUTE = Route(CHANGES, _changes)
