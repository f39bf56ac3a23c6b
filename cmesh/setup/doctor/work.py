"""Checks of what tasks need here: store, disk, sandbox, runners, agents' registrations. Pure."""

from collections.abc import Iterator
from datetime import timedelta

from cmesh.setup.doctor.facts import Facts, RunnerFact
from cmesh.setup.doctor.finding import Finding, Group

__all__ = ["agents", "runners", "sandbox", "store"]

LOGIN_WARNING = timedelta(days=7)
"""So long before a runner's login ends its owner is warned."""

GIB, MIB = 1024**3, 1024**2
_DAMAGE = ("store_damaged", "disk_full", "schema_too_new", "audit_broken")
_STORE, _SANDBOX, _RUNNERS, _AGENTS = (
    Group("store"),
    Group("sandbox"),
    Group("runners"),
    Group("agents"),
)


def store(facts: Facts) -> Iterator[Finding]:
    """Judge the store's health and size, what it keeps, and the disk."""
    state, daemon = facts.state, facts.daemon
    if facts.no_daemon is not None and facts.no_daemon.code in _DAMAGE:
        yield _STORE.problem("health", facts.no_daemon.what, facts.no_daemon.next)
    elif daemon is not None:
        what = f"open, {daemon.rows} rows; {_bytes(state.store)} and {_bytes(state.outputs)} of outputs"
        yield _STORE.ok("health", what)
    elif state.there:
        what = f"{_bytes(state.store)} and {_bytes(state.outputs)} of outputs; not opened"
        yield _STORE.skipped("health", what, "cmesh audit verify")
    yield from _texts(facts)
    if state.backups:
        size = _bytes(sum(size for _name, size in state.backups))
        what = f"{len(state.backups)} copies from before migrations take {size}"
        yield _STORE.note("copies", what, f"remove those you do not need: {state.path}/store")
    if state.replaced:
        names = ", ".join(name for name, _size in state.replaced)
        size = _bytes(sum(size for _name, size in state.replaced))
        what = f"{names}: put aside by `cmesh audit restore`, {size}; no text in it is ever erased"
        paths = ", ".join(f"{state.path}/{name}" for name, _size in state.replaced)
        yield _STORE.note("replaced", what, f"remove what you do not miss of: {paths}")
    yield from _disk(facts)


def _texts(facts: Facts) -> Iterator[Finding]:
    oldest, config = facts.daemon.oldest_text if facts.daemon else None, facts.config
    if config is None:
        return
    keep = config.store.keep_text_days
    kept = "for ever" if keep is None else f"for {keep} days after the end of a task"
    if oldest is None:
        yield _STORE.ok("texts", f"texts are to be kept {kept}")
        return
    age = (facts.now - oldest).days
    what = f"texts are to be kept {kept}; the oldest is {age} days old"
    if keep is not None and age > keep:
        more = "of a task that has not ended, or to be erased within the hour"
        yield _STORE.note("texts", f"{what}: {more}", "cmesh tasks")
    else:
        yield _STORE.ok("texts", what)


def _disk(facts: Facts) -> Iterator[Finding]:
    state = facts.state
    if state.free is None:
        return
    what = f"{_bytes(state.free)} free; below {_bytes(state.floor)} no new task is taken"
    step = "free space on the disk of the state directory"
    if state.free < state.floor:
        yield _STORE.problem("disk", what, step)
    elif state.free < 4 * state.floor:
        yield _STORE.warning("disk", what, step)
    else:
        yield _STORE.ok("disk", what)


def sandbox(facts: Facts) -> Iterator[Finding]:
    """Say what holds tasks here, and why it is not more."""
    daemon = facts.daemon
    if daemon is None:
        yield _SANDBOX.skipped("tier", "only a running daemon has tried its sandbox", "cmesh up")
        return
    if not daemon.enforcement:
        yield _SANDBOX.skipped("tier", "not tried yet; the first runner's check does", _CHECK)
    elif daemon.enforcement_note:
        what = f"{daemon.enforcement}: {daemon.enforcement_note}"
        level = _SANDBOX.warning if daemon.worker else _SANDBOX.note
        yield level("tier", what, "see docs/security.md for what each tier holds")
    else:
        yield _SANDBOX.ok("tier", daemon.enforcement)
    if daemon.containment_note:
        what = f"{daemon.containment.replace('_', ' ')}: {daemon.containment_note}"
        level = _SANDBOX.warning if daemon.worker else _SANDBOX.note
        yield level("processes", what, "see docs/security.md for what that leaves")


_CHECK = "cmesh runners check"


