"""The command `dashboard`."""

from typing import Annotated

import typer

from cmesh.interfaces import screens
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.options import JsonOption
from cmesh.interfaces.cli.session import call
from cmesh.paths import state_dir

__all__ = ["dashboard"]


def dashboard(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port on 127.0.0.1; 0 = one that is free.")
    ] = 0,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the browser, or print the link only.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Look at this machine in a browser. Tasks, live output, receipts, approvals, audit.

    Serves pages on 127.0.0.1 until Ctrl-C, to a browser that signs in by the link it prints: once,
    within five minutes. Enter prints a new link. Nobody else on this machine or
    network can use it.
    """
    from cmesh.interfaces.dashboard.server import Started, serve
    from cmesh.interfaces.dashboard.sign_in import LINK_S

    call(lambda client: client.status())  # starts the daemon when none runs

    def tell(started: Started) -> None:
        link = started.link()
        if as_json:
            output.print_json({"url": link, "port": started.port, "link_valid_s": LINK_S})
            return
        output.data(link)
        output.say("sign in with this link, once, within 5 minutes")
        if output.somebody():
            output.hint("Enter makes a new link, Ctrl-C ends the dashboard")

    with screens.kept(state_dir(), "dashboard"):
        serve(state_dir(), port=port, open_browser=open_browser, tell=tell)
