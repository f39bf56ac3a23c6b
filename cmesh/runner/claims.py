"""What an agent did by its own word: counted over its events, before any is left out. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cmesh.text import one_line

__all__ = ["COMMANDS_MOST", "Claims", "Ran"]

COMMANDS_MOST, COMMAND_CHARACTERS = 100, 300
"""Commands that are kept of one run, from the last one back, and how much of each."""

MODEL_CHARACTERS = 80


@dataclass(slots=True, kw_only=True)
class Ran:
    """One command.

    Attributes:
        exit_code: as the agent's program tells it; None = it tells none.
        failed: it says that it failed; None = it has said nothing.
    """

    command: str
    exit_code: int | None = None
    failed: bool | None = None


@dataclass(slots=True)
class Claims:
    """The count of one run.

    Attributes:
        calls: tool calls.
        commands: how many of them ran a command; `ran` has the last ones.
        model: which model the agent says that it asks; empty = it does not say.
    """

    calls: int = 0
    commands: int = 0
    ran: list[Ran] = field(default_factory=list[Ran])
    model: str = ""
    _open: dict[str, Ran] = field(default_factory=dict[str, Ran])

    def add(self, kind: str, data: Mapping[str, object]) -> None:
        """Count the next event."""
        if kind == "tool_call":
            self._called(data)
        elif kind == "tool_result":
            self._answered(data)
        elif kind == "raw" and not self.model:
            model = data.get("model")
            self.model = one_line(model, MODEL_CHARACTERS) if isinstance(model, str) else ""

    def _called(self, data: Mapping[str, object]) -> None:
        self.calls += 1
        command = data.get("command")
        if not isinstance(command, str) or not command:
            return
        self.commands += 1
        ran = Ran(command=one_line(command, COMMAND_CHARACTERS))
        self.ran = [*self.ran[1 - COMMANDS_MOST :], ran]
        self._open[str(data.get("id"))] = ran
        if len(self._open) > COMMANDS_MOST:
            del self._open[next(iter(self._open))]

    def _answered(self, data: Mapping[str, object]) -> None:
        ran = self._open.pop(str(data.get("id")), None)
        if ran is None:
            return
        code = data.get("exit_code")
        ran.exit_code = code if isinstance(code, int) and not isinstance(code, bool) else None
        ran.failed = data.get("is_error") is True or ran.exit_code not in (None, 0)
