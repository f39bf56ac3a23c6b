"""From a task and a manifest to what is started. Pure: no file, no environment, no clock.

`start_argv` is where a sandbox will wrap the command. The prompt is never in an argv.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import JsonValue

from cmesh.errors import SandboxUnavailable, UsageError
from cmesh.model import TaskSpec
from cmesh.runner.launch import Launch
from cmesh.runner.manifest import Manifest
from cmesh.runner.preface import fresh_copy, in_front
from cmesh.runner.sessions import Place
from cmesh.runner.shim_repair import SESSION_MARK

__all__ = ["ANSWER_BY", "DEFAULT_LANG", "Host", "build_launch", "start_argv"]

DEFAULT_LANG = "C.UTF-8"

SCHEMA_FILE = ".cmesh-answer.json"
"""In the agent's home. The agent may change it: what its answer is held to is the task's own."""

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
ANSWER_BY = (
    "End with an answer to what follows that is one JSON object, and nothing after it. It must fit"
    " this JSON Schema:"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What this machine and its configuration add to a manifest.

    Attributes:
        program: absolute path.
        arguments: the configuration's own, before the manifest's.
        search_path: the agent's `PATH`.
        env: further variables; may hold the credential.
        home: the task's private home, absolute.
        tmp: the task's private directory for temporary files, absolute.
        base_url: of its model's API, as the program is to see it; empty = its own default.
        session: where the conversation lies; None = the runner has none.
        preface: what an agent is told beside the prompt; empty = nothing.
    """

    program: str
    arguments: tuple[str, ...] = ()
    search_path: str
    env: Mapping[str, str]
    home: str
    tmp: str
    model: str = ""
    base_url: str = ""
    session: Place | None = None
    preface: str = ""


def build_launch(spec: TaskSpec, manifest: Manifest, host: Host) -> Launch:
    """Return the complete launch of a task.

    Raises:
        SandboxUnavailable: the manifest does not have the task's profile.
        UsageError: a text of the task holds a NUL, which no argv or environment can.
    """
    values = {
        "task_id": spec.task_id,
        "session_id": host.session.session_id if host.session else spec.task_id,
        "home": host.home,
        "tmp": host.tmp,
        "directory": spec.directory,
        "model": host.model,
        "base_url": host.base_url,
        "cost_usd": "" if spec.limits.cost_usd is None else f"{spec.limits.cost_usd:g}",
        "turns": "" if spec.limits.turns is None else str(spec.limits.turns),
        "preface": host.preface,
        "preface_quoted": json.dumps(host.preface),
        "answer_schema": spec.answer_schema,
        "answer_schema_file": f"{host.home}/{SCHEMA_FILE}",
    }
    env = {"PATH": host.search_path, "LANG": DEFAULT_LANG, "HOME": host.home, "TMPDIR": host.tmp}
    env |= {name: _fill(text, values) for name, text in manifest.env.items()}
    env |= {name: _json(value, values) for name, value in manifest.env_json.items()}
    env |= dict(host.env)
    argv = start_argv(spec, manifest, host, values)
    if any("\0" in text for text in (*argv, spec.directory, *env.values())):
        raise UsageError("the task holds a NUL character")
    return Launch(
        argv=argv,
        again=_again(spec, manifest, host, values),
        cwd=spec.directory,
        env=env,
        stdin=_prompt(spec, manifest, host).encode("utf-8", "replace"),
        runtime_s=spec.limits.runtime_s,
        output_bytes=spec.limits.output_bytes,
        session=host.session,
        session_link=_session_link(manifest, host),
        starts_in=f"{host.home}/{manifest.cwd}" if manifest.cwd else "",
        files={f"{host.home}/{name}": text for name, text in _files(spec, manifest).items()},
    )


def start_argv(
    spec: TaskSpec, manifest: Manifest, host: Host, values: Mapping[str, str]
) -> tuple[str, ...]:
    """Return program and arguments, profile and limits included.

    Raises:
        SandboxUnavailable: the manifest does not have the task's profile.
    """
    if spec.profile not in manifest.profiles:
        raise SandboxUnavailable(
            f"runner `{spec.runner}` cannot run profile `{spec.profile}` on this machine"
        )
    options = manifest.options
    parts = [*manifest.argv, *_session(spec, manifest), *manifest.profiles[spec.profile]]
    parts += options.model if host.model else ()
    parts += options.base_url if host.base_url else ()
    parts += options.cost_usd if spec.limits.cost_usd is not None else ()
    parts += options.turns if spec.limits.turns is not None else ()
    parts += options.tokens if spec.limits.tokens is not None else ()
    parts += options.system if host.preface else ()
    parts += options.answer_schema if spec.answer_schema else ()
    # The configuration's arguments are the owner's own text: braces in them mean nothing.
    return (host.program, *host.arguments, *(_fill(part, values) for part in parts))


def _again(
    spec: TaskSpec, manifest: Manifest, host: Host, values: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the arguments with which it goes on in its session, where it may have to."""
    if not spec.answer_schema or manifest.session is None or host.session is None:
        return ()
    if manifest.session.id == "read":  # only its first turn will say which
        values = {**values, "session_id": SESSION_MARK}
    return start_argv(replace(spec, follows=spec.task_id), manifest, host, values)


def _prompt(spec: TaskSpec, manifest: Manifest, host: Host) -> str:
    """Return what comes on standard input: the prompt, after what cmesh says itself."""
    prompt = spec.prompt
    # A command has no model that could read it.
    if spec.answer_schema and manifest.program and not manifest.options.answer_schema:
        prompt = f"{ANSWER_BY}\n{spec.answer_schema}\n\n{prompt}"
    if not host.preface or not manifest.takes_preface:
        return prompt
    first = spec.follows is None
    words = host.preface if first and manifest.preface_in_prompt else ""
    return in_front(words or ("" if first else fresh_copy(spec.profile)), prompt)


def _files(spec: TaskSpec, manifest: Manifest) -> Mapping[str, str]:
    """Return what it finds in its home, by path."""
    by_file = any("{answer_schema_file}" in part for part in manifest.options.answer_schema)
    if not spec.answer_schema or not by_file:
        return manifest.files
    return {**manifest.files, SCHEMA_FILE: spec.answer_schema}


def _session_link(manifest: Manifest, host: Host) -> str:
    if manifest.session is None or host.session is None:
        return ""
    return f"{host.home}/{manifest.session.home}"


def _session(spec: TaskSpec, manifest: Manifest) -> tuple[str, ...]:
    if manifest.session is None:
        return ()
    return manifest.session.new if spec.follows is None else manifest.session.resume


def _fill(text: str, values: Mapping[str, str]) -> str:
    """Put values in; what a value holds is not read again."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def _json(value: JsonValue, values: Mapping[str, str]) -> str:
    # Built as data: what a value holds, a quote for one, stays inside its text.
    return json.dumps(_filled(value, values), separators=(",", ":"))


def _filled(value: JsonValue, values: Mapping[str, str]) -> JsonValue:
    """Put values into each text; None = one of them is empty, so that the text says nothing."""
    if isinstance(value, str):
        return _fill(value, values) if _says(value, values) else None
    if isinstance(value, list):
        items = [_filled(item, values) for item in value]
        return [item for item in items if item is not None]
    if isinstance(value, dict):
        said = [(key, item) for key, item in value.items() if _says(key, values)]
        pairs = [(_fill(key, values), _filled(item, values)) for key, item in said]
        return {key: item for key, item in pairs if item is not None}
    return value


def _says(text: str, values: Mapping[str, str]) -> bool:
    return all(values[name] for name in _PLACEHOLDER.findall(text))
