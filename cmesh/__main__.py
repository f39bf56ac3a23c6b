"""The `cmesh` command: sends `mcp` and `daemon` on before anything slow is imported.

An agent waits for `cmesh mcp`, so that path must load neither typer nor pydantic.
"""

import sys

__all__ = ["main"]

INTERRUPTED = 130
"""Exit status after Ctrl-C while the command line is still being loaded (128 + SIGINT)."""


def main() -> int:
    """Run the command of `sys.argv`; return its exit status."""
    arguments = sys.argv[1:]
    first = arguments[0] if arguments else ""
    if arguments == ["mcp"]:
        from cmesh.interfaces.mcp.relay import main as relay

        return relay()
    if first == "daemon":
        from cmesh.interfaces.serve import main as serve

        return serve(arguments[1:])
    if first == "autostart":
        from cmesh.interfaces.autostart import main as autostart

        return autostart()
    try:
        from cmesh.interfaces.cli.app import main as cli
    except KeyboardInterrupt:
        return INTERRUPTED
    return cli(arguments)


if __name__ == "__main__":
    sys.exit(main())
