"""Daemons killed and replaced under long sessions of real agents; what the sessions noticed.

Each disturbance is felt by every session. A call that was open may be answered
`daemon_restarted`, with what to call next; every other call must work.
"""

import asyncio
import contextlib
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as kept
from pathlib import Path
from typing import Any

from cmesh.errors import CmeshError
from cmesh.interfaces.start import wait_gone
from cmesh.node.testnet import Testnet
from tests.chaos.agent_session import AgentSession, Answer
from tests.system.daemon.conftest import OUTBOUND, inbound
from tests.system.daemon.machine import END_LIMIT_S, eventually
from tests.system.daemon.processes import daemons_of
from tests.system.daemon.versions import Installed, here_version

__all__ = ["KINDS", "Field", "Rounds", "field_of", "plan"]

NOTE = 'read n s; echo "$n" >> starts; sleep "$s"; echo "done $n"'
RUNNER = "command:note"
WAIT_S = 40
OPEN_S = 1.0
"""How long the task of a call runs that is open while the daemon is killed."""

HANDS_OVER = b"hands over"
REPLACE_LIMIT_S = 300.0
TOLD = ("daemon_restarted", "daemon_restarting")
P95 = 0.95


@dataclass(slots=True)
class Field:
    """`laptop`, whose agents call, and `builder`, which works in `place`."""

    laptop: Installed
    builder: Installed
    place: Path
    prompts: list[str] = kept(default_factory=list[str])

    def order(
        self, seconds: float = 0.0, more: Mapping[str, object] | None = None
    ) -> dict[str, object]:
        """Return the arguments of one more `delegate`."""
        name = f"n{len(self.prompts)}"
        self.prompts.append(name)
        return {
            "peer": "builder",
            "prompt": f"{name} {seconds}",
            "directory": str(self.place),
            "runner": RUNNER,
            "profile": "full",
            "wait_s": WAIT_S,
            **(more or {}),
        }

    def faults(self) -> list[str]:
        """Hold what was asked for against what the program noted: each once."""
        noted = Counter((self.place / "starts").read_text("utf-8").split())
        lost = [f"{name} was never started" for name in self.prompts if not noted[name]]
        return lost + [
            f"{name} started {times} times" for name, times in noted.items() if times > 1
        ]


@contextlib.asynccontextmanager
async def field_of(ground: Path, testnet: Testnet) -> AsyncGenerator[Field]:
    """Make both machines below `ground`, up, the laptop trusted; each started by `cmesh up`."""
    version = here_version(ground)
    place = ground / "builder" / "app"
    laptop = Installed("laptop", ground, testnet, version)
    builder = Installed("builder", ground, testnet, version)
    worker = "[worker]\nallow_root = true\nsubmits_per_minute = 1000000\n"
    text = f"{worker}[commands.note]\nargv = ['/bin/sh', '-c', '''{NOTE}''']\n"
    async with contextlib.AsyncExitStack() as stack:
        for machine, lines in ((laptop, OUTBOUND), (builder, text + inbound(place, [RUNNER]))):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        builder.directory("app")
        await asyncio.gather(laptop.up(), builder.up())
        made = Field(laptop, builder, place)
        first = await laptop.delegate("builder", RUNNER, place, prompt="first 0")
        await builder.trust(laptop)
        await laptop.ended(first.task_id)
        yield made


