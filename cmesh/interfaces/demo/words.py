"""The demo's longer texts: what it is, what it has shown, how to go on. Starts nothing."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cmesh.interfaces.demo.plan import QUESTION, Plan
from cmesh.interfaces.demo.report import Report
from cmesh.interfaces.demo.stage import Stage
from cmesh.model import Profile

__all__ = [
    "head",
    "kept_commands",
    "kept_fields",
    "next_commands",
    "others",
    "still_running",
    "summary",
]

Commands = Sequence[tuple[str, str]]


def head(plan: Plan) -> list[str]:
    """Return the title and what the reader has to know before."""
    lines = [
        "cmesh demo: one delegation between two machines, start to end",
        (
            "Two daemons on this machine play laptop and builder. All of it is real but the "
            "distance: the tailnet runs on loopback and needs no account. What is claimed is "
            "asserted; if it does not hold, the demo fails."
        ),
    ]
    if plan.agent:
        model = f", its model behind {plan.base_url}" if plan.base_url else ""
        lines.append(f"Runner on builder: {plan.agent}, a real agent ({plan.program}){model}.")
    else:
        lines.append(
            "Runner on builder: a script that really reads the files. No model was used; "
            "`--runner claude --key-file FILE` gives the same job to a real agent."
        )
    if plan.profile is Profile.QUERY:
        lines.append(
            "Profile: query. The kernel keeps the task to reading that one directory and the "
            "programs it needs: no network, nothing written."
        )
    else:
        lines.append(
            f"Profile: full, without a sandbox, with its own rule and consent ({plan.why_full})."
        )
    if plan.as_root:
        lines.append(
            "You are root: builder's own configuration allows that (allow_root), for this "
            "throw-away worker only."
        )
    return lines


def summary(report: Report) -> tuple[str, list[str]]:
    """Return the title and lines of what was proved."""
    seconds = sum(step.seconds for step in report.steps)
    who = f"{report.model} found the cause" if report.model else "a script found the cause"
    return f"Shown and asserted, in {seconds:.1f} s", [
        "who asked: on builder the tailnet's whois named laptop and its user",
        (
            "what was allowed: builder's owner pinned laptop's key, and one rule named this "
            "user, runner and directory"
        ),
        f"what was done: {who} in files made for this run; each state has its witness",
        "what was refused: another directory, with the reason, before any process started",
        "what is on record: the same tasks on both nodes, signed by both, in hash chains",
    ]


def next_commands() -> Commands:
    """Return three commands to go on with."""
    cmesh = _shown(_cmesh())
    return [
        ("Leave it running, and use it from Claude Code or Codex:", f"{cmesh} demo --keep"),
        (
            "The same job, done by a real agent:",
            f"{cmesh} demo --runner claude --key-file FILE",
        ),
        ("Your own machines:", f"{cmesh} setup"),
    ]


def kept_fields(stage: Stage) -> Mapping[str, object]:
    """Return how to use and stop a kept demo, for `--json`."""
    return {
        "pid": os.getpid(),
        "stop": f"kill {os.getpid()}",
        "mcp": [_cmesh(), "mcp"],
        "environment": {node.name: node.environment() for node in stage.nodes},
        "directory": str(stage.base / "srv" / "myapp"),
        "control_url": stage.testnet.control_url,
        "auth_key_file": str(stage.join_key),
    }


def kept_commands(stage: Stage, plan: Plan) -> list[tuple[str, Commands]]:
    """Return titled groups of commands for a kept demo."""
    laptop, builder = (
        " ".join(f"{name}={shlex.quote(value)}" for name, value in node.environment().items())
        for node in stage.nodes
    )
    cmesh = shlex.quote(_cmesh())
    directory = stage.base / "srv" / "myapp"
    flags = {
        option: " ".join(f"{option} {pair}" for pair in laptop.split(" "))
        for option in ("-e", "--env")
    }
    return [
        (
            "Left running. In another terminal, give laptop's cmesh to your agent",
            [
                ("Claude Code:", f"claude mcp add cmesh-demo {flags['-e']} -- {cmesh} mcp"),
                ("Codex:", f"codex mcp add cmesh-demo {flags['--env']} -- {cmesh} mcp"),
                (
                    "and ask it:",
                    (
                        f"Use cmesh: {QUESTION} Delegate it to builder, directory {directory}, "
                        f"runner {plan.runner}, profile {plan.profile}."
                    ),
                ),
            ],
        ),
        (
            "Look around",
            [
                ("as laptop:", f"env {laptop} {cmesh} status"),
                ("", f"env {laptop} {cmesh} tasks"),
                ("as builder:", f"env {builder} {cmesh} peers"),
            ],
        ),
        (
            "Join with another daemon of this machine (docs/quickstart.md, part 2)",
            [
                ("its control_url:", stage.testnet.control_url),
                ("its auth_key_file, good for several nodes:", str(stage.join_key)),
            ],
        ),
        (
            "Stop",
            [
                ("Ctrl-C here, or:", f"kill {os.getpid()}"),
                ("and take it from your agent:", "claude mcp remove cmesh-demo"),
            ],
        ),
    ]


def others(pids: Sequence[int], stage: Stage) -> str:
    """Return a sentence about processes that still use an ended demo."""
    listed = ", ".join(map(str, pids))
    return (
        f"processes {listed}, which you or your agent started; {stage.base} keeps a mark that "
        "stops them from starting a daemon there: remove it when they have ended"
    )


def still_running(daemons: Mapping[str, int]) -> str:
    """Return a sentence about daemons of the demo that could not be ended."""
    listed = ", ".join(f"{name} (process {pid})" for name, pid in daemons.items())
    return f"a daemon does not end: {listed}; its directory stays, end it and remove that yourself"


def _cmesh() -> str:
    beside = Path(sys.executable).with_name("cmesh")
    return str(beside) if beside.exists() else f"{sys.executable} -m cmesh"


def _shown(program: str) -> str:
    path = Path(program)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else program
