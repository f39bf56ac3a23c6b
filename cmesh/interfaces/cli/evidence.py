"""The evidence of a run in `cmesh show`."""

import shlex

from cmesh.daemon.answers import TaskView
from cmesh.daemon.evidence_answers import CommandView
from cmesh.interfaces.cli.output import duration
from cmesh.text import one_line

__all__ = ["evidence_facts"]

SHOWN_COMMANDS = 10


def evidence_facts(view: TaskView) -> list[tuple[str, str]]:
    """Return what was found out about a run; of commands the last ones."""
    facts = [("acceptance", shlex.join(view.accept))]
    evidence = view.evidence
    if evidence is None:
        return facts
    if (told := evidence.acceptance) is not None:
        code = "" if told.exit_code is None else f", exit {told.exit_code}"
        how = "passed" if told.passed else told.end.replace("_", " ")
        why = f": {told.reason}" if told.reason else ""
        facts += [("", f"{how}{code}, {duration(told.runtime_s)}{why}"), ("it said", told.output)]
    calls = "" if evidence.tool_calls is None else f"{evidence.tool_calls}, as the agent tells"
    more = evidence.commands_count - len(evidence.commands[-SHOWN_COMMANDS:])
    ran = [_command(one) for one in evidence.commands[-SHOWN_COMMANDS:]]
    return [
        *facts,
        ("model", evidence.model),
        ("tool calls", calls),
        ("it ran", "\n".join([*([f"{more} more, then"] if more > 0 else []), *ran])),
        ("denied it", "\n".join(evidence.denials)),
    ]


def _command(ran: CommandView) -> str:
    if ran.exit_code is not None:
        how = f"exit {ran.exit_code}"
    else:
        how = {None: "no end told", True: "failed", False: "ok"}[ran.failed]
    return f"{one_line(ran.command, 200)}  ({how})"
