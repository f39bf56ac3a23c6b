"""The facts of `cmesh doctor`: this machine's own, and those that only a daemon can tell.

Starts nothing. What cannot be had is left out with its reason, so that the other checks go on.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cmesh import __version__
from cmesh.clock import Clock
from cmesh.config import Config, load_config
from cmesh.daemon.answers import PeerView, StatusView
from cmesh.daemon.arguments import LiveRunArguments, SqlArguments
from cmesh.daemon.diagnosis_answers import DiagnosisView, PathView
from cmesh.daemon.runner_answers import RunnerView
from cmesh.errors import CmeshError, ConfigError, DaemonTimeout
from cmesh.interfaces.client import ControlClient, run
from cmesh.interfaces.launch import read_launch
from cmesh.paths import control_socket
from cmesh.setup.agents import survey
from cmesh.setup.doctor.facts import (
    AgentFact,
    DaemonFacts,
    Entry,
    Facts,
    Fault,
    LiveFact,
    PeerFact,
    RunnerFact,
)
from cmesh.setup.doctor.outside import control_fact, shell_programs
from cmesh.setup.doctor.places import state_facts
from cmesh.setup.service.here import surroundings, unit_of
from cmesh.setup.service.manager import fact
from cmesh.setup.surroundings import surroundings as this_machine

__all__ = ["find_out", "peer_fact", "runner_fact"]

_OLDEST = "SELECT min(created_at) FROM tasks WHERE prompt IS NOT NULL"

_ENTRIES: Mapping[str, Entry] = {
    "absent": "none",
    "current": "current",
    "outdated": "old",
    "foreign": "foreign",
    "unreadable": "unreadable",
}

_T = TypeVar("_T")


def find_out(state: Path, config_file: Path, clock: Clock, *, live: bool) -> Facts:
    """Look at everything; with `live` each runner that is used here is asked for one word.

    Blocks: each question has a limit, and a live run takes up to 75 s.
    """
    config, error = _config(config_file)
    facts = Facts(
        now=clock.now(),
        version=__version__,
        home=str(Path.home()),
        config_file=str(config_file),
        state=state_facts(state, config_file, config),
        config=config,
        config_error=error,
    )
    facts = _with_daemon(facts, state, live=live)
    if config is not None and config.configured:
        facts = replace(facts, control=control_fact(config.node.control_url, clock))
    unit = unit_of(state, config_file.parent)
    facts = replace(facts, service=fact(surroundings(state), unit))
    return replace(_with_shell(facts), agents=_agents())


def _agents() -> tuple[AgentFact, ...]:
    """Look into the settings of each agent that is on this machine."""
    return tuple(
        AgentFact(
            name=one.client.name,
            entry=_ENTRIES[one.standing],
            file=str(one.path),
            detail=one.detail,
        )
        for one in survey(this_machine())
        if one.here or one.standing != "absent"
    )


def _config(file: Path) -> tuple[Config | None, Fault | None]:
    try:
        return load_config(file), None
    except CmeshError as error:
        return None, _fault(error)
    except OSError as error:
        why = ConfigError(f"`{file}` cannot be read: {error.strerror}")
        return None, _fault(why)


def _fault(error: CmeshError) -> Fault:
    return Fault(code=error.code, what=error.message, next=error.hint)


def _with_daemon(facts: Facts, state: Path, *, live: bool) -> Facts:
    async def ask(client: ControlClient) -> Facts:
        return await _asked(facts, client, _kind(state), live=live)

    try:
        return run(control_socket(state), ask, agent=f"cmesh cli {__version__}")
    except CmeshError as error:
        silent = isinstance(error, DaemonTimeout)
        stands = replace(facts.state, socket="silent") if silent else facts.state
        return replace(facts, no_daemon=_fault(error), state=stands)


async def _asked(facts: Facts, client: ControlClient, kind: str, *, live: bool) -> Facts:
    status = await client.status()
    diagnosis, _why = await _or_why(client.diagnose)
    oldest, _why = await _or_why(lambda: client.sql(SqlArguments(sql=_OLDEST)))
    listed, _why = await _or_why(client.list_runners)
    runners = [runner_fact(view) for view in listed.runners] if listed is not None else None
    if runners is not None and live:
        runners = [await _live(client, runner) for runner in runners]
    peers, why = (await _or_why(client.list_peers)) if status.phase == "up" else (None, None)
    paths = {path.node_id: path for path in diagnosis.paths} if diagnosis else {}
    return replace(
        facts,
        daemon=_daemon(status, diagnosis or DiagnosisView(), kind, _time(oldest)),
        runners=tuple(runners) if runners is not None else None,
        peers=tuple(peer_fact(view, paths.get(view.node_id)) for view in peers.peers)
        if peers is not None
        else None,
        peers_error=why or (None if peers else _not_up(status)),
    )


async def _or_why(ask: Callable[[], Awaitable[_T]]) -> tuple[_T | None, Fault | None]:
    """Ask; an error is a finding too, and keeps the other questions from nothing."""
    try:
        return await ask(), None
    except CmeshError as error:
        return None, _fault(error)


def _not_up(status: StatusView) -> Fault:
    return Fault(code="", what=f"the node is not up ({status.phase})", next="cmesh status")


def _time(view: object) -> datetime | None:
    rows = getattr(view, "rows", None)
    if not rows or not rows[0] or not rows[0][0]:
        return None
    try:
        found = datetime.fromisoformat(str(rows[0][0]))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _kind(state: Path) -> str:
    try:
        return read_launch(state).kind
    except CmeshError:
        return ""


def _daemon(
    status: StatusView, diagnosis: DiagnosisView, kind: str, oldest: datetime | None
) -> DaemonFacts:
    return DaemonFacts(
        version=status.version,
        phase=status.phase,
        pid=status.pid,
        kind=kind,
        node=status.node,
        node_id=status.node_id,
        user=status.user,
        tailnet=status.tailnet,
        testnet=status.testnet,
        addresses=tuple(status.addresses),
        login_url=status.login_url,
        key_expiry=status.key_expiry,
        worker=status.worker,
        enforcement=status.enforcement,
        enforcement_note=status.enforcement_note,
        containment=status.containment,
        containment_note=status.containment_note,
        running=status.running,
        rows=status.store_seq,
        problems=tuple(Fault(code=p.code, what=p.what, next=p.next) for p in status.problems),
        health=tuple(diagnosis.health),
        search_path=diagnosis.search_path,
        oldest_text=oldest,
    )


def runner_fact(view: RunnerView) -> RunnerFact:
    """Return what the doctor is told of a runner."""
    return RunnerFact(
        name=view.name,
        wanted=view.wanted,
        available=view.available,
        program=view.program,
        version=view.version,
        credential=view.credential,
        reason=view.reason,
        hint=view.hint,
        refused=view.refused,
        test=view.self_test.state,
        login_until=view.expires_at,
    )


async def _live(client: ControlClient, runner: RunnerFact) -> RunnerFact:
    if not (runner.wanted and runner.available) or runner.name.startswith("command:"):
        return runner
    view, why = await _or_why(lambda: client.test_runner(LiveRunArguments(name=runner.name)))
    if view is None:
        return replace(runner, live=LiveFact(ok=False, problem=why.what if why else ""))
    live = LiveFact(ok=view.ok, problem=view.error, seconds=view.seconds, cost_usd=view.cost_usd)
    return replace(runner, live=live)


def peer_fact(view: PeerView, path: PathView | None) -> PeerFact:
    """Return what the doctor is told of a peer; `path` is None when it was not asked."""
    reached = path is not None and not path.problem
    return PeerFact(
        name=view.name,
        node_id=view.node_id,
        user=view.user,
        addresses=tuple(view.addresses),
        online=view.online,
        expired=view.expired,
        shared=view.shared,
        link=view.link,
        trust=view.trust,
        version=view.version,
        may_ask=tuple(view.may_ask),
        runners=tuple(view.runners),
        paths=tuple(view.paths),
        direct=path.direct if path and reached else None,
        relay=path.relay if path else "",
        ping_ms=path.ping_ms if path else None,
        path_problem=path.problem if path else "",
    )


def _with_shell(facts: Facts) -> Facts:
    """Compare the runners' programs with those that this user's shell would start."""
    if facts.runners is None:
        return facts
    agents = [one for one in facts.runners if not one.name.startswith("command:")]
    names = {one.name: Path(one.program).name if one.program else one.name for one in agents}
    found = shell_programs(names)
    runners = tuple(replace(one, shell_program=found.get(one.name)) for one in facts.runners)
    return replace(facts, runners=runners)
