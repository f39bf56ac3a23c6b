"""What cmesh adds to a real agent: delegated over the tailnet and sandboxed, beside it alone.

`claude -p` and `codex exec` with the arguments of their manifests ask one scripted model on
loopback, each way in turn. Alone an agent has a home of its own that it knows, as people have; as
a task it has a new one each time, and that is part of what is added. Beside the difference stands
where it goes: what either daemon wrote down of the task, and when the model was first asked.
"""

import asyncio
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from typing_extensions import override

from benchmarks.stage import PEER, USER, BenchDaemon, Stage
from benchmarks.table import Row, timing
from tests.fakes.model_server import Json, ModelServer, fake_json
from tests.system.daemon.agents import CLAUDE, CODEX

__all__ = ["add_config", "make_repository", "measure", "steps_of"]

QUERY_MS, EDIT_MS, LONG_RATIO = 120.0, 250.0, 1.05
FILES, FILES_A_FOLDER = 1_000, 15
TURNS, TURN_S = 5, 2.0
"""Of the long run: so many answers of the model, each after so much."""

WARM_UP = 2
READY_LIMIT_S = 60.0
END_LIMIT_S = 60.0
WAIT_S = 45
KEY = "sk-benchmark-0000"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Agent:
    """One agent.

    Attributes:
        path: of the model's API below the server's URL.
        tool, argument: of the call that runs a command line.
    """

    name: str
    program: Path | None
    path: str
    tool: str
    argument: str
    alone: Callable[["_Agent", str], tuple[list[str], dict[str, str]]]

    def run(self, command: str, delay_s: float = 0) -> Json:
        """Return the model's turn that orders a command line."""
        given = {self.argument: command, "description": "a change"}
        return {"tool": self.tool, "input": given, "delay": delay_s}


def _claude_alone(agent: _Agent, url: str) -> tuple[list[str], dict[str, str]]:
    argv = [
        str(agent.program), "-p", "--output-format", "stream-json", "--verbose",
        "--strict-mcp-config", "--permission-prompts", "none", "--setting-sources", "user",
        "--dangerously-skip-permissions",
    ]  # fmt: skip
    return argv, {
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": url,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "IS_SANDBOX": "1",
    }


def _codex_alone(agent: _Agent, url: str) -> tuple[list[str], dict[str, str]]:
    provider = {
        "name": "bench",
        "base_url": f"{url}{agent.path}",
        "env_key": "CODEX_API_KEY",
        "wire_api": "responses",
    }
    argv = [
        str(agent.program), "exec", "--json", "--skip-git-repo-check", "--ephemeral",
        "--sandbox", "danger-full-access", "--ignore-user-config", "--ignore-rules",
        "-c", "project_doc_max_bytes=0", "-c", 'web_search="disabled"',
        "-c", "analytics.enabled=false", "-c", "check_for_update_on_startup=false",
        "-c", 'model_provider="bench"',
    ]  # fmt: skip
    for key, value in provider.items():
        argv += ["-c", f'model_providers.bench.{key}="{value}"']
    return argv, {"CODEX_API_KEY": KEY}


AGENTS = (
    _Agent(
        name="claude", program=CLAUDE, path="", tool="$shell", argument="command",
        alone=_claude_alone,
    ),
    _Agent(
        name="codex", program=CODEX, path="/v1", tool="exec_command", argument="cmd",
        alone=_codex_alone,
    ),
)  # fmt: skip


class _Model(ModelServer):
    """The scripted model; notes when it was first asked since `begin`."""

    asked_at: float | None = None

    def begin(self) -> None:
        self.reset()
        self.asked_at = None

    @override
    def note(self, body: Json, key: str) -> None:
        self.asked_at = self.asked_at or time.time()
        super().note(body, key)


@dataclass(slots=True)
class _Taken:
    """Seconds of one kind of run, and of its parts."""

    whole: list[float] = field(default_factory=list[float])
    parts: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, whole: float, parts: Mapping[str, float]) -> None:
        self.whole.append(whole)
        for name, value in parts.items():
            self.parts.setdefault(name, []).append(value)


async def measure(stage: Stage, count: int) -> list[Row]:
    """Run each agent each way in turn."""
    return await asyncio.to_thread(_measure, stage, count)


