"""The commands about runners: which there are, how each acts here, and whether one works."""

import shlex
from typing import Annotated, TypeAlias

import typer

from cmesh.daemon.arguments import LiveRunArguments, NewRunnerArguments, RunnerArguments
from cmesh.daemon.runner_answers import (
    CheckView,
    LiveRunView,
    ManifestView,
    RunnersView,
    RunnerView,
    SelfTestView,
)
from cmesh.errors import RunnerError, RunnerUnavailable
from cmesh.interfaces.cli import keys, output
from cmesh.interfaces.cli.options import JsonOption, complete_runner
from cmesh.interfaces.cli.session import call, checked
from cmesh.interfaces.client import ControlClient
from cmesh.nearest import did_you_mean

__all__ = ["register"]

_group = typer.Typer(
    help="List the runners of this machine, look at one, check or test it, add another."
)

_COLUMNS = (
    "NAME",
    "AVAILABLE",
    "MANIFEST",
    "VERSION",
    "CREDENTIAL",
    "SELF-TEST",
    "PROFILES",
    "WHY NOT",
)

_NAME_HELP = "Runner, see `cmesh runners list`."

NameArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="NAME", help=_NAME_HELP, autocompletion=complete_runner)
]
OptionalName: TypeAlias = Annotated[
    str, typer.Argument(metavar="[NAME]", help=_NAME_HELP, autocompletion=complete_runner)
]
NewName: TypeAlias = Annotated[
    str, typer.Argument(metavar="NAME", help="What rules and callers will call it.")
]
ProgramOption: TypeAlias = Annotated[
    str,
    typer.Option("--program", metavar="P", help="Program it starts; left out: that of its name."),
]
FullOption: TypeAlias = Annotated[
    bool, typer.Option("--full", help="Without a sandbox: it can do all that you can.")
]
ForceOption: TypeAlias = Annotated[
    bool, typer.Option("--force", help="Write over a manifest that is there already.")
]


def register(app: typer.Typer) -> None:
    """Add the command group to the program."""
    keys.add_to(_group)
    app.add_typer(_group, name="runners")


@_group.command("list")
def list_(*, as_json: JsonOption = False) -> None:
    """List the runners of this machine: what can start, and in which profiles."""
    view = call(lambda client: client.list_runners())
    if as_json:
        output.print_json(view)
        return
    more = ("WHY NOT", "PROFILES", "CREDENTIAL", "VERSION", "SELF-TEST", "MANIFEST")
    output.table(_COLUMNS, [_row(runner) for runner in view.runners], may_lack=more)


@_group.command()
def show(*, name: NameArgument, as_json: JsonOption = False) -> None:
    """Show one runner as it acts here: program, arguments, what it reaches and is given.

    `{name}` in an argument stands for what only a task knows.
    """
    runner = _find(call(lambda client: client.list_runners()), name)
    if as_json:
        output.print_json(runner)
        return
    output.pairs(_facts(runner))
    if runner.hint:
        output.hint(runner.hint)


@_group.command()
def check(*, name: OptionalName = "", as_json: JsonOption = False) -> None:
    """Check a runner: its program, key, sandbox, and a self-test in a hostile directory.

    The self-test starts the agent as a task of `query` in a directory full of traps, with a
    false key and a model of cmesh's own; nothing leaves this machine. Without a name it checks
    all that the configuration or a rule names. Ends with status 51 when one does not work.
    """
    views = call(lambda client: _checked(client, name, told=not as_json))
    if as_json:
        output.print_json({"runners": [view.model_dump(mode="json") for view in views]})
    elif not views:
        output.say("neither the configuration nor a rule names a runner")
        output.hint("cmesh runners check NAME; the names: cmesh runners list")
    if not all(view.ok for view in views):
        raise typer.Exit(RunnerUnavailable.exit_status)


@_group.command("test")
def ask(*, name: NameArgument, full: FullOption = False, as_json: JsonOption = False) -> None:
    """Test a runner live: its own model is asked for one word, with its key. That costs money.

    It is started as a task of `query` is, in an empty directory. Ends with status 50 when no
    good answer came back.
    """
    arguments = checked(LiveRunArguments, name=name, full=full)
    view = call(lambda client: _asked(client, arguments, told=not as_json))
    if as_json:
        output.print_json(view)
    else:
        output.pairs(_live(view))
    if not view.ok:
        raise typer.Exit(RunnerError.exit_status)


