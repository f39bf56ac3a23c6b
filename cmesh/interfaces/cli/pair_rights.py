"""What a paired machine may ask: asked of the person, written as narrow rules, tried by a question."""

import time
from dataclasses import dataclass, field

from cmesh.clock import SystemClock
from cmesh.daemon.answers import PeerView, TaskView
from cmesh.daemon.arguments import DelegateArguments, SqlArguments
from cmesh.daemon.pair_calls import (
    PairArguments,
    PairRulesArguments,
    PairRulesView,
    PairRuleView,
    PairView,
)
from cmesh.errors import PairingEnded, RunnerUnavailable, UsageError, VersionMismatch
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.delegate import explain_end
from cmesh.interfaces.cli.follow import make_progress, wait_for
from cmesh.interfaces.cli.options import from_here
from cmesh.interfaces.cli.rows import print_rows
from cmesh.interfaces.cli.session import call, checked
from cmesh.setup.plan import AS_ROOT_HINT

__all__ = ["FIRST_QUESTION", "Settled", "Wishes", "print_rules", "settle"]

FIRST_QUESTION = "In one sentence: what is in this directory?"

OFFER_LIMIT_S, OFFER_POLL_S = 600.0, 1.0
"""How long the other machine's owner is waited for to say what may be asked there."""

HEAR_EVERY = 3
"""In every which look the other machine is asked whether its owner said that nothing may be."""

PROMPTS_MOST = 5
"""How often a directory is asked for that cannot be used."""

QUERY = "query"

