"""Paths of POSIX: components between slashes, each name another one's unless they are equal."""

import posixpath

__all__ = ["goes_up", "is_absolute", "is_below", "may_be_below", "normal"]


def is_absolute(text: str) -> bool:
    """Say whether the text is an absolute path."""
    return text.startswith("/") and "\0" not in text


def goes_up(text: str) -> bool:
    """Say whether a component is `..`."""
    return ".." in text.split("/")


def normal(text: str) -> str | None:
    """Return an absolute path in normal form, or None when it is not one.

    `..` is refused, not folded: folding it is wrong where a link stands before it.
    """
    if not is_absolute(text) or goes_up(text):
        return None
    # POSIX lets `//x` mean something else than `/x`, so normpath keeps two slashes.
    return "/" + posixpath.normpath(text).lstrip("/")


def is_below(path: str, root: str) -> bool:
    """Say whether one normal path is the other or below it."""
    return path == root or path.startswith(root if root == "/" else root + "/")


def may_be_below(path: str, root: str) -> bool:
    """Say the same as `is_below`: a name is compared byte by byte."""
    return is_below(path, root)