@_group.command()
def new(
    *,
    name: NewName,
    program: ProgramOption = "",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a manifest for another agent CLI, with a comment at each key, for you to edit.

    It stands in `runners/` beside config.toml, mode 0600. Of a runner that comes with cmesh it
    is a copy, which then takes the place of that one.
    """
    arguments = checked(NewRunnerArguments, name=name, program=program, force=force)
    view = call(lambda client: client.new_runner(arguments))
    if as_json:
        output.print_json(view)
        return
    output.data(view.file)
    if not view.program:
        output.say(f"warning: the program that `{view.name}` starts is not on this machine")
    for step in view.next:
        output.hint(step)


async def _asked(client: ControlClient, arguments: LiveRunArguments, *, told: bool) -> LiveRunView:
    """Test a runner live, and tell of the cost first where it can come to one."""
    if told:
        runner = _find(await client.list_runners(), arguments.name)
        profile = "full" if arguments.full else "query"
        name = runner.name
        if profile in runner.profiles and not name.startswith("command:"):
            output.say(
                f"`{name}` asks its model once, with the key of this machine; that costs money"
            )
    return await client.test_runner(arguments)


async def _checked(client: ControlClient, name: str, *, told: bool) -> list[CheckView]:
    """Check one runner after the other, telling of each as soon as it is known."""
    names = (
        [name]
        if name
        else [runner.name for runner in (await client.list_runners()).runners if runner.wanted]
    )
    views: list[CheckView] = []
    for one in names:
        views.append(await client.check_runner(checked(RunnerArguments, name=one)))
        if told:
            _print_check(views[-1])
    return views


def _print_check(view: CheckView) -> None:
    output.data(f"{view.name}: {_found(view)}")
    for item in view.items:
        mark = "ok" if item.ok else "NO"
        output.data(
            f"  {mark}  {item.what}: {item.found}" if item.found else f"  {mark}  {item.what}"
        )
        if item.next:
            output.hint(item.next)


def _found(view: CheckView) -> str:
    if view.ok:
        return "works"
    starts = all(
        item.ok for item in view.items if item.what in ("manifest", "program", "key", "login")
    )
    return "does not work in a sandbox" if starts else "does not work"


def _live(view: LiveRunView) -> list[tuple[str, str]]:
    tokens = [
        f"{count} {way}"
        for count, way in ((view.tokens_in, "in"), (view.tokens_out, "out"))
        if count is not None
    ]
    return [
        ("name", view.name),
        ("answered", "yes" if view.ok else f"no: {view.error}"),
        ("text", view.text),
        ("version", view.version),
        ("profile", view.profile),
        ("held by", view.enforcement),
        ("credential", view.credential),
        ("took", output.duration(view.seconds)),
        ("tokens", ", ".join(tokens) or "not told"),
        ("cost", "not told" if view.cost_usd is None else f"{view.cost_usd:.4f} USD"),
    ]


def _find(view: RunnersView, name: str) -> RunnerView:
    """Return the runner of a name.

    Raises:
        RunnerUnavailable: there is none.
    """
    found = {runner.name: runner for runner in view.runners}
    if name not in found:
        meant = did_you_mean(name, list(found))
        names = f"runners here: {', '.join(found)}"
        raise RunnerUnavailable(
            f"no runner `{name}` on this machine", hint=f"{meant} else {names}" if meant else names
        )
    return found[name]


def _row(runner: RunnerView) -> list[str]:
    return [
        runner.name,
        "yes" if runner.available else "no",
        _whose(runner.manifest),
        runner.version,
        _form(runner),
        _state(runner.self_test) if runner.available else "",
        ", ".join(runner.profiles),
        runner.reason.removeprefix(f"runner `{runner.name}`: "),
    ]


def _facts(runner: RunnerView) -> list[tuple[str, str]]:
    argv = [f"{profile}: {shlex.join(words)}" for profile, words in runner.argv.items()]
    return [
        ("name", runner.name),
        ("available", "yes" if runner.available else f"no: {runner.reason}"),
        ("manifest", " ".join(filter(None, (_whose(runner.manifest), runner.manifest.file)))),
        ("program", runner.program),
        ("version", runner.version),
        ("tried by its manifest" if runner.manifest.file else "tried by us", runner.tried),
        ("self-test", _detail(runner.self_test) if runner.available else ""),
        ("profiles", ", ".join(runner.profiles)),
        ("refused", runner.refused),
        ("credential", _form(runner)),
        ("model API", runner.base_url),
        ("hosts", ", ".join(runner.hosts) if not runner.base_url else ""),
        ("variables", ", ".join(runner.env)),
        *_abilities(runner),
        ("argv", "\n".join(argv)),
    ]


def _abilities(runner: RunnerView) -> list[tuple[str, str]]:
    """Return what it can; nothing of one that is not here, since nobody has looked."""
    if not runner.available:
        return []
    return [
        ("follow-up", "yes" if runner.follow_up else "no"),
        ("reports cost", "yes" if runner.reports_cost else "no"),
        ("tells while it runs", ", ".join(runner.reports) or "no turns, no tokens"),
    ]


def _form(runner: RunnerView) -> str:
    """Return in a few words where the credential is, and who holds it."""
    if not runner.available:
        return ""
    if runner.login != "account":
        return f"key file \u2192 {runner.credential}" if runner.takes_key else runner.credential
    until = "renewed by the daemon" if runner.renews else "until when is not known"
    if runner.expires_at is not None:
        until = f"until {runner.expires_at.date().isoformat()}"
    return f"account \u2192 {runner.credential}, {until}"


def _whose(manifest: ManifestView) -> str:
    """Return whose a manifest is in a few words."""
    if not manifest.file:
        return "built in"
    return "yours, in place of the built-in" if manifest.replaces else "yours"


def _state(test: SelfTestView) -> str:
    """Return one word or two for a table."""
    if test.running:
        return "running"
    return {"none": "-", "unable": "could not run"}.get(test.state, test.state)


def _detail(test: SelfTestView) -> str:
    more = ", ".join(test.sprung) or test.reason
    at = f", {test.at}" if test.at else ""
    return f"{_state(test)}{f': {more}' if more else ''}{at}"