def runners(facts: Facts) -> Iterator[Finding]:
    """Judge each runner that is wanted here, and name those that are there unasked."""
    if facts.runners is None:
        yield _RUNNERS.skipped("runners", "only a running daemon knows its runners", "cmesh up")
        return
    wanted = [one for one in facts.runners if one.wanted]
    for runner in wanted:
        yield _runner(facts, runner)
        yield from _shell(runner)
        yield from _login(facts, runner)
        yield from _live(runner)
    idle = [
        one.name for one in facts.runners if not one.wanted and (one.program or one.shell_program)
    ]
    if idle:
        what = f"on this machine, and neither configured nor named by a rule: {', '.join(idle)}"
        yield _RUNNERS.note("unused", what, "add `[runners.NAME]` to let one work here")
    elif not wanted:
        yield _RUNNERS.note("runners", "none is configured, so this machine runs no agents")


def _runner(facts: Facts, runner: RunnerFact) -> Finding:
    name, check = f"`{runner.name}`", f"{runner.name}"
    if not runner.available:
        step = runner.hint or f"{_CHECK} {runner.name}"
        return _RUNNERS.problem(check, runner.reason or f"{name} cannot start", step)
    if runner.refused:
        step = runner.hint or f"{_CHECK} {runner.name}"
        return _RUNNERS.problem(check, f"{name}: {runner.refused}", step)
    if runner.test in ("failed", "unable"):
        what = f"{name}: its self-test {'failed' if runner.test == 'failed' else 'could not run'}"
        return _RUNNERS.warning(check, what, f"{_CHECK} {runner.name}")
    version = f" {runner.version}" if runner.version else ""
    key = f", key: {runner.credential}" if runner.credential not in ("", "none") else ""
    return _RUNNERS.ok(check, f"{name}{version} at {runner.program}{key}")


def _shell(runner: RunnerFact) -> Iterator[Finding]:
    """Compare the program with the one that this user's shell would start."""
    shell, check = runner.shell_program, f"{runner.name}-path"
    if shell is None or runner.name.startswith("command:") or shell == runner.program:
        return
    if not shell:
        if runner.program:
            what = f"`{runner.name}`: your shell finds no such program; the daemon starts {runner.program}"
            yield _RUNNERS.note(check, what)
        return
    step = f'set `program = "{shell}"` under `[runners.{runner.name}]`'
    if runner.program:
        what = f"`{runner.name}`: your shell starts {shell}, the daemon {runner.program}"
        yield _RUNNERS.warning(check, what, f"{step}, if that is the one you mean")
    else:
        what = f"`{runner.name}`: your shell finds {shell}, and the daemon's path has none"
        yield _RUNNERS.warning(check, what, step)


def _login(facts: Facts, runner: RunnerFact) -> Iterator[Finding]:
    if runner.login_until is None:
        return
    left, check = runner.login_until - facts.now, f"{runner.name}-login"
    step = f"cmesh runners login {runner.name}"
    if left <= timedelta():
        yield _RUNNERS.problem(check, f"`{runner.name}`: its login has ended", step)
    elif left <= LOGIN_WARNING:
        what = f"`{runner.name}`: its login ends in {left.days} days"
        yield _RUNNERS.warning(check, what, step)
    else:
        yield _RUNNERS.ok(check, f"`{runner.name}`: its login lasts {left.days} days more")


def _live(runner: RunnerFact) -> Iterator[Finding]:
    live, check = runner.live, f"{runner.name}-live"
    if live is None:
        return
    if not live.ok:
        what = f"`{runner.name}` did not answer: {live.problem}"
        yield _RUNNERS.problem(check, what, f"cmesh runners test {runner.name}")
        return
    cost = "" if live.cost_usd is None else f" for {live.cost_usd:.4f} USD"
    yield _RUNNERS.ok(check, f"`{runner.name}` answered in {live.seconds:.1f} s{cost}")


def agents(facts: Facts) -> Iterator[Finding]:
    """Judge whether the coding agents here know cmesh's MCP server."""
    if facts.agents is None:
        return
    if not facts.agents:
        yield _AGENTS.note("agents", "no coding agent was found on this machine")
    for agent in facts.agents:
        where, more = f" in {agent.file}" if agent.file else "", agent.detail
        name, add = f"`{agent.name}`", f"cmesh mcp add {agent.name}"
        if agent.entry == "current":
            yield _AGENTS.ok(agent.name, f"{name} has cmesh{where}")
        elif agent.entry == "old":
            what = f"{name} has an older entry of cmesh{where}{f': {more}' if more else ''}"
            yield _AGENTS.warning(agent.name, what, add, fix="agent", target=agent.name)
        elif agent.entry == "foreign":
            what = f"{name} has an entry `cmesh`{where} that cmesh did not write"
            yield _AGENTS.warning(agent.name, what, "look at it; cmesh leaves it alone")
        elif agent.entry == "unreadable":
            yield _AGENTS.warning(agent.name, f"{name}: {more}", f"mend the file, then `{add}`")
        else:
            yield _AGENTS.note(agent.name, f"{name} does not know cmesh", add)


def _bytes(count: int) -> str:
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    return f"{count / MIB:.1f} MiB" if count >= MIB else f"{count // 1024} KiB"
