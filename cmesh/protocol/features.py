"""What a task may ask for that not every version of a worker takes. Pure.

A worker that does not know a field of a task cannot check the payload's hash, so it refuses the
whole link. So each side says in the handshake what it takes, and a caller asks for no more.
"""

from collections.abc import Collection, Mapping

from cmesh.model import TaskSpec
from cmesh.protocol.convert import wire_spec
from cmesh.protocol.proof_messages import PROOF
from cmesh.protocol.session_events import Opened

__all__ = ["FEATURES", "SQL", "SQL_NAMED", "TAKES", "lacking", "outdated"]

FEATURES: Mapping[str, str] = {
    "turns": "a limit of turns (`--max-turns`)",
    "tokens": "a limit of tokens (`--max-tokens`)",
    "follows": "follow-up turns (`cmesh reply`)",
    "artifacts": "files as results (`--artifact`)",
    "base": "another base than the commit (`--base`)",
    "changes": "your uncommitted changes (`--with-changes`)",
    "answer_schema": "answers by a JSON Schema (`--answer-schema`)",
}
"""Fields of `spec.Spec` that came later, each with what it means to who asks."""

SQL = "sql"
"""That a node answers `sql` and hears `sql_cancel`; another one drops a link over the latter."""

SQL_NAMED = "sql_named"
"""That it takes the field `named` of `sql`, which another one would leave out without a word."""

TAKES: tuple[str, ...] = (*FEATURES, PROOF, SQL, SQL_NAMED)
"""What this version says of itself: those fields, and the messages `proof` and `sql`."""


def lacking(spec: TaskSpec, takes: Collection[str]) -> tuple[str, ...]:
    """Return which fields of a task a worker does not know that takes `takes`."""
    sent = wire_spec(spec)
    return tuple(name for name in FEATURES if getattr(sent, name) and name not in takes)


def outdated(spec: TaskSpec, peer: str, opened: Opened) -> str:
    """Say, for people, what of a task the peer of a link does not take; empty = nothing."""
    lacks = lacking(spec, opened.takes)
    if not lacks:
        return ""
    what = ", ".join(FEATURES[name] for name in lacks)
    return f"`{peer}` runs {opened.software or 'an older version'}, which does not take {what}"
