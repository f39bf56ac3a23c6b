"""Following a task as an agent does, call by call, and showing what comes while it runs."""

import asyncio
from collections.abc import Callable
from typing import cast

from cmesh.errors import DemoFailed
from cmesh.interfaces.demo import audit
from cmesh.interfaces.demo.plan import INBOUND_RULE, USER
from cmesh.interfaces.demo.report import require
from cmesh.interfaces.demo.stage import Stage
from cmesh.interfaces.mcp.driver import AgentDriver, Answer
from cmesh.model import ENDED, TaskState
from cmesh.text import one_line

__all__ = ["WAIT_S", "Follower", "asked"]

WAIT_S = 20

_STATES = frozenset(state.value for state in TaskState)
_UNTOLD = _STATES | {"output", "raw", "cost"}
"""Events that say nothing more: states are shown as such, a script's output is its finding."""


async def asked(driver: AgentDriver, tool: str, **arguments: object) -> Answer:
    """Call a tool.

    Raises:
        DemoFailed: the tool answers with an error.
    """
    answer = await driver.call(tool, **arguments)
    if answer.is_error:
        raise DemoFailed(f"`{tool}` failed: {one_line(answer.text, 400)}")
    return answer


class Follower:
    """One task of the agent's; `fact` takes a label and a text to show."""

    def __init__(
        self, driver: AgentDriver, stage: Stage, fact: Callable[[str, str], None], task_id: str
    ) -> None:
        self._driver = driver
        self._stage = stage
        self._fact = fact
        self._task_id = task_id

    async def news(self, state: str, last: int) -> Answer:
        """Return the task once it is in another state than `state`, or has events after `last`.

        Raises:
            DemoFailed: the worker has not taken it.
        """
        answer = await asked(
            self._driver,
            "get_task",
            task_id=self._task_id,
            wait_s=WAIT_S,
            known_state=state,
            after_event=last,
        )
        require(answer.get("state") != "submitting", "builder did not take the task", answer.text)
        return answer

    async def until_ended(self, answer: Answer, limit_s: float) -> Answer:
        """Show states and steps from `answer` on; return the last answer.

        Raises:
            DemoFailed: somebody else asked, or another rule allowed it.
            TimeoutError: it did not end within `limit_s`.
        """
        decision = asyncio.create_task(self._decision())
        shown, last = "", 0
        async with asyncio.timeout(limit_s):
            while True:
                state = answer.get("state")
                last = max(last, cast("int", answer.fields.get("last_event") or 0))
                # Asked before anything is shown: a short state would be missed otherwise.
                ended = state in ENDED
                following = None if ended else asyncio.create_task(self.news(state, last))
                try:
                    await decision
                    if state != shown:
                        self._fact("agent sees", state)
                        shown = state
                    self._show_events(answer)
                    if following is None:
                        return answer
                    answer = await following
                finally:
                    if following is not None:
                        following.cancel()

    async def _decision(self) -> None:
        """Show who asked and which rule allowed it, by builder's own record."""
        laptop, builder = self._stage.nodes
        decided = await audit.decisions(builder.client, self._task_id)
        require(len(decided) == 1, "builder did not decide once", decided)
        one = decided[0]
        self._fact("whois says", f"{one['peer']}, node {one['peer_id']}, of {one['principal']}")
        self._fact("inbound rule", f'"{one["rule"]}" on builder: {one["effect"]}')
        require(one["peer_id"] == laptop.status.node_id, "another node asked", one)
        require(one["principal"] == USER, "another user asked", one)
        require((one["effect"], one["rule"]) == ("allow", INBOUND_RULE), "not by that rule", one)

    def _show_events(self, answer: Answer) -> None:
        for line in answer.get("events").splitlines():
            _number, _, rest = line.partition(" ")
            kind, _, text = rest.partition(" ")
            if text and kind not in _UNTOLD:
                self._fact(kind.replace("_", " ")[:14], one_line(text, 120))
