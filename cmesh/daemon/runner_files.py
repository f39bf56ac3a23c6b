"""Writing a runner's manifest for its owner: into the configuration's directory, on the record."""

import asyncio
import hashlib

from cmesh.daemon.arguments import Context, NewRunnerArguments
from cmesh.daemon.core import Daemon
from cmesh.daemon.runner_answers import NewRunnerView
from cmesh.errors import ConfigError, UsageError
from cmesh.runner.manifest import load_manifests
from cmesh.runner.own_manifests import check_name, write_own
from cmesh.runner.template import manifest_text
from cmesh.store.records import AuditRecord

__all__ = ["MANIFEST_WRITTEN", "new"]

MANIFEST_WRITTEN = "manifest_written"
"""Kind of audit row: cmesh has written a manifest of the owner's."""


async def new(daemon: Daemon, context: Context, arguments: NewRunnerArguments) -> NewRunnerView:
    """Write a manifest, which is in force when this returns; what runs is not touched.

    Raises:
        UsageError: the name cannot be an agent's, or a program is named for a built-in one.
        TaskConflict: there is one of that name, and `force` is off.
        ConfigError: the folder is open to others, or the disk refuses.
        StoreError: the file is there, and no row of it can be stored.
    """
    name, directory = arguments.name, daemon.settings.config_file.parent
    copied = name in load_manifests()
    try:
        check_name(name)
    except ConfigError as error:
        raise UsageError(error.message, hint=error.hint) from error
    if copied and arguments.program:
        raise UsageError(
            f"`{name}` comes with cmesh, so this writes a copy of its manifest",
            hint=f"leave out `--program`, or set `program` of [runners.{name}]",
        )
    program = arguments.program or name
    if "/" in program and not program.startswith("/"):
        raise UsageError(f"`{program}` is no program", hint="a name, or an absolute path")
    text = manifest_text(name, program)
    try:
        path = await asyncio.to_thread(write_own, directory, name, text, force=arguments.force)
    except OSError as error:
        raise ConfigError(f"no manifest can be written: {error.strerror}") from error
    data = {"runner": name, "sha256": _sha256(text), "agent": context.agent, "pid": context.pid}
    await daemon.store.commit([AuditRecord(kind=MANIFEST_WRITTEN, data=data)])
    daemon.rules.config()  # it counts from now on
    found = await asyncio.to_thread(daemon.runners.find, name)
    return NewRunnerView(
        name=name,
        file=str(path),
        program=found,
        copied=copied,
        next=_steps(name, str(path), missing=not found, copied=copied),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _steps(name: str, file: str, *, missing: bool, copied: bool) -> list[str]:
    steps = [f"edit {file}: it counts already" if copied else f"edit {file}: its arguments first"]
    if missing:
        steps.insert(0, f"install its program, or correct `program` in {file}")
    if not copied:
        steps.append(
            f"if it takes a key: take the `#` from `[credential]` there, then run"
            f" `cmesh runners login {name} --key`"
        )
    steps.append(f"cmesh runners check {name}")
    if not copied:
        steps.append(
            f'name it in a rule: `runners = ["{name}"]`, with `profiles = ["full"]` as long as'
            " nobody has tried it with a hostile directory"
        )
    return steps
