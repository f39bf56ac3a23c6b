"""What the demo will do: who asks whom for what, and the two configurations that allow it.

Values only. The runner's program is looked up, and a sandbox is tried out.
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from cmesh.errors import RootRefused, RunnerUnavailable, UsageError
from cmesh.interfaces.demo import why_deploy_failed
from cmesh.interfaces.demo.sample import Sample
from cmesh.model import Profile
from cmesh.paths import require_private_file
from cmesh.platform.users import is_superuser
from cmesh.policy.rules import FULL_CONSENT
from cmesh.runner.manifest import load_manifests
from cmesh.sandbox.probe import find_enforcement

__all__ = [
    "COMMAND",
    "INBOUND_RULE",
    "OUTBOUND_RULE",
    "QUESTION",
    "USER",
    "Plan",
    "builder_config",
    "laptop_config",
    "make_plan",
]

USER = "me@example.com"
COMMAND = "why-deploy-failed"
OUTBOUND_RULE = "ask the builder"
INBOUND_RULE = "my machines may ask about myapp"
QUESTION = "why did the deploy of myapp fail?"

# Claude Code ends at once as uid 0 when it is to ask nobody (measured with 2.1.330). It can be
# told that it is in a sandbox, which is not so here.
_NEVER_AS_ROOT = frozenset({"claude"})

_ADVICE = (
    "Read deploy/deploy.log, deploy/myapp.service and releases/ in the current directory; "
    "change nothing. Name the release, the cause, and each file and line it rests on as "
    "file:line. Answer in at most 12 lines."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the demo will do.

    Attributes:
        runner: as `delegate` names it.
        agent: the coding agent behind it; empty = the script, no model.
        program, key_file, base_url: of that agent.
        as_root: tasks will run as root, which the worker must be told to accept.
        profile: `query` where a sandbox can be had for the runner, else `full`.
        why_full: why it is not `query`, in words.
    """

    runner: str
    agent: str = ""
    program: str = ""
    key_file: Path | None = None
    base_url: str = ""
    as_root: bool = False
    profile: Profile = Profile.FULL
    why_full: str = ""

    @property
    def prompt(self) -> str:
        """Return the task's prompt: the question, and for a model how to answer it."""
        return f"{QUESTION[0].upper()}{QUESTION[1:]}" + (f" {_ADVICE}" if self.agent else "")

    @property
    def runtime_s(self) -> int:
        """Return how long the task may run on the worker."""
        return 300 if self.agent else 30


def make_plan(agent: str, key_file: str, base_url: str) -> Plan:
    """Plan a run; `agent` empty = without a model.

    Raises:
        UsageError: an option is missing, or stands for nothing.
        RunnerUnavailable: there is no such agent here.
        RootRefused: the agent does not work as root.
        ConfigError: the key file is open to others.
    """
    as_root = is_superuser()
    if not agent:
        if key_file or base_url:
            raise UsageError("a key is of use to an agent only", hint="add `--runner claude`")
        found = find_enforcement()
        return Plan(
            runner=f"command:{COMMAND}",
            as_root=as_root,
            profile=Profile.QUERY if found.netns else Profile.FULL,
            why_full="" if found.netns else f"{found.why}: {found.hint}",
        )
    manifests = load_manifests()
    agents = sorted(name for name in manifests if name != "command")
    if agent not in agents:
        raise RunnerUnavailable(
            f"no agent `{agent}` is known to this build", hint=f"known: {', '.join(agents)}"
        )
    program = shutil.which(manifests[agent].program)
    if program is None:
        raise RunnerUnavailable(
            f"`{manifests[agent].program}` is not on this machine",
            hint=manifests[agent].install_hint,
        )
    if as_root and agent in _NEVER_AS_ROOT:
        raise RootRefused(
            f"`{agent}` refuses to work unattended as root",
            hint="run the demo as an ordinary user",
        )
    if not key_file:
        raise UsageError(
            f"`{agent}` needs an API key of its own; your login is never used",
            hint="put a key in a file of mode 0600, then `--key-file FILE`",
        )
    path = Path(key_file).expanduser().absolute()
    if not path.exists():
        raise UsageError(f"there is no key file `{path}`", hint="")
    require_private_file(path, secret=True)
    return Plan(
        runner=agent,
        agent=agent,
        program=str(Path(program).absolute()),
        key_file=path,
        base_url=base_url,
        as_root=as_root,
        why_full="the demo tries no sandbox for an agent; your own rules can",
    )


def laptop_config(control_url: str, plan: Plan) -> str:
    """Return the caller's `config.toml`."""
    return f"""\
{_node("laptop", control_url)}
[[outbound.allow]]
name = {_text(OUTBOUND_RULE)}
peers = [{_text(f"user:{USER}")}]
profiles = [{_text(plan.profile)}]
prompt_bytes = 20000
"""


def builder_config(control_url: str, plan: Plan, sample: Sample) -> str:
    """Return the worker's `config.toml`: one directory, one runner, one user's machines."""
    return f"""\
{_node("builder", control_url)}
[worker]
allow_root = {"true" if plan.as_root else "false"}

{_runner(plan)}
[[inbound.allow]]
name = {_text(INBOUND_RULE)}
peers = [{_text(f"user:{USER}")}]
operations = ["task"]
profiles = [{_text(plan.profile)}]
runners = [{_text(plan.runner)}]
paths = [{_text(str(sample.directory))}]
limits = {{ runtime = "5m", concurrent = 1, per_day = 20 }}
{_consent_or_sandbox(plan)}"""


def _node(hostname: str, control_url: str) -> str:
    return f"""\
[node]
hostname = {_text(hostname)}
control_url = {_text(control_url)}
auth_key_file = "auth.key"
"""


def _consent_or_sandbox(plan: Plan) -> str:
    if plan.profile is Profile.FULL:
        return f"consent = {_text(FULL_CONSENT)}\n"
    # The script and its interpreter; whatever else of this machine stays out of sight.
    script = Path(why_deploy_failed.__file__).parent
    places = dict.fromkeys(os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, script))
    return f"\n[sandbox]\nread = {json.dumps(list(places))}\n"


def _runner(plan: Plan) -> str:
    if not plan.agent:
        argv = [sys.executable, "-I", why_deploy_failed.__file__]
        return f"[commands.{COMMAND}]\nargv = {json.dumps(argv)}\n"
    lines = [f"[runners.{plan.agent}]", f"program = {_text(plan.program)}"]
    lines.append(f"key_file = {_text(str(plan.key_file))}")
    if plan.base_url:
        lines.append(f"base_url = {_text(plan.base_url)}")
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    # A TOML basic string has the escapes of JSON (TOML 1.0, section String).
    return json.dumps(value, ensure_ascii=False)
