"""A task's events and states as they come, over restarts of the daemon. Nothing is lost or repeated.

The browser names the last number it has; what it was not shown is asked for from there.
"""

import asyncio
from collections.abc import AsyncGenerator

from cmesh.daemon.answers import EventView, TaskView
from cmesh.daemon.arguments import TaskArguments
from cmesh.daemon.event_lines import event_line
from cmesh.errors import QueueFull
from cmesh.interfaces.dashboard.daemon import AWAY, Daemon
from cmesh.interfaces.dashboard.page import Sent
from cmesh.interfaces.dashboard.shown import event_kind
from cmesh.model import ENDED, TaskState

__all__ = ["follow", "shown_event"]

WAIT_S = 15.0
"""How long a call waits for news; after it the browser gets a sign of life."""

PAGE_EVENTS = 200
LINE_CHARACTERS = 1_000
AWAY_PAUSE_S = 0.2


async def follow(
    daemon: Daemon, task_id: str, *, after: int, state: TaskState
) -> AsyncGenerator[Sent]:
    """Yield what happens to a task after an event and a state, until it has ended.

    `daemon` is this stream's own connection, closed in the end.
    """
    seen, known, away = after, state, False
    try:
        while not daemon.closed:
            try:
                view = await daemon.call(
                    lambda client, seen=seen, known=known: client.get_task(
                        TaskArguments(
                            task_id=task_id,
                            wait_s=WAIT_S,
                            after_event=seen,
                            events=PAGE_EVENTS,
                            known_state=known,
                        )
                    ),
                    away_s=0,
                )
            except (*AWAY, QueueFull):
                if not away:
                    yield Sent(event="away", data={"away": True})
                away = True
                await asyncio.sleep(AWAY_PAUSE_S)
                continue
            if away:
                yield Sent(event="away", data={"away": False})
            away = False
            for event in view.events:
                yield Sent(event="line", data=shown_event(event), number=event.seq)
                seen = event.seq
            if view.state != known:
                yield Sent(event="state", data={"state": view.state.value})
            elif not view.events:
                yield Sent(event="alive", data={})
            known = view.state
            if _over(view, seen):
                yield Sent(event="end", data={"state": view.state.value})
                return
    finally:
        await daemon.close()


def shown_event(event: EventView) -> dict[str, object]:
    """Return an event as a row of the list shows it."""
    return {
        "seq": event.seq,
        "at": event.ts.isoformat(),
        "kind": event_kind(event.kind),
        "line": event_line(event, LINE_CHARACTERS),
    }


def _over(view: TaskView, seen: int) -> bool:
    """Say whether nothing comes any more; of what is missing then, nothing is kept."""
    return view.state in ENDED and (seen >= view.last_event or not view.events)
