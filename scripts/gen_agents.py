"""Write the tables of `docs/agents.md` from the manifests and from the recorded transcripts.

`python scripts/gen_agents.py` writes; with `--check` it only says whether the
page is current, with exit status 1 when it is not.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from cmesh.runner.evidence import Exit
from cmesh.runner.manifest import Manifest, load_manifests
from cmesh.runner.reader import RunnerEvent
from cmesh.runner.readers import reader_of

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "agents.md"
TRANSCRIPTS = ROOT / "tests" / "contract" / "transcripts"
AGENTS = ("claude", "codex", "gemini", "opencode")
BEGIN, END = "<!-- made by scripts/gen_agents.py; do not edit -->", "<!-- end -->"


def main(arguments: list[str]) -> int:
    """Write or check the page; return the exit status."""
    page = TARGET.read_text("utf-8")
    made = re.sub(f"(?s){BEGIN}.*?{END}", lambda _: f"{BEGIN}\n\n{table()}\n\n{END}", page)
    if "--check" not in arguments:
        TARGET.write_text(made, "utf-8")
        return 0
    if made == page:
        return 0
    print(f"{TARGET.name} is not current: run `python scripts/gen_agents.py`", file=sys.stderr)
    return 1


def table() -> str:
    """Return the table of what works, an agent a column."""
    manifests = load_manifests()
    rows = [("", *AGENTS), ("---", *["---"] * len(AGENTS))]
    rows += [(name, *(of(manifests[agent]) for agent in AGENTS)) for name, of in FACTS.items()]
    told = {agent: transcripts(agent) for agent in AGENTS}
    rows += [(name, *(of(told[agent]) for agent in AGENTS)) for name, of in TOLD.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def transcripts(agent: str) -> dict[str, list[RunnerEvent]]:
    """Return the events of an agent's recorded runs, by case."""
    found: dict[str, list[RunnerEvent]] = {}
    for path in sorted(TRANSCRIPTS.glob(f"{agent}-*.jsonl")):
        head, _, body = path.read_bytes().partition(b"\n")
        reader = reader_of(load_manifests()[agent].parser)
        events = reader.feed(body)
        reader.finish(Exit(verdict="exited", exit_code=json.loads(head)["exit_code"]))
        found[path.stem.split("-")[2]] = events
    return found


def _versions(one: Manifest) -> str:
    return f"{one.versions.first} to below {one.versions.below}" if one.versions else "any"


def _credential(one: Manifest) -> str:
    if one.credential is None:
        return "none"
    if one.credential.gateway is None:
        return f"key in `{one.credential.variable}`"
    return f"key, added by the daemon; in `full` in `{one.credential.variable}`"


def _address(one: Manifest) -> str:
    if one.credential and one.credential.base_url_variable:
        return f"`{one.credential.base_url_variable}`"
    return "an argument" if one.options.base_url else "its configuration"


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _answer(one: Manifest) -> str:
    said = " ".join(one.options.answer_schema).partition(" ")[0]
    return f"by `{said}`" if said else "schema before the prompt"


FACTS: dict[str, Callable[[Manifest], str]] = {
    "versions tried": _versions,
    "profiles": lambda one: ", ".join(sorted(profile.value for profile in one.profiles)),
    "follow-up turns": lambda one: _yes(one.session),
    "structured answer": _answer,
    "budget in money": lambda one: _yes(one.options.cost_usd),
    "may delegate further": lambda one: _yes(one.options.mcp),
    "login": _credential,
    "address of the model": _address,
    "hosts it needs": lambda one: ", ".join(f"`{host}`" for host in one.network.hosts),
    "refuses a directory with": lambda one: ", ".join(f"`{n}`" for n in one.refuses) or "nothing",
}


def _kind(kind: str) -> Callable[[dict[str, list[RunnerEvent]]], str]:
    return lambda runs: _yes(any(e.kind == kind for events in runs.values() for e in events))


def _codes(runs: dict[str, list[RunnerEvent]]) -> str:
    return _yes(any(event.data.get("exit_code") is not None for event in runs["tools"]))


def _changes(runs: dict[str, list[RunnerEvent]]) -> str:
    changes = {str(e.data["change"]) for e in runs["tools"] if e.kind == "file_change"}
    return ", ".join(f"`{change}`" for change in sorted(changes))


def _running(runs: dict[str, list[RunnerEvent]]) -> str:
    costs = [event for event in runs["tools"] if event.kind == "cost"]
    if len(costs) < 2:
        return "no, at the end"
    keys = [key for key, value in costs[0].data.items() if value is not None]
    return "yes: " + ", ".join(f"`{key}`" for key in keys)


TOLD: dict[str, Callable[[dict[str, list[RunnerEvent]]], str]] = {
    "text, tool calls, results": _kind("tool_result"),
    "exit codes of commands": _codes,
    "changed files": _changes,
    "retries": _kind("retry"),
    "tokens while it runs": _running,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