@dataclass(slots=True)
class Rounds:
    """Disturbs, lets the sessions call, and keeps what came of it.

    Attributes:
        done: how often each kind was played.
        told: open calls that were answered with the call to repeat.
        gaps: (kind, session, tool) -> seconds from the disturbance to the answer of the call
            that was made at once, its repetition included.
        idle: (session, tool) -> seconds of calls that nothing disturbed.
    """

    field: Field
    sessions: Sequence[AgentSession]
    chance: random.Random
    done: Counter[str] = kept(default_factory=Counter[str])
    told: int = 0
    failed: list[str] = kept(default_factory=list[str])
    gaps: dict[tuple[str, str, str], list[float]] = kept(
        default_factory=dict[tuple[str, str, str], list[float]]
    )
    idle: dict[tuple[str, str], list[float]] = kept(
        default_factory=dict[tuple[str, str], list[float]]
    )
    _last: dict[str, str] = kept(default_factory=dict[str, str])

    async def calibrate(self, count: int) -> None:
        """Let each session make calls that nothing disturbs."""
        for _ in range(count):
            for session in self.sessions:
                for tool, arguments in (
                    ("delegate", self.field.order()),
                    ("list_tasks", {"limit": 1}),
                ):
                    answer = await session.call(tool, **arguments)
                    self._judge(session, answer, "idle")
                    taken = self.idle.setdefault((session.name, tool), [])
                    taken.append(answer.at - answer.began)

    async def play(self, kind: str) -> None:
        """Disturb once and let every session go on."""
        await KINDS[kind](self)
        self.done[kind] += 1

    async def kill(self) -> None:
        """Kill the caller's daemon between two calls; the next one comes at once."""
        at = await _kill(self.field.laptop)
        await self._all(lambda session: self._next(session, "kill", at))

    async def kill_and_wait(self) -> None:
        """The same; the next call meets a daemon that is just starting."""
        await _kill(self.field.laptop)
        await asyncio.sleep(self.chance.uniform(0.05, 2))
        await self._all(lambda session: self._next(session, "kill_and_wait", None))

    async def kill_open(self) -> None:
        """Kill the daemon while a call is open; the next one repeats it as it is told to."""
        orders = [self.field.order(OPEN_S) for _ in self.sessions]
        numbers = [s.begin("delegate", **o) for s, o in zip(self.sessions, orders, strict=True)]
        await asyncio.sleep(self.chance.uniform(0, OPEN_S))
        at = await _kill(self.field.laptop)

        async def go_on(session: AgentSession) -> None:
            place = list(self.sessions).index(session)
            answer = await session.answer(numbers[place])
            await self._repeat(session, answer, orders[place], "kill_open", at)

        await self._all(go_on)

    async def replace(self) -> None:
        """Replace the caller's daemon; the next call comes as the old one hands over."""
        await self._replaced(self.field.laptop, "replace", {})

    async def worker_kill(self) -> None:
        """Kill the worker's daemon, which somebody starts again; the task waits for it."""
        at = await _kill(self.field.builder)
        again = asyncio.create_task(self.field.builder.up())
        more: dict[str, object] = {"if_offline": "queue"}
        await self._all(lambda session: self._delegate(session, "worker_kill", at, more))
        await again

    async def worker_replace(self) -> None:
        """Replace the worker's daemon."""
        await self._replaced(self.field.builder, "worker_replace", {"if_offline": "queue"})

    async def _replaced(self, machine: Installed, kind: str, more: dict[str, object]) -> None:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *machine.command("up", "--replace", "--json"),
            cwd="/",
            env=machine.environment(),
            stdout=pipe,
            stderr=pipe,
        )
        assert process.stderr is not None
        async with asyncio.timeout(REPLACE_LIMIT_S):
            words = b""
            while line := await process.stderr.readline():
                words += line
                if HANDS_OVER in line:
                    break
            at = time.monotonic()
            if more:
                await self._all(lambda session: self._delegate(session, kind, at, more))
            else:
                await self._all(lambda session: self._next(session, kind, at))
            out, err = await process.communicate()
        if process.returncode:
            self.failed.append(f"{kind}: {(words + out + err).decode()}")

    async def _all(self, work: Callable[[AgentSession], Awaitable[None]]) -> None:
        await asyncio.gather(*(work(session) for session in self.sessions))

    async def _next(self, session: AgentSession, kind: str, at: float | None) -> None:
        """Let a session make the next call of its conversation, whichever."""
        last = self._last.get(session.name)
        tool = self.chance.choice(
            ("delegate", "delegate", "list_tasks", "list_peers", "get_result")
        )
        if tool == "delegate" or (tool == "get_result" and last is None):
            await self._delegate(session, kind, at, {})
            return
        of_last: dict[str, object] = {"task_id": last}
        known: dict[str, dict[str, object]] = {"get_result": of_last, "list_tasks": {"limit": 1}}
        arguments = known.get(tool, {})
        answer = await session.call(tool, **arguments)
        await self._repeat(session, answer, arguments, kind, at)

    async def _delegate(
        self, session: AgentSession, kind: str, at: float | None, more: dict[str, object]
    ) -> None:
        order = self.field.order(more=more)
        answer = await session.call("delegate", **order)
        await self._repeat(session, answer, order, kind, at)

    async def _repeat(
        self,
        session: AgentSession,
        answer: Answer,
        arguments: dict[str, object],
        kind: str,
        at: float | None,
    ) -> None:
        """Judge an answer; a call that was cut off is made once more, as its answer says."""
        # After a kill nobody is left who could cut off what is called then.
        if answer.error in TOLD and kind not in ("kill", "kill_and_wait"):
            self.told += 1
            again = dict(arguments)
            if answer.tool == "delegate":
                again["idempotency_key"] = answer.key
            answer = await session.call(answer.tool, **again)
        self._judge(session, answer, kind)
        if at is not None:
            self.gaps.setdefault((kind, session.name, answer.tool), []).append(answer.at - at)

    def _judge(self, session: AgentSession, answer: Answer, kind: str) -> None:
        fields = answer.fields
        match answer.tool:
            case "delegate":
                works = fields.get("state") == "succeeded"
                if works:
                    self._last[session.name] = str(fields["task_id"])
            case "list_tasks":
                works = bool(fields.get("tasks"))
            case "list_peers":
                works = bool(fields.get("peers"))
            case _:
                works = "done n" in answer.text
        if not works:
            seconds = answer.at - answer.began
            told = f"{session.name}: {answer.tool} after {seconds:.1f} s: {answer.text[:600]}"
            self.failed.append(f"{kind}: {told}")

    async def close(self) -> None:
        """Look whether anything was lost or doubled, and whether one daemon each is left."""
        self.failed += self.field.faults()
        for machine in (self.field.laptop, self.field.builder):
            pids = daemons_of(machine.state)
            if len(pids) != 1:
                self.failed.append(f"{machine.name} has {len(pids)} daemons: {pids}")

    def line(self) -> dict[str, Any]:
        """Return the report."""
        return {
            "kills": sum(self.done[kind] for kind in ("kill", "kill_and_wait", "kill_open")),
            "replaces": self.done["replace"],
            "worker_kills": self.done["worker_kill"],
            "worker_replaces": self.done["worker_replace"],
            "calls": {session.name: session.calls for session in self.sessions},
            "told": self.told,
            "failed": len(self.failed),
            "gap_s": {kind: self._gaps(kind) for kind in KINDS if self._samples(kind)},
            "idle_s": {f"{name} {tool}": _spread(all_) for (name, tool), all_ in self.idle.items()},
        }

    def _gaps(self, kind: str) -> dict[str, object]:
        samples = self._samples(kind)
        by_session = {
            session.name: _spread([s for name, _, s in samples if name == session.name])
            for session in self.sessions
        }
        delegates = [seconds for _, tool, seconds in samples if tool == "delegate"]
        others = [seconds for _, tool, seconds in samples if tool != "delegate"]
        both = {"delegate": _spread(delegates), "other": _spread(others)}
        return {**by_session, **{name: spread for name, spread in both.items() if spread}}

    def _samples(self, kind: str) -> list[tuple[str, str, float]]:
        return [
            (name, tool, seconds)
            for (of_kind, name, tool), all_ in self.gaps.items()
            if of_kind == kind
            for seconds in all_
        ]


