"""A line on the desktop by notify-send of libnotify."""

__all__ = ["desktop_argv"]


def desktop_argv(words: str) -> tuple[str, ...]:
    """Return the command that shows the words."""
    return ("notify-send", "--app-name=cmesh", "--", words)
