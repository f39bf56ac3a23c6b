"""Conditions on a peer's machine, such as `os=linux`, `docker`, `memory>=16G`. Pure.

A condition is a word alone, or a key, one of `= != >= <= > <`, and a value. What a peer has not
told holds for no condition.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from cmesh.errors import UsageError
from cmesh.nearest import did_you_mean
from cmesh.protocol.machine import Machine

__all__ = ["KEYS", "Term", "bytes_text", "mismatch", "parse"]

KEYS = ("os", "os_version", "arch", "cpus", "memory", "gpu", "label", "runner")
"""Keys with a meaning of their own; any other one is a tool, and a word alone also a label."""

_TERM = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._+:-]*)\s*(?:(>=|<=|!=|=|>|<)\s*(\S.{0,78}?))?\s*")
_VERSION = re.compile(r"\d+(\.\d+){0,5}")
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
_LABELLED = frozenset({"tag", "tags", "labels"})
_EQUALITY = frozenset({"=", "!="})
_WORDS = frozenset({"os", "arch", "gpu", "label", "runner"})
_UNITS = ("", "K", "M", "G", "T")
_SAME = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64", "darwin": "macos"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One condition; `op` is empty for a word alone."""

    text: str
    key: str
    op: str = ""
    value: str = ""


def parse(text: str) -> Term:
    """Return the condition that a text means.

    Raises:
        UsageError: it has no such form; the hint says which form is right.
    """
    found = _TERM.fullmatch(text)
    if found is None:
        raise _wrong(text, "write `KEY`, or `KEY=VALUE` with one of = != >= <= > <")
    word, op, value = found[1], found[2] or "", found[3] or ""
    key = word.lower() if word.lower() in KEYS else word
    if not op and key in KEYS and key != "gpu":
        raise _wrong(text, f"say which: `{_EXAMPLES[key]}`")
    if op and key in _WORDS and op not in _EQUALITY:
        raise _wrong(text, f"`{key}` is a word: compare it with = or !=")
    if key == "memory" and op and _bytes(value) is None:
        raise _wrong(text, "write a size such as `16G` (10^9 bytes each) or `16Gi` (2^30)")
    if key == "cpus" and op and not value.isdecimal():
        raise _wrong(text, "write a number such as `cpus>=8`")
    if op and key not in {*_WORDS, "memory", "cpus"} and not _VERSION.fullmatch(value):
        meant = "" if key in KEYS else did_you_mean(key, KEYS, most=1)
        if key in _LABELLED and not meant:
            meant = "did you mean `label=" + value[:40] + "`?"
        wanted = f"a version in numbers such as `{key}>=3.11`"
        raise _wrong(text, f"{meant} else write {wanted}" if meant else f"write {wanted}")
    return Term(text=text.strip(), key=key, op=op, value=value)


def mismatch(terms: Sequence[Term], machine: Machine | None) -> str:
    """Return the first thing about a machine that does not hold, in words; empty = all does."""
    if machine is None:
        return "it has told nothing of its machine" if terms else ""
    return next((wrong for term in terms if (wrong := _wrong_with(term, machine))), "")


def bytes_text(count: int) -> str:
    """Return a size as people read it and as `memory` takes it: `16.7G`."""
    size, unit = float(count), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.1f}".removesuffix(".0") + _UNITS[unit]


def _wrong_with(term: Term, machine: Machine) -> str:
    match term.key:
        case "os":
            return _word(term, [machine.os, machine.distribution])
        case "arch":
            return _word(term, [machine.arch])
        case "os_version":
            return _versions(term, machine.os_version)
        case "cpus":
            return _number(term, machine.cpus, int(term.value), str(machine.cpus))
        case "memory":
            shown = bytes_text(machine.memory or 0)
            return _number(term, machine.memory, _bytes(term.value) or 0, shown)
        case _:
            return _listed(term, machine)