KINDS: dict[str, Callable[[Rounds], Awaitable[None]]] = {
    "kill": Rounds.kill,
    "kill_and_wait": Rounds.kill_and_wait,
    "kill_open": Rounds.kill_open,
    "replace": Rounds.replace,
    "worker_kill": Rounds.worker_kill,
    "worker_replace": Rounds.worker_replace,
}


def plan(kills: int, replaces: int, chance: random.Random) -> list[str]:
    """Return the kinds to play, mixed: so many kills and replacements of the caller's daemon.

    On top of them the worker's is killed and replaced, a tenth as often.
    """
    later, opened = kills // 5, kills // 5
    kinds = ["kill"] * (kills - later - opened) + ["kill_and_wait"] * later
    kinds += ["kill_open"] * opened + ["replace"] * replaces
    kinds += ["worker_kill"] * (kills // 10) + ["worker_replace"] * (replaces // 10)
    chance.shuffle(kinds)
    return kinds


async def _kill(machine: Installed) -> float:
    """Kill a machine's daemon, the one that answers; return when. It is gone then."""

    async def answers() -> int | None:
        with contextlib.suppress(CmeshError, OSError):
            return (await machine.status()).pid
        return None

    # Not as the state directory says: a pid of an earlier life may be anybody's by now.
    pid = await eventually(answers)
    at = time.monotonic()
    os.kill(pid, 9)
    assert await asyncio.to_thread(wait_gone, pid, END_LIMIT_S)
    return at


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    values = sorted(seconds)
    figures = {
        "p50": statistics.median(values),
        "p95": values[min(len(values) - 1, int(len(values) * P95))],
        "max": values[-1],
    }
    return {**{name: round(value, 3) for name, value in figures.items()}, "n": len(values)}
