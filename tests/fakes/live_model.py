"""A conversation whose turns are given one at a time, by a harness that wants a word between.

The agent's request for its next turn hangs until there is one. What an agent asks twice, because
a connection broke, it gets twice.
"""

import threading
import time
from dataclasses import dataclass

from tests.fakes.dialogue import Json

__all__ = ["Heard", "LiveModel"]

TURN_LIMIT_S = 240.0
"""How long an agent waits for its next turn; codex gives up on a silent model after 300 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What the model was told with a request: the newest tool result, and when it came.

    Attributes:
        at: seconds of `time.monotonic`.
    """

    text: str
    at: float


class LiveModel:
    """One conversation, between the model server's threads and a harness."""

    def __init__(self) -> None:
        self._turns: list[Json] = []
        self._heard: list[Heard] = []
        self._changed = threading.Condition()
        self._ended = False

    def say(self, turn: Json) -> int:
        """Give the next turn; return its number, from 0."""
        with self._changed:
            self._turns.append(turn)
            self._changed.notify_all()
            return len(self._turns) - 1

    def heard(self, number: int, limit_s: float) -> Heard:
        """Return what came with the request for turn `number`: the result of the one before it.

        Blocks. Raises TimeoutError when the agent does not ask within `limit_s`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._heard) > number, limit_s):
                raise TimeoutError(f"the agent did not ask for turn {number} in {limit_s:g} s")
            return self._heard[number]

    def turn(self, number: int, result: str) -> Json:
        """Take a request for turn `number`, and return the turn once it is given. Blocks."""
        with self._changed:
            if number == len(self._heard):
                self._heard.append(Heard(text=result, at=time.monotonic()))
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._ended or len(self._turns) > number, TURN_LIMIT_S)
            return self._turns[number] if len(self._turns) > number else {"text": "nothing more"}

    def end(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