def _measure(stage: Stage, count: int) -> list[Row]:
    here = [agent for agent in AGENTS if agent.program is not None]
    rows = [
        Row(name=f"cmesh adds to `{agent.name}`", note="missing: install it under .cache/npm")
        for agent in AGENTS
        if agent not in here
    ]
    with _Model() as model:
        _configure(stage, here, model.url)
        for agent in here:
            bench = _Bench(stage, agent, model)
            rows += bench.compare("query", fake_json({"text": "done"}), QUERY_MS, count)
            order = agent.run("echo changed >d7/code-7")
            rows += bench.compare("edit", fake_json(order, {"text": "done"}), EDIT_MS, count)
            rows += bench.long(max(1, count // 7))
    return rows


class _Bench:
    """The runs of one agent."""

    def __init__(self, stage: Stage, agent: _Agent, model: _Model) -> None:
        self._stage = stage
        self._agent = agent
        self._model = model
        base = stage.base / f"agent-{agent.name}"
        self._home, self._place = base / "home", base / "app"
        (self._home / "tmp").mkdir(parents=True)
        shutil.copytree(stage.base / "repository", self._place, symlinks=True)

    def compare(self, profile: str, prompt: str, goal_ms: float, count: int) -> list[Row]:
        """Return what is added in a profile, and where it goes."""
        alone, fresh, task = _Taken(), _Taken(), _Taken()
        for turn in range(WARM_UP + count):
            one, other = self._alone(prompt), self._task(profile, prompt)
            third = self._alone(prompt, fresh=True)
            if turn >= WARM_UP:
                alone.add(*one)
                fresh.add(*third)
                task.add(*other)
        name = self._agent.name
        added = [after - before for before, after in zip(alone.whole, task.whole, strict=True)]
        row = timing(f"cmesh adds to `{name}` in `{profile}`", added, limit_ms=goal_ms)
        rows = [
            replace(row, goal=f"p50 <= {goal_ms:.0f} ms"),
            timing(f"{name}, alone", alone.whole),
            timing(f"{name}, alone in a new home", fresh.whole),
            timing(f"{name}, as a task of `{profile}`", task.whole),
        ]
        shown = [(f"alone: {key}", values) for key, values in alone.parts.items()]
        shown += [(f"alone in a new home: {key}", values) for key, values in fresh.parts.items()]
        shown += [(f"task: {key}", values) for key, values in task.parts.items()]
        return rows + [timing(f"- {key}", values) for key, values in shown]

    def long(self, count: int) -> list[Row]:
        """Return how much longer a run of some seconds is as a task."""
        turns = [self._agent.run("true", TURN_S) for _ in range(TURNS - 1)]
        prompt = fake_json(*turns, {"text": "done", "delay": TURN_S})
        alone = [self._alone(prompt)[0] for _ in range(count)]
        task = [self._task("query", prompt)[0] for _ in range(count)]
        ratio = statistics.median(task) / statistics.median(alone)
        name = f"{self._agent.name}, {TURNS * TURN_S:.0f} s of a model"
        return [
            timing(f"{name}, alone", alone),
            timing(f"{name}, as a task of `query`", task),
            Row(
                name=f"{name}, task / alone",
                unit="x",
                figures={"p50": ratio},
                goal=f"p50 <= {LONG_RATIO:g} x",
                met=ratio <= LONG_RATIO,
            ),
        ]

    def _alone(self, prompt: str, *, fresh: bool = False) -> tuple[float, dict[str, float]]:
        argv, env = self._agent.alone(self._agent, self._model.url)
        home = str(self._home)
        if fresh:
            home = tempfile.mkdtemp(prefix="home-", dir=self._home.parent)
            Path(home, "tmp").mkdir()
        basic = {"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": f"{home}/tmp"}
        basic |= {"CLAUDE_CONFIG_DIR": f"{home}/.claude", "CODEX_HOME": home, "LANG": "C.UTF-8"}
        self._model.begin()
        begun_at, begun = time.time(), time.perf_counter()
        subprocess.run(
            argv, input=prompt.encode(), env=basic | env, cwd=self._place, check=True,
            capture_output=True, timeout=END_LIMIT_S,
        )  # fmt: skip
        whole = time.perf_counter() - begun
        start = (self._model.asked_at or begun_at) - begun_at
        return whole, {"start to the model's first question": start, "from there": whole - start}

    def _task(self, profile: str, prompt: str) -> tuple[float, dict[str, float]]:
        asked = {
            "peer": PEER, "prompt": prompt, "directory": str(self._stage.base / "repository"),
            "runner": self._agent.name, "profile": profile, "new": True, "wait_s": WAIT_S,
        }  # fmt: skip
        self._model.begin()
        begun_at, begun = time.time(), time.perf_counter()
        view = self._stage.caller.call("delegate", **asked)
        whole = time.perf_counter() - begun
        if view["state"] != "succeeded":
            raise RuntimeError(f"the task did not succeed: {view}")
        return whole, self._parts(str(view["task_id"]), begun_at, begun_at + whole)

    def _parts(self, task_id: str, begun_at: float, ended_at: float) -> dict[str, float]:
        work = steps_of(self._stage.worker, task_id)
        moments = {
            "asked, until the worker's row": work["queued"],
            "until the agent runs (shim, sandbox, copy)": work["running"],
            "until the model's first question": self._model.asked_at or work["running"],
            "until the worker's result (agent, patch)": work["succeeded"],
            "until the caller has it": ended_at,
        }
        parts: dict[str, float] = {}
        last = begun_at
        for name, at in moments.items():
            parts[name] = at - last
            last = at
        return parts


def steps_of(daemon: BenchDaemon, task_id: str) -> dict[str, float]:
    """Return when a daemon first wrote down each state of a task, in seconds since the epoch."""
    sql = "SELECT state, min(ts) FROM steps WHERE task_id = $1 GROUP BY state"
    answer = daemon.call("sql", sql=sql, parameters=[task_id])
    return {state: datetime.fromisoformat(at).timestamp() for state, at in answer["rows"]}


def _configure(stage: Stage, agents: list[_Agent], url: str) -> None:
    """Let the caller ask the worker's agents, for a repository of its own."""
    place = stage.base / "repository"
    make_repository(place, FILES)
    key = stage.worker.config / "agent.key"
    key.write_text(KEY, "ascii")
    key.chmod(0o600)
    names = ", ".join(f'"{agent.name}"' for agent in agents)
    tables = "".join(
        f'[runners.{agent.name}]\nprogram = "{agent.program}"\nkey_file = "{key}"\n'
        f'base_url = "{url}{agent.path}"\nenv = {{ IS_SANDBOX = "1" }}\n'
        for agent in agents
    )
    add_config(
        stage.worker,
        f"""{tables}
[[inbound.allow]]
name = "agents"
peers = ["user:{USER}"]
operations = ["task"]
profiles = ["query", "edit"]
runners = [{names}]
paths = ["{place}"]
""",
    )
    peers = f'peers = ["user:{USER}"]\nprofiles = ["query", "edit"]\n'
    add_config(stage.caller, f'[[outbound.allow]]\nname = "agents"\n{peers}')
    limit = time.monotonic() + READY_LIMIT_S
    wanted = {agent.name for agent in agents}
    runners: list[Any] = []
    while time.monotonic() < limit:
        runners = stage.worker.call("list_runners")["runners"]
        if wanted <= {one["name"] for one in runners if "edit" in one["profiles"]}:
            return
        time.sleep(0.05)
    raise RuntimeError(f"not all of {sorted(wanted)} run here: {runners}")


def add_config(daemon: BenchDaemon, text: str) -> None:
    """Add tables to a daemon's configuration, which it takes up by itself."""
    file = daemon.config / "config.toml"
    fresh = file.with_suffix(".new")
    fresh.write_text(f"{file.read_text('utf-8')}\n{text}", "utf-8")
    fresh.chmod(0o600)
    fresh.replace(file)


def make_repository(place: Path, files: int) -> None:
    """Make a git repository of so many files, some in each folder, `d0/code-0` the first."""
    folders = max(1, files // FILES_A_FOLDER)
    for number in range(files):
        folder = place / f"d{number % folders}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"code-{number}").write_text(f"line {number}\n" * 40, "utf-8")
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.defpath}
    who = ("-c", "user.name=me", "-c", "user.email=me@example.com")
    for argv in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run(["git", *who, *argv], cwd=place, env=quiet, check=True, capture_output=True)
