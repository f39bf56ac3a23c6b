"""What a step of the wizard would change: the exact file, every side effect, and its digest. Pure.

A plan changes nothing. It is made from facts and a wish, shown to a person, and applied as it
stands; its digest covers all that is shown and done.
"""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cmesh.setup.configtext import diff

__all__ = [
    "AS_ROOT_HINT",
    "FOREVER",
    "NOBODY",
    "Block",
    "ByCode",
    "Entry",
    "Plan",
    "StepName",
    "Trusting",
    "UnitChange",
    "Wish",
]

StepName = Literal["machine", "agents", "peer", "pair", "service"]
FOREVER = "forever"
NOBODY = "none"
"""Instead of agents: register with none, and do not ask again."""

AS_ROOT_HINT = (
    "run the daemon as an ordinary user; or set `allow_root = true` under `[worker]` of config.toml,"
    " then repeat it"
)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Wish(_Value):
    """What is asked of a step; empty = its default, or not asked for.

    Attributes:
        keep_text: days such as `30d`, or `forever`.
        allow: of `peer` and `pair`: this machine asks it, works for it, or both.
        directory: where it may work here. repository: from where it may be asked.
    """

    step: StepName
    name: str = ""
    control_url: str = ""
    auth_key_file: str = ""
    keep_text: str = ""
    agents: tuple[str, ...] = ()
    peer: str = ""
    allow: Literal["", "ask", "work", "both"] = ""
    directory: str = ""
    runners: tuple[str, ...] = ()
    repository: str = ""


class Trusting(_Value):
    """A peer's key that is to be trusted, or no more."""

    node_id: str
    name: str
    fingerprint: str


class ByCode(_Value):
    """A peer whose key a code has to prove before the change is applied.

    Attributes:
        trusted: its key was trusted before, so that taking the change back leaves it so.
    """

    node_id: str
    name: str
    trusted: bool = False


class Entry(_Value):
    """What is changed in one agent's settings: lines, as a diff shows them."""

    agent: str
    add: bool
    diff: str


class Block(_Value):
    """A rule that is put into the file, letter by letter."""

    direction: str
    text: str


class UnitChange(_Value):
    """What becomes of a service manager's unit; the terminal that confirms it does it.

    Attributes:
        before, after: text of its file; None = no file.
    """

    name: str
    file: str
    before: str | None = None
    after: str | None = None


class Plan(_Value):
    """One change.

    Attributes:
        before, after: text of `config.toml`; None = no file. Equal = it is left alone.
        blocks: the rules among what is new.
        trust, untrust: keys. by_code: the peer that a code is to prove. agents, unagents: names of agents to register, or to take out.
        entries: what registering, or taking out, changes in the agents' settings.
        unit: of the service manager.
        effects: everything else that happens, a sentence each, for people.
        widens: what is allowed or exposed afterwards that was not; empty = nothing.
        kept: what was answered to how long texts are kept; empty = it was not asked.
        undoes: id of the applied change that this takes back; empty = none.
    """

    step: StepName
    title: str
    file: str
    before: str | None = None
    after: str | None = None
    blocks: tuple[Block, ...] = ()
    trust: Trusting | None = None
    untrust: Trusting | None = None
    by_code: ByCode | None = None
    agents: tuple[str, ...] = ()
    unagents: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()
    unit: UnitChange | None = None
    effects: tuple[str, ...] = ()
    widens: tuple[str, ...] = ()
    kept: str = ""
    undoes: str = ""

    @property
    def diff(self) -> str:
        """What changes in the file, in those of agents and in that of the unit."""
        own = diff(self.before, self.after, self.file)
        if self.unit is not None:
            own += diff(self.unit.before, self.unit.after, self.unit.file)
        return own + "".join(entry.diff for entry in self.entries)

    @property
    def empty(self) -> bool:
        """Nothing would change."""
        acts = self.trust or self.untrust or self.by_code or self.agents or self.unagents
        acts = acts or self.unit
        return self.before == self.after and not acts

    @property
    def sha256(self) -> str:
        """Digest of all of it, in canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
