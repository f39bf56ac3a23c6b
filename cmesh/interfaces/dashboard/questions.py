"""What the audit page can ask without a word of SQL typed: the cookbook's questions, the reports."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import groupby

__all__ = ["Question", "grouped", "questions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A saved question: `name` is made of its words, and stands in addresses."""

    name: str
    group: str
    question: str
    sql: str


@cache
def questions() -> Mapping[str, Question]:
    """Return the questions of `docs/audit-cookbook.md` by name. Reads a file of ours."""
    text = resources.files("cmesh.interfaces").joinpath("questions.json").read_text("utf-8")
    found = [Question(name=_name(one["question"]), **one) for one in json.loads(text)]
    return {question.name: question for question in found}


def grouped() -> list[tuple[str, Sequence[Question]]]:
    """Return the questions below the cookbook's headings, in its order."""
    each = groupby(questions().values(), key=lambda question: question.group)
    return [(group, list(members)) for group, members in each]


def _name(question: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", question.partition("?")[0].lower()).strip("-")
