"""The evidence of a run in `cmesh show`."""

import shlex

from cmesh.daemon.answers import TaskView
from cmesh.daemon.evidence_answers import BeforeView, ChangedView, CommandView
from cmesh.interfaces.cli.output import duration
from cmesh.text import one_line

__all__ = ["evidence_facts"]

SHOWN_COMMANDS = 10
SHOWN_NAMES = 20


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
        ("before", _before(evidence.before) if evidence.before else ""),
        ("changed", _changed(evidence.changed) if evidence.changed else ""),
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


def _before(told: BeforeView) -> str:
    if told.reason and not told.commit and not told.branch:
        return told.reason
    where = f"branch {told.branch}" if told.branch else "no branch"
    commit = f"commit {told.commit[:12]}" if told.commit else told.reason or "no commit yet"
    dirty = {None: "", True: ", with uncommitted changes", False: ", nothing uncommitted"}
    return f"{commit}, {where}{dirty[told.dirty]}"


def _changed(told: ChangedView) -> str:
    more = told.files - len(told.names[:SHOWN_NAMES])
    lines = [*told.names[:SHOWN_NAMES], *([f"and {more} more"] if more > 0 else [])]
    lines += [] if told.complete else [f"not all was looked at: {told.reason}"]
    return "\n".join(lines or ["nothing"])
