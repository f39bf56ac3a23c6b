"""A line on the desktop by AppleScript (osascript(1)), which gets the words as an argument."""

__all__ = ["desktop_argv"]

_SCRIPT = ("on run argv", 'display notification (item 1 of argv) with title "cmesh"', "end run")


def desktop_argv(words: str) -> tuple[str, ...]:
    """Return the command that shows the words."""
    lines = [part for line in _SCRIPT for part in ("-e", line)]
    return ("/usr/bin/osascript", *lines, words)