def _listed(term: Term, machine: Machine) -> str:
    match term.key:
        case "gpu":
            return _gpu(term, machine)
        case "label":
            return _one_of(term, machine.labels, "labels")
        case "runner":
            runners = machine.runners
            ready = None if runners is None else [one.name for one in runners if one.ready]
            return _one_of(term, ready, "runners that can start")
        case _:
            return _tool(term, machine)


def _word(term: Term, names: Sequence[str]) -> str:
    if not names[0]:
        return f"{term.key} is not told"
    same = _plain(term.value) in {_plain(name) for name in names if name}
    return "" if same == (term.op == "=") else f"{term.key} is {names[0]}"


def _number(term: Term, have: int | None, wanted: int, shown: str) -> str:
    if have is None:
        return f"{term.key} is not told"
    order = (have > wanted) - (have < wanted)
    return "" if _holds(term.op, order) else f"{term.key} is {shown}"


def _gpu(term: Term, machine: Machine) -> str:
    if machine.gpus is None:
        return "gpu is not told"
    if not term.op:
        return "" if machine.gpus else "no gpu"
    wanted = term.value.lower()
    there = any(wanted in name.lower() for name in machine.gpus)
    shown = ", ".join(machine.gpus) or "none"
    return "" if there == (term.op == "=") else f"gpu is {shown}"


def _one_of(term: Term, names: Sequence[str] | None, what: str) -> str:
    if names is None:
        return f"{what} are not told"
    if (term.value in names) == (term.op == "="):
        return ""
    if term.op != "=":
        return f"it has {term.key} {term.value}"
    return f"no {term.key} {term.value}{_meant(term.value, names)}"


def _tool(term: Term, machine: Machine) -> str:
    tools, labels = machine.tools, machine.labels
    if not term.op:
        if term.key in (labels or ()) or term.key in (tools or ()):
            return ""
        known = (*(tools or ()), *(labels or ()), *KEYS)
        return "tools are not told" if tools is None else f"no {term.key}{_meant(term.key, known)}"
    if tools is None:
        return "tools are not told"
    if term.key not in tools:
        return f"no {term.key}{_meant(term.key, (*tools, *KEYS))}"
    return _versions(term, tools[term.key])


def _meant(name: str, known: Sequence[str]) -> str:
    """Return the question whether a name is a slip; of what there is to slip from, empty = none."""
    meant = did_you_mean(name, known, most=1)
    return f" ({meant.removesuffix('?')})" if meant else ""


def _versions(term: Term, have: str) -> str:
    """Compare number by number: `=22` holds for each 22.x, and `>22` for 22.1."""
    told, found = _VERSION.match(have), f"{term.key} is {have}"
    if told is None:
        return f"the version of {term.key} is not known"
    mine = [int(part) for part in told[0].split(".")]
    wanted = [int(part) for part in term.value.split(".")]
    if term.op in _EQUALITY:
        same = (mine + [0] * len(wanted))[: len(wanted)] == wanted
        return "" if same == (term.op == "=") else found
    order = 0
    for left, right in zip_longest(mine, wanted, fillvalue=0):
        order = order or (left > right) - (left < right)
    return "" if _holds(term.op, order) else found


def _holds(op: str, order: int) -> bool:
    return {
        "=": order == 0,
        "!=": order != 0,
        ">=": order >= 0,
        "<=": order <= 0,
        ">": order > 0,
        "<": order < 0,
    }[op]


def _bytes(text: str) -> int | None:
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    power = _UNITS.index(found[2].upper())
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def _plain(name: str) -> str:
    lower = name.lower()
    return _SAME.get(lower, lower)


_EXAMPLES = {
    "os": "os=linux",
    "os_version": "os_version>=12",
    "arch": "arch=x86_64",
    "cpus": "cpus>=8",
    "memory": "memory>=16G",
    "label": "label=lab",
    "runner": "runner=claude",
}


def _wrong(text: str, hint: str) -> UsageError:
    return UsageError(f"`{text[:100]}` is no condition on a machine", hint=hint)
