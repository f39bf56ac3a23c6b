"""The commands about policy: what would be decided and why, and the rules as read."""

import shlex
from dataclasses import asdict
from typing import Annotated, cast

import typer

from cmesh.daemon.answers import DecisionView
from cmesh.daemon.arguments import ExplainArguments
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.exits import DENIED_EXIT
from cmesh.interfaces.cli.options import (
    CostOption,
    JsonOption,
    PeerArgument,
    ProfileOption,
    RunnerOption,
    TokensOption,
    TurnsOption,
    accept_argv,
    count,
    seconds,
)
from cmesh.interfaces.cli.session import call, checked
from cmesh.paths import config_file
from cmesh.tomltext import rule_lines

__all__ = ["register"]

_group = typer.Typer(help="Explain policy decisions, show the rules.")


def register(app: typer.Typer) -> None:
    """Add the command group to the program."""
    app.add_typer(_group, name="policy")


@_group.command()
def explain(  # noqa: PLR0913 - typer reads the options from the signature
    *,
    peer: PeerArgument,
    inbound: Annotated[
        bool,
        typer.Option("--inbound/--outbound", help="What the peer may ask here, or I may there."),
    ] = False,
    operation: Annotated[str, typer.Option(help="task, follow_up, accept, sql_own …")] = "task",
    profile: ProfileOption = "query",
    runner: RunnerOption = "claude",
    directory: Annotated[
        str, typer.Option("--directory", "-C", help="Directory on the worker.")
    ] = "",
    accept: Annotated[str, typer.Option(metavar="COMMAND", help="Acceptance command.")] = "",
    timeout: Annotated[str, typer.Option(metavar="TIME", help="Run time asked for.")] = "15m",
    max_turns: TurnsOption = "0",
    max_tokens: TokensOption = "0",
    max_cost: CostOption = 0,
    prompt_bytes: Annotated[int, typer.Option(help="Size of the prompt.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Say what policy would decide and why.

    Names the rule, what failed, and the smallest change that would allow it. Nothing is sent or stored. Ends with status 30 when the answer is deny.
    """
    arguments = checked(
        ExplainArguments,
        direction="inbound" if inbound else "outbound",
        peer=peer,
        operation=operation,
        profile=profile,
        runner=runner,
        directory=directory,
        accept=accept_argv(accept),
        timeout_s=seconds(timeout),
        turns=count(max_turns),
        tokens=count(max_tokens),
        cost_usd=max_cost,
        prompt_bytes=prompt_bytes,
    )
    view = call(lambda client: client.explain(arguments))
    if as_json:
        output.print_json(view)
    else:
        _print_decision(view)
    if view.effect == "deny":
        raise typer.Exit(DENIED_EXIT)


@_group.command()
def show(*, as_json: JsonOption = False) -> None:
    """Show the rules as cmesh reads them from `config.toml`, each with its line.

    Needs no daemon: it reads the file now.
    """
    from cmesh.config import load_config

    path = config_file()
    config = load_config(path)
    policy = asdict(config.policy)
    if as_json:
        output.print_json({"file": str(path), "exists": config.configured, **policy})
        return
    output.pairs([("file", str(path)), ("sha256", str(policy["sha256"]))])
    if not config.configured:
        output.say("there is no such file, so nothing is allowed")
        output.hint("cmesh up")
    lines = rule_lines(path.read_text("utf-8")) if config.configured else {}
    for direction in ("inbound", "outbound"):
        rules: list[dict[str, object]] = list(policy[direction])
        if not rules:
            output.data(f"\n{direction}: no rule, so everything is denied")
        for rule in rules:
            line = lines.get((direction, str(rule["name"])))
            at = f"  ({path.name} line {line})" if line else ""
            output.data(f"\n{direction} {rule['effect']}: {rule['name']}{at}")
            rest = [(name, _value(value)) for name, value in rule.items()]
            output.pairs([row for row in rest if row[0] not in ("effect", "name")])


def _print_decision(view: DecisionView) -> None:
    by = f", by rule `{view.rule}`" if view.rule else ", since no rule allows it"
    output.data(f"{view.effect}{by}")
    for failed in view.failed:
        output.data(
            f"rule `{failed.rule}`: {failed.condition} wants {failed.wanted}, got {failed.got}"
        )
    if view.change:
        output.hint(view.change)
    if view.there:
        output.say(view.there)


def _value(value: object) -> str:
    """Return a rule's field as text; empty for what is not set."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        if set(fields) == {"kind", "value"}:
            return f"{fields['kind']}:{fields['value']}" if fields["value"] else "*"
        if "base" in fields:
            return _narrowed(fields)
        return ", ".join(f"{name} {item}" for name, item in fields.items() if item is not None)
    if isinstance(value, list | tuple):
        items = cast("list[object]", value)
        # One profile of the owner's is a clause of its own, with commas in it.
        between = "; " if items and isinstance(items[0], dict) and "base" in items[0] else ", "
        return between.join(_element(item) for item in items)
    return "" if value is None or value is False else str(value)


def _narrowed(fields: dict[str, object]) -> str:
    """Return a profile of the owner's in one clause: its base, and what it sets."""
    rest = [(key, _value(fields[key])) for key in ("read", "write", "hosts", "limits")]
    said = [f"{key} {text}" for key, text in rest if text]
    return f"{fields['name']}: {', '.join([str(fields['base']), *said])}"


def _element(item: object) -> str:
    # A list in a list is an acceptance command's argv.
    return shlex.join(cast("list[str]", item)) if isinstance(item, list | tuple) else _value(item)
