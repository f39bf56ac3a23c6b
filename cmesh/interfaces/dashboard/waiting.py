"""What waits for a person's word as a page shows it, and what a word is bound to. Pure."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from cmesh.daemon.answers import TaskView
from cmesh.interfaces.dashboard.shown import duration
from cmesh.text import reveal

__all__ = ["CHANGED", "PAGE_CHARACTERS", "Waiting", "became", "digest_of", "fitting", "waiting"]

CHANGED = (
    "What it would start is not what this page showed any more, so your yes was not taken. "
    "Look again."
)

PAGE_CHARACTERS = 2_000_000
"""Of prompts on one page, each of which is whole: one has 2,000,000 at most, and most have few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A task that waits for this machine's owner.

    Attributes:
        digest: of all that is shown of it; a yes is to exactly that.
        prompt: all that it asks.
        facts: what a yes starts and what comes with it, a name and a value each.
        obstacle: why it cannot start as things are; empty = nothing known.
    """

    task: TaskView
    digest: str
    prompt: str
    facts: Sequence[tuple[str, str]]
    obstacle: str = ""


def waiting(task: TaskView) -> Waiting:
    """Return a waiting task with what a yes to it would start."""
    will = task.will_run
    facts: list[tuple[str, str]] = []
    if will is not None:
        runtime = duration(will.runtime_s) if will.runtime_s else ""
        facts = [
            ("Command", shlex.join(will.argv)),
            ("In", will.directory),
            ("Profile", will.profile),
            ("Narrowed", "\n".join(will.narrowed)),
            ("With changes", will.changes),
            ("May read beside it", "\n".join(will.bind_ignored)),
            ("Is told", will.preface),
            ("Answers by", will.answer),
            ("Then runs", shlex.join(will.accept)),
            ("Hands over", "\n".join(will.artifacts)),
            ("At most", runtime),
        ]
    return Waiting(
        task=task,
        digest=digest_of(task),
        prompt=(will.prompt if will else "") or task.prompt,
        facts=[(name, reveal(value)) for name, value in facts if value],
        obstacle=will.obstacle if will else "what it would start is not known",
    )


def fitting(each: Sequence[Waiting]) -> Sequence[Waiting]:
    """Return the first ones whose prompts a page has room for, at least one."""
    room, found = PAGE_CHARACTERS, list[Waiting]()
    for one in each:
        room -= len(one.prompt)
        if found and room < 0:
            break
        found.append(one)
    return found


def digest_of(task: TaskView) -> str:
    """Return the SHA-256 (hex) over all that a page shows of a waiting task."""
    shown = {
        "task": task.task_id,
        "peer": [task.peer, task.node_id],
        "runner": task.runner,
        "profile": task.profile.value,
        "directory": task.directory,
        "prompt": task.prompt,
        "rule": task.rule,
        "limits": task.limits.model_dump(mode="json"),
        "will_run": task.will_run.model_dump(mode="json") if task.will_run else None,
    }
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def became(rows: Sequence[Sequence[object]]) -> str:
    """Say what became of a task that waits no more, by its row of `ANSWERED`; none = not known."""
    for answer, answered_at, program in rows:
        if answer is None:
            break
        by = f", by {program}" if program else ""
        at = f" at {str(answered_at)[:19]} UTC" if answered_at else ""
        return f"It was {answer}{at}{by}."
    return "It waits for no answer any more."
