"""Completion of a statement and of names, without a daemon: from the views as this version has them."""

import re
from collections.abc import Iterable

from cmesh.interfaces.cli.options import complete_peer
from cmesh.interfaces.reports import REPORTS
from cmesh.interfaces.schema import known_views

__all__ = [
    "complete_peers",
    "complete_report",
    "complete_statement",
    "complete_view",
    "statement_words",
]

_LAST = re.compile(r"(.*?)((?:\w+\.)?)(\w*)$", re.DOTALL)
_TABLE_NEXT = re.compile(r"\b(?:from|join)(?:\s+\w+(?:\s+(?:as\s+)?\w+)?\s*,)*\s+$", re.IGNORECASE)
_WORD = re.compile(r"\w+")
_STRING = re.compile(r"'[^']*'")


def complete_statement(incomplete: str) -> list[str]:
    """Return the statements that begin so, each with one more name: shells replace the whole word."""
    if "\n" in incomplete:  # bash would take each line for a word of its own
        return []
    begun = _LAST.fullmatch(incomplete)
    assert begun is not None
    before = incomplete[: len(incomplete) - len(begun[3])]
    found = [before + name for name in statement_words(incomplete)]
    # A shell ends the word at the one that is left, and a statement seldom ends with a name.
    return [*found, f"{found[0]} "] if len(found) == 1 else found


def statement_words(begun: str) -> list[str]:
    """Return the names that may stand where a statement ends so: views after FROM and JOIN.

    Else columns, of the views that the statement names where it names any; none within a text.
    """
    if _STRING.sub("", begun).count("'"):
        return []
    found = _LAST.fullmatch(begun)
    assert found is not None
    before, owner, word = found.groups()
    views = known_views()
    if _TABLE_NEXT.search(before) and not owner:
        return _matching(views, word)
    if not before.strip() and not owner:
        return _matching(["SELECT"], word.upper()) if word else ["SELECT"]
    named = {one.lower() for one in _WORD.findall(_STRING.sub("", before + owner))}
    asked = [view for view in views if view in named] or list(views)
    return _matching((column for view in asked for column in views[view]), word)


def complete_view(incomplete: str) -> list[str]:
    """Return the views that begin so."""
    return _matching(known_views(), incomplete)


def complete_report(incomplete: str) -> list[str]:
    """Return the reports that begin so."""
    return _matching(REPORTS, incomplete)


def complete_peers(incomplete: str) -> list[str]:
    """Return lists of peers that begin so: the last name of the list is completed, or `all`."""
    before, comma, name = incomplete.rpartition(",")
    names = complete_peer(name)
    if not comma:
        return [*names, *_matching(["all"], name)]
    taken = before.split(",")
    return [f"{before},{one}" for one in names if one not in taken]


def _matching(names: Iterable[str], begun: str) -> list[str]:
    return [one for one in dict.fromkeys(names) if one.lower().startswith(begun.lower())]
