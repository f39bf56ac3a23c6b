"""Records what the real agents print, against the scripted model, as contracts for their readers.

    python -m tests.contract.record_transcripts [NAME ...]

Each case becomes `transcripts/NAME-VERSION-CASE.jsonl`: first a line of ours (how it ended, the
tail of standard error), then standard output as it came, but for the paths of this run. To be
run again when a manifest takes another version; what changes in the files is what changed in it.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cmesh.config import RunnerConfig
from cmesh.model import Limits, Profile, TaskId, TaskSpec
from cmesh.runner.programs import Programs
from cmesh.runner.registry import Runners
from cmesh.runner.runner import Runner
from tests.fakes.dialogue import Json
from tests.fakes.model_server import ModelServer, fake_json
from tests.system.daemon.agents import CLAUDE, CODEX, GEMINI, NPM, OPENCODE

TRANSCRIPTS = Path(__file__).with_name("transcripts")
TASK_ID = TaskId("0198c0de-1111-7aaa-8bbb-0123456789ab")
PROGRAMS = {"claude": CLAUDE, "codex": CODEX, "gemini": GEMINI, "opencode": OPENCODE}
RUN_LIMIT_S = 60
OVERLOADED: Json = {"error": 529, "kind": "overloaded_error", "times": 1}
CUT: Json = {"cut": True, "times": 1}
LOGIN: Json = {"error": 401, "kind": "authentication_error", "message": "invalid x-api-key"}
QUOTA: Json = {"error": 429, "kind": "rate_limit_error", "message": "your quota is used up"}
REFUSED: Json = {"error": 400, "kind": "invalid_request_error", "message": "no such model"}


def shells(tool: str, key: str, **more: str) -> list[Json]:
    """Return the calls of a command that goes well and of one that does not."""
    return [
        {"tool": tool, "input": {key: text, **more}} for text in ("cat deploy.log", "ls absent")
    ]


PATCH = """*** Begin Patch
*** Add File: new.txt
+one
*** Update File: deploy.log
@@
-ERROR: port 8080 is taken
+fixed
*** End Patch
"""


def tools(name: str, project: Path) -> list[Json]:
    """Return calls that run commands, make a file and change one, in the agent's own tools."""
    new, old = str(project / "new.txt"), str(project / "deploy.log")
    port, fixed = "ERROR: port 8080 is taken", "fixed"
    if name == "claude":
        return [
            *shells("Bash", "command", description="look"),
            {"tool": "Read", "input": {"file_path": old}},
            {"tool": "Write", "input": {"file_path": new, "content": "one\n"}},
            {"tool": "Edit", "input": {"file_path": old, "old_string": port, "new_string": fixed}},
        ]
    if name == "codex":
        patch = f"apply_patch <<'EOF'\n{PATCH}EOF\n"
        return [*shells("exec_command", "cmd"), {"tool": "exec_command", "input": {"cmd": patch}}]
    if name == "gemini":
        edit = {"file_path": old, "old_string": port, "new_string": fixed, "instruction": "mend"}
        return [
            *shells("run_shell_command", "command", dir_path=str(project), description="look"),
            {"tool": "write_file", "input": {"file_path": new, "content": "one\n"}},
            {"tool": "replace", "input": edit},
        ]
    return [
        *shells("bash", "command", description="look"),
        {"tool": "read", "input": {"filePath": old}},
        {"tool": "write", "input": {"filePath": new, "content": "one\n"}},
        {"tool": "edit", "input": {"filePath": old, "oldString": port, "newString": fixed}},
    ]


def cases(name: str, project: Path) -> Mapping[str, list[Json]]:
    """Return what the model says in each case."""
    return {
        "tools": [*tools(name, project), {"text": "mended"}],
        "retry": [OVERLOADED, {"text": "at last"}],
        "cut": [CUT, {"text": "at last"}],
        "refused": [REFUSED],
        "login": [LOGIN],
        "quota": [QUOTA],
    }


def record(name: str, case: str, model: ModelServer) -> Path:
    """Run an agent once and keep what it printed."""
    with tempfile.TemporaryDirectory(prefix="cmesh-record-", dir="/var/tmp") as place:
        root = Path(place)
        project, home = root / "project", root / "home"
        for path in (project, home, root / "tmp"):
            path.mkdir()
        (project / "deploy.log").write_text("ERROR: port 8080 is taken\n", "utf-8")
        runner = runner_of(name, root, model.url)
        spec = TaskSpec(
            task_id=TASK_ID,
            runner=name,
            profile=Profile.FULL,
            directory=str(project),
            prompt=f"go {fake_json(*cases(name, project)[case])}",
            limits=Limits(),
            not_after=datetime(2030, 1, 1, tzinfo=UTC),
        )
        launch = runner.launch(spec, root, home)
        for path, text in launch.files.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text, "utf-8")
        done = subprocess.run(
            launch.argv,
            input=launch.stdin,
            cwd=launch.starts_in or launch.cwd,
            env=dict(launch.env),
            capture_output=True,
            timeout=RUN_LIMIT_S,
            check=False,
        )
        said, errors = (_plain(text, root, model.url) for text in (done.stdout, done.stderr))
    version = re.search(r"[\d.]+", runner.version)
    assert version is not None
    path = TRANSCRIPTS / f"{name}-{version[0]}-{case}.jsonl"
    head = json.dumps({"exit_code": done.returncode, "stderr": errors[-1000:]})
    path.write_text(f"{head}\n{said}", "utf-8")
    return path


def runner_of(name: str, root: Path, url: str) -> Runner:
    """Return an agent's runner, with a key of nobody."""
    key = root / "key"
    key.touch(0o600)
    key.write_text("sk-test-0000", "ascii")
    config = RunnerConfig(
        program=str(PROGRAMS[name]),
        key_file=key,
        base_url=url if name in {"claude", "gemini"} else f"{url}/v1",
        model="fake-1" if name in {"opencode", "gemini"} else "",
        env={"IS_SANDBOX": "1", "CLAUDE_CODE_MAX_RETRIES": "1"} if name == "claude" else {},
    )
    return Runners({name: config}, {}, programs=Programs(os.defpath)).resolve(name)


def _plain(data: bytes, root: Path, url: str) -> str:
    """Return output without what names this run's place and port."""
    text = data.decode("utf-8", "replace").replace(url, "http://127.0.0.1:1")
    # opencode names a path below the root without its slash.
    text = text.replace(str(root), "/task").replace(str(root)[1:], "task")
    return text.replace(str(NPM), "/npm")


def main() -> None:
    """Record the agents that were named, or all."""
    TRANSCRIPTS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or sorted(PROGRAMS):
        for case in cases(name, Path("/")):
            with ModelServer() as model:
                try:
                    sys.stdout.write(f"{record(name, case, model)}\n")
                except subprocess.TimeoutExpired:
                    sys.stdout.write(f"{name} {case}: no end within {RUN_LIMIT_S} s\n")


if __name__ == "__main__":
    main()
