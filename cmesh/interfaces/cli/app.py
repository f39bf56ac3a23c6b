"""The command line: one program, its commands, and the one place where errors become statuses.

Commands raise; only `main` prints errors. Usage errors are 2, Ctrl-C is 130,
a pipe that nobody reads 141, all others are the exit status of their class.
"""

import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cmesh import __version__
from cmesh.errors import CmeshError, UsageError
from cmesh.interfaces.cli import (
    agents,
    audit,
    confirm,
    daemon,
    doctor,
    events,
    output,
    peers,
    policy,
    query,
    runners,
    schema,
    service,
    setup,
    tasks,
    uninstall,
    watch,
)
from cmesh.interfaces.cli.dashboard import dashboard
from cmesh.interfaces.cli.exits import DETACHED_EXIT
from cmesh.interfaces.cli.options import JsonOption
from cmesh.interfaces.cli.pair import pair
from cmesh.interfaces.cli.standard_output import (
    PIPE_EXIT,
    OutputClosed,
    OutputFailed,
    guard_output,
)
from cmesh.paths import state_dir

__all__ = ["app", "main"]

# What typer leaves to pydantic, in words for whoever types.
_PLAIN = (
    (re.compile(r"Input should be a valid integer.*"), "a whole number"),
    (re.compile(r"Input should be a valid number.*"), "a number"),
    (re.compile(r"Input should be greater than or equal to (\S+)"), r"at least \1"),
    (re.compile(r"Input should be less than or equal to (\S+)"), r"at most \1"),
)

_logger = logging.getLogger(__name__)

app = typer.Typer(
    name="cmesh",
    help="Hand a policy-gated task to a coding agent on another machine you own.",
    pretty_exceptions_enable=False,
    # Help is read in pipes and by agents too, and texts with brackets are no markup.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        output.data(f"cmesh {__version__}")
        raise typer.Exit


@app.callback()
def program(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print cmesh's version; `cmesh version` has those of all parts.",
        ),
    ] = False,
) -> None:
    """Hand a policy-gated task to a coding agent on another machine you own."""
    del version


@app.command()
def demo(
    *,
    runner: Annotated[
        str, typer.Option(help="Agent that does the work; default: a script that really looks.")
    ] = "",
    key_file: Annotated[
        str, typer.Option(metavar="FILE", help="The agent's API key, in a file of mode 0600.")
    ] = "",
    base_url: Annotated[
        str, typer.Option(metavar="URL", help="The agent's model API, when not its default.")
    ] = "",
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running, say how to register it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Watch a delegation between two nodes on this machine. Needs no account."""
    from cmesh.interfaces.demo import DemoOptions
    from cmesh.interfaces.demo import main as run_demo

    options = DemoOptions(
        as_json=as_json, keep=keep, runner=runner, key_file=key_file, base_url=base_url
    )
    raise typer.Exit(run_demo(options))


setup.register(app)
confirm.register(app)
daemon.register(app)
peers.register(app)
app.command()(pair)
tasks.register(app)
events.register(app)
watch.register(app)
query.register(app)
schema.register(app)
audit.register(app)
policy.register(app)
runners.register(app)
doctor.register(app)
agents.register(app)
service.register(app)
app.command()(dashboard)
uninstall.register(app)


def main(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit status. Blocks."""
    guard_output()
    # A locale that lacks a character must not turn an answer into a failure.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    as_json = "--json" in arguments
    try:
        command = typer.main.get_command(app)
        words = list(arguments) or ["--help"]
        status: object = command.main(words, prog_name="cmesh", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except OutputClosed:
        return PIPE_EXIT
    except UsageError as error:
        failure = _with_page(error, arguments)
    except CmeshError as error:
        failure = error
    except typer.Abort:
        return DETACHED_EXIT
    except KeyboardInterrupt:
        return DETACHED_EXIT
    except typer.TyperException as error:
        failure = _usage(error)
    except Exception as error:
        _keep_details()
        _logger.exception("command_failed")
        failure = _unexpected(error)
    return _tell(failure, as_json=as_json)


def _tell(failure: CmeshError, *, as_json: bool) -> int:
    """Print an error where it can be printed; return the exit status."""
    try:
        output.print_error(failure, as_json=as_json and not isinstance(failure, OutputFailed))
        sys.stdout.flush()
    except OutputClosed:
        return PIPE_EXIT
    except OutputFailed as error:
        output.print_error(error, as_json=False)
    return failure.exit_status


def _with_page(error: UsageError, arguments: Sequence[str]) -> UsageError:
    """Return the error with the command's own help page as its hint, when it has no better one."""
    if error.hint != UsageError.default_hint:
        return error
    command, path = typer.main.get_command(app), "cmesh"
    for word in arguments:
        child = getattr(command, "commands", {}).get(word)
        if child is None:
            break
        command, path = child, f"{path} {word}"
    return UsageError(error.message, hint=f"see `{path} --help`")


def _usage(error: typer.TyperException) -> UsageError:
    context: typer.Context | None = getattr(error, "ctx", None)
    path = context.command_path if context else "cmesh"
    message = str(getattr(error, "message", "")) or str(error)
    formatted = getattr(error, "format_message", None)
    text = str(formatted()) if formatted else message
    for words, plain in _PLAIN:
        text = words.sub(plain, text)
    return UsageError(f"{text[:1].lower()}{text[1:]}".rstrip("."), hint=f"see `{path} --help`")


def _keep_details() -> None:
    """Send the traceback to a file; people get one line."""
    _logger.propagate = False
    _logger.addHandler(logging.NullHandler())
    try:
        handler = logging.FileHandler(_details(), encoding="utf-8")
    except OSError:
        # Without a state directory there is no place for details.
        return
    _details().chmod(0o600)
    _logger.addHandler(handler)


def _unexpected(error: Exception) -> CmeshError:
    kept = _details().exists()
    return CmeshError(
        f"internal error: {type(error).__name__}: {error}",
        hint=f"the details are in {_details()}" if kept else "",
    )


def _details() -> Path:
    return state_dir() / "cli.log"