_ROW = "SELECT ts, direction, peer, effect, rule, reason FROM decisions WHERE task_id = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What was said on the command line; None = the person is asked.

    Attributes:
        runners: who works here for the peer; empty = every agent that can.
        question: empty = none.
    """

    directory: str | None
    runners: list[str]
    ask: bool | None
    question: str


@dataclass(slots=True)
class Settled:
    """What came of it."""

    rules: list[PairRuleView] = field(default_factory=list[PairRuleView])
    task: TaskView | None = None


def settle(view: PairView, wishes: Wishes, *, quiet: bool) -> Settled:
    """Ask what may be asked in which direction, write that, and try it.

    Ctrl-C leaves it there: what was written stays, and the command can be run again.
    """
    settled = Settled()
    try:
        directory = _directory(view, wishes)
        ask = _ask(view, wishes, asked=bool(directory))
        written = call(
            lambda client: client.pair_rules(
                checked(
                    PairRulesArguments,
                    peer=view.node_id,
                    directory=directory,
                    runners=wishes.runners,
                    ask=ask,
                    shared=view.shared,
                    router=view.router,
                    write=True,
                )
            )
        )
        settled.rules = written.rules
        if not quiet:
            print_rules(written)
        if directory:
            output.say(f"{view.peer} may ask about {directory} now, read-only")
        if ask and wishes.question:
            settled.task = _first_question(view, wishes.question, quiet=quiet)
    except KeyboardInterrupt:
        output.say("stopped here; the keys are confirmed, and what was written stays")
        output.hint(f"cmesh pair {view.peer} goes on, cmesh pair --undo {view.peer} takes it back")
    return settled


def print_rules(view: PairRulesView) -> None:
    """Print each rule and what became of it."""
    for rule in view.rules:
        if rule.state == "there":
            output.say(f"nothing to write: the rule `{rule.allowed_by}` allows it already")
        elif rule.state in ("written", "removed"):
            where = "into" if rule.state == "written" else "out of"
            output.say(f"{rule.state} {where} {view.file}:")
            output.data(rule.text)
        elif rule.state == "gone":
            output.say(f"the rule `{rule.name}` was not there any more")
        else:
            output.say(f"the rule `{rule.name}` was changed since; it is left as it is")
            output.hint(f"take it out of {view.file} yourself")
    if any(rule.state == "written" for rule in view.rules):
        output.hint(f"cmesh pair --undo {view.peer} takes exactly that out again")


def _directory(view: PairView, wishes: Wishes) -> str:
    """Return the directory that the peer may ask about; empty = none. Tried, but not written."""
    if wishes.directory is not None:
        if wishes.directory:
            _try(view, wishes.directory, wishes.runners)
        return wishes.directory
    if wishes.ask:
        return ""
    if view.cannot_work:
        output.say(f"{view.peer} can ask for nothing here yet: {view.cannot_work}")
        output.hint(f"{AS_ROOT_HINT}: cmesh pair {view.peer}")
        return ""
    for _ in range(PROMPTS_MOST):
        directory = output.ask(
            f"directory of this machine that {view.peer} may ask about, read-only (Enter = none): "
        )
        if not directory:
            return ""
        directory = from_here(directory)
        try:
            _try(view, directory, wishes.runners)
        except UsageError as error:
            output.say(f"{error.message}; {error.hint}")
        except RunnerUnavailable as error:
            output.say(f"{error.message}: {view.peer} can ask for nothing here yet")
            output.hint(error.hint)
            return ""
        else:
            return directory
    return ""


def _try(view: PairView, directory: str, runners: list[str]) -> None:
    arguments = checked(
        PairRulesArguments,
        peer=view.node_id,
        directory=directory,
        runners=runners,
        shared=view.shared,
        router=view.router,
    )
    call(lambda client: client.pair_rules(arguments))


def _ask(view: PairView, wishes: Wishes, *, asked: bool) -> bool:
    """Say whether this machine may ask the peer; a worker is not asked, the least is given."""
    if wishes.ask is not None:
        return wishes.ask
    if asked:
        return False
    more = ", and ask it a first question" if wishes.question else ""
    answer = output.ask(f"may this machine ask {view.peer}{more}? [Y/n] ")
    return answer.lower() in ("", "y", "yes")


def _first_question(view: PairView, question: str, *, quiet: bool) -> TaskView | None:
    """Ask the peer, once its owner has said what may be asked there; show result and audit row."""
    peer = _offered(view)
    if peer is None:
        return None
    agents = [name for name in peer.runners if not name.startswith("command:")]
    arguments = checked(
        DelegateArguments,
        peer=peer.node_id,
        prompt=question,
        directory=peer.paths[0],
        runner=(agents or peer.runners)[0],
        profile=QUERY,
    )
    output.say(f"asking {view.peer}: {question}")
    progress = make_progress(quiet=quiet)
    with progress:
        task = call(lambda client: client.delegate(arguments))
        task = wait_for(task.task_id, progress)
    if quiet:
        return task
    output.data(task.summary)
    explain_end(task)
    output.say(f'the audit row, by cmesh sql "{_ROW.replace("?", repr(task.task_id))}"')
    row = SqlArguments(sql=_ROW, parameters=[task.task_id])
    print_rows(call(lambda client: client.sql(row)))
    return task


def _offered(view: PairView) -> PeerView | None:
    """Wait until the peer says that it takes queries of this machine.

    None = it did not in time, or its owner said that it takes none; the person is told which.
    """
    told, looks = False, 0
    clock = SystemClock()
    end = clock.monotonic() + OFFER_LIMIT_S
    while clock.monotonic() < end:
        for peer in call(lambda client: client.list_peers()).peers:
            ready = QUERY in peer.may_ask and peer.runners and peer.paths
            if peer.node_id == view.node_id and ready:
                return peer
        if not told:
            told = True
            output.say(
                f"waiting until {view.peer} says what may be asked there: answer it there"
                " (Ctrl-C leaves it)"
            )
        if looks % HEAR_EVERY == 0 and _gives_nothing(view):
            output.say(f"on {view.peer} it was said that this machine may ask for nothing there")
            output.hint(
                f"`cmesh pair` on {view.peer} once more changes that; then cmesh peers {view.peer}"
            )
            return None
        looks += 1
        time.sleep(OFFER_POLL_S)
    output.say(f"{view.peer} has not said what may be asked there")
    output.hint(f"answer the question of `cmesh pair` on {view.peer}, then cmesh peers {view.peer}")
    return None


def _gives_nothing(view: PairView) -> bool:
    look = PairArguments(peer=view.node_id, step="offer")
    try:
        return call(lambda client: client.pair(look)).gives_nothing
    except (PairingEnded, UsageError, VersionMismatch):  # it restarted, or is an older one
        return False
