"""What `cmesh doctor` does: the check list, its fixes, and a bundle for a bug report."""

import io
import os
import sys
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from cmesh.clock import SystemClock
from cmesh.errors import CmeshError, ConfigError, DoctorProblem, DoctorWarning, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.servicing import renew_service
from cmesh.interfaces.daemon_log import LOG_TAIL_BYTES
from cmesh.interfaces.doctor_facts import find_out
from cmesh.interfaces.versions import machine_versions, versions
from cmesh.paths import config_file, log_file, state_dir
from cmesh.setup.agents import apply, plan_add
from cmesh.setup.clients import client_named
from cmesh.setup.doctor import bundle
from cmesh.setup.doctor.examine import Report, examine
from cmesh.setup.doctor.facts import Facts
from cmesh.setup.doctor.finding import GROUPS, Finding
from cmesh.setup.doctor.mend import describe, mend
from cmesh.setup.surroundings import surroundings

__all__ = ["Wishes", "run_doctor"]

_MARKS = {"ok": "ok", "note": "note", "skipped": "-", "warning": "WARN", "problem": "FAIL"}
_EXITS = {
    "ok": 0,
    "warning": DoctorWarning.exit_status,
    "problem": DoctorProblem.exit_status,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command was asked for; `bundle` is a file's name, empty = none."""

    fix: bool
    yes: bool
    live: bool
    bundle: str
    as_json: bool


def run_doctor(wishes: Wishes) -> int:
    """Do what `cmesh doctor` was asked for; return its exit status. Blocks.

    Raises:
        UsageError: a question would have to be asked, and nobody is there.
        ConfigError: the bundle cannot be written.
    """
    _require_somebody(
        asked=(wishes.fix or bool(wishes.bundle)) and not wishes.yes, as_json=wishes.as_json
    )
    facts, report = _look(live=wishes.live, told=not wishes.as_json)
    fixed: list[Finding] = []
    if not wishes.as_json:
        _print(report)
    if wishes.fix:
        fixed = _fix(report, yes=wishes.yes)
        if fixed:
            facts, report = _look(live=False, told=False)
    if wishes.bundle:
        _bundle(Path(wishes.bundle), facts, report, yes=wishes.yes)
    if wishes.as_json:
        output.print_json(
            {
                "worst": report.worst,
                "findings": [_public(one) for one in report.findings],
                "fixed": [_public(one) for one in fixed],
                "bundle": str(Path(wishes.bundle).absolute()) if wishes.bundle else "",
            }
        )
    else:
        output.say(_count(report))
    return _EXITS[report.worst]


def _require_somebody(*, asked: bool, as_json: bool) -> None:
    if asked and (as_json or not (sys.stdin.isatty() and sys.stderr.isatty())):
        raise UsageError(
            "nobody is at a terminal to be asked",
            hint="repeat it with --yes, or look first: `cmesh doctor`",
        )


def _look(*, live: bool, told: bool) -> tuple[Facts, Report]:
    if live and told:
        output.say(
            "each runner asks its model once, with the key of this machine; that costs money"
        )
    facts = find_out(state_dir(), config_file(), SystemClock(), live=live)
    return facts, examine(facts)


def _print(report: Report) -> None:
    for group in GROUPS:
        found = [one for one in report.findings if one.group == group]
        if not found:
            continue
        output.data(group)
        for one in found:
            output.data(f"  {_MARKS[one.level]:<5} {one.what}")
            if one.next and one.level != "ok":
                output.data(f"        next: {one.next}")


def _count(report: Report) -> str:
    counts = [
        f"{count} {word}{'s' if count != 1 else ''}"
        for word in ("problem", "warning")
        if (count := report.count(word))
    ]
    more = f"; {len(report.fixable)} of them by `cmesh doctor --fix`" if report.fixable else ""
    return (", ".join(counts) or "no problem and no warning") + more


def _fix(report: Report, *, yes: bool) -> list[Finding]:
    """Do each fix after a yes; return those that were done."""
    done: list[Finding] = []
    for one in report.fixable:
        what = describe(one)
        if not yes and not typer.confirm(f"{one.what}\n{what}?", default=False, err=True):
            continue
        try:
            mend(one, state_dir(), {"service": renew_service, "agent": _renew_agent})
        except CmeshError as error:
            output.say(f"not done: {what}: {error.message}")
            continue
        output.say(f"done: {what}")
        done.append(one)
    if not report.fixable:
        output.say("there is nothing that `--fix` may mend")
    return done


def _renew_agent(name: str) -> None:
    here, client = surroundings(), client_named(name)
    if client is None:
        raise CmeshError(f"no agent is called `{name}`", hint="cmesh mcp list")
    apply(here, plan_add(here, client))


def _bundle(path: Path, facts: Facts, report: Report, *, yes: bool) -> None:
    output.say(f"{path} will hold:")
    for name, what in bundle.PARTS.items():
        output.say(f"  {name}: {what}")
    output.say("no prompt, result, key, name or path that cmesh knows; read it before you send it")
    if not yes and not typer.confirm("Write it?", default=False, err=True):
        raise typer.Abort
    files = bundle.contents(
        facts, report, versions=versions() | machine_versions(), log=_log_tail()
    )
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"`{path}` cannot be written: {error.strerror}", hint="name another FILE"
        ) from error
    with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in files.items():
            data = text.encode("utf-8", "backslashreplace")
            member = tarfile.TarInfo(f"cmesh-doctor/{name}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(facts.now.timestamp())
            archive.addfile(member, io.BytesIO(data))
    output.say(f"wrote {path}")


def _log_tail() -> str:
    try:
        with log_file(state_dir()).open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(0, end - LOG_TAIL_BYTES))
            return log.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _public(finding: Finding) -> dict[str, object]:
    fields = asdict(finding)
    return {name: fields[name] for name in ("group", "check", "level", "what", "next", "fix")}
