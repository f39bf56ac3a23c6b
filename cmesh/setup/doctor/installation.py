"""Checks of what is on this machine: configuration, directories, daemon, service. Pure."""

from collections.abc import Iterator
from dataclasses import replace

from cmesh.setup.doctor.facts import DaemonFacts, Facts, PlaceFact, ServiceFact
from cmesh.setup.doctor.finding import Finding, Group

__all__ = ["installation"]

_HERE = Group("installation")


def installation(facts: Facts) -> Iterator[Finding]:
    """Judge the configuration, the directories' modes, and how the daemon is kept."""
    yield _config(facts)
    yield from _places(facts)
    yield from _directory(facts)
    yield from _daemon(facts)
    yield from _marks(facts)
    yield from _service(facts)


def _config(facts: Facts) -> Finding:
    error = facts.config_error
    if error is not None:
        step = error.next or "edit the file, then `cmesh doctor` again"
        return _HERE.problem("config", f"{error.what}; its rules are not in force", step)
    if facts.config is None or not facts.config.configured:
        what = f"there is no configuration at `{facts.config_file}`, so nothing is allowed"
        return _HERE.warning("config", what, "run `cmesh up`, which writes a first one")
    return _HERE.ok("config", f"`{facts.config_file}` can be used")


def _places(facts: Facts) -> Iterator[Finding]:
    wrong = False
    for place in facts.state.places:
        finding = _place(place)
        if finding is not None:
            wrong = True
            yield finding
    if not wrong and facts.state.places:
        yield _HERE.ok("modes", "directories, keys and configuration are yours alone")


def _place(place: PlaceFact) -> Finding | None:
    kind = "directory" if place.directory else "file"
    if not place.mine:
        what = f"`{place.path}` is not a plain {kind} of yours, so cmesh refuses it"
        step = f"see whose it is: `ls -ld {place.path}`; then make it yours, or move it away"
        return _HERE.problem("modes", what, step)
    if place.mode & place.forbidden:
        wanted = place.mode & ~place.forbidden
        what = f"`{place.path}` has mode {place.mode:04o}, which lets other users in"
        step = f"chmod {wanted:04o} {place.path}"
        found = _HERE.problem("modes", what, step, fix="mode", target=place.path)
        return replace(found, bits=place.forbidden)
    return None


def _directory(facts: Facts) -> Iterator[Finding]:
    state = facts.state
    if not state.there:
        yield _HERE.note("state", f"`{state.path}` is not there yet; the first start makes it")
        return
    if state.network:
        what = (
            f"`{state.path}` is on a network file system ({state.file_system}): locks may not hold"
            " there, and two daemons could have one store"
        )
        step = "name a local directory by CMESH_STATE_DIR, or link XDG_STATE_HOME to one"
        yield _HERE.problem("state", what, step)
    pid = facts.daemon.pid if facts.daemon else 0
    for holder, part in ((state.store_holder, "store"), (state.node_holder, "node state")):
        # A task of one daemon of this user may hold nothing here: each part has one holder.
        if holder is not None and pid and holder != pid:
            what = f"process {holder} has the {part} open, and the daemon that answers is {pid}"
            yield _HERE.problem("state", what, f"see `ps -fp {holder}`; end it, then `cmesh up`")


def _daemon(facts: Facts) -> Iterator[Finding]:
    daemon, state = facts.daemon, facts.state
    if state.socket == "stale" and daemon is None:
        what = f"nobody serves the control socket `{state.socket_path}`, which a daemon left behind"
        yield _HERE.warning("socket", what, "cmesh doctor --fix", fix="socket",
                            target=state.socket_path)  # fmt: skip
    if daemon is None:
        yield _absent(facts)
        return
    yield _HERE.ok("daemon", f"cmesh {daemon.version} runs, process {daemon.pid}")
    if daemon.version != facts.version:
        what = f"the daemon is cmesh {daemon.version}, this command is {facts.version}"
        yield _HERE.warning("version", what, "cmesh up --replace")


def _absent(facts: Facts) -> Finding:
    why, state = facts.no_daemon, facts.state
    if state.socket == "silent" and state.store_holder is not None:
        what = f"the daemon (process {state.store_holder}) takes connections and does not answer"
        return _HERE.problem("daemon", what, f"kill {state.store_holder}; then `cmesh up`")
    if state.down:
        return _HERE.warning("daemon", "none runs: it was stopped by `cmesh down`", "cmesh up")
    if state.store_holder is not None:
        what = f"process {state.store_holder} has the store open, and no daemon answers"
        step = f"see `ps -fp {state.store_holder}`; end it, then `cmesh up`"
        return _HERE.problem("daemon", what, step)
    what = why.what if why is not None else "no daemon runs for this state directory"
    return _HERE.warning("daemon", what, (why.next if why is not None else "") or "cmesh up")


def _marks(facts: Facts) -> Iterator[Finding]:
    state = facts.state
    if state.replacing and state.replacer is None:
        what = "the mark of `cmesh up --replace` is there, and nobody is at it"
        target = f"{state.path}/replacing"
        yield _HERE.warning("mark", what, "cmesh doctor --fix", fix="mark", target=target)
    elif state.replacing:
        yield _HERE.note("mark", f"process {state.replacer} replaces the daemon just now")
    if state.down and facts.daemon is not None:
        what = "`cmesh down` was called, and a daemon answers: it is ending, or was started by hand"
        yield _HERE.warning("mark", what, "cmesh up")


def _service(facts: Facts) -> Iterator[Finding]:
    service = facts.service
    if service is None:
        return
    kind = facts.daemon.kind if facts.daemon else ""
    if not service.installed:
        if not service.manager:
            yield _HERE.note("service", "there is no service manager of yours that cmesh knows")
        elif kind != "service":
            what = "nothing starts the daemon after a reboot but a command or an agent's session"
            yield _HERE.note("service", what, "cmesh service install")
        return
    if not service.current:
        what = f"`{service.file}` is not what this version would write"
        yield _HERE.warning("service", what, "cmesh service install", fix="service",
                            target=service.file)  # fmt: skip
    yield from _unit(facts, service, facts.daemon)


def _unit(facts: Facts, service: ServiceFact, daemon: DaemonFacts | None) -> Iterator[Finding]:
    if not service.enabled:
        what = f"the {service.manager} unit is there, and does not start by itself"
        yield _HERE.warning("service", what, "cmesh service install")
    elif daemon is not None and daemon.kind != "service" and not service.active:
        what = f"the daemon runs beside its {service.manager} unit, which will not start it again"
        yield _HERE.warning("service", what, "cmesh down; cmesh up")
    else:
        stands = "runs" if service.active else "does not run"
        yield _HERE.ok("service", f"the {service.manager} unit is installed and {stands}")
    if service.lingers is False:
        what = "the unit ends when you log out, for lingering is off"
        worker = daemon is not None and daemon.worker
        if worker or (facts.config is not None and facts.config.policy.inbound):
            yield _HERE.warning("linger", what, "loginctl enable-linger")
        else:
            yield _HERE.note("linger", what, "loginctl enable-linger")
