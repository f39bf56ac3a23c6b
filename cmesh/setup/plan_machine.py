"""The step `machine`: name, tailnet, how long texts are kept. Pure."""

import re

from cmesh.configfile import starter_config
from cmesh.errors import UsageError
from cmesh.setup.configtext import with_value, without_value
from cmesh.setup.facts import Facts
from cmesh.setup.plan import FOREVER, Plan, Wish
from cmesh.text import one_line

__all__ = ["machine"]

_KEEP = re.compile(r"[1-9][0-9]{0,4}d")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def machine(facts: Facts, wish: Wish) -> Plan:
    """Return what sets this machine up, or changes its settings; raises as `plan_of`."""
    fresh = facts.config is None
    text = starter_config(wish.name or facts.host) if facts.config is None else facts.config
    if wish.name and not _HOST.fullmatch(wish.name):
        raise UsageError(
            f"`{one_line(wish.name, 80)}` is no host name",
            hint="letters, digits and hyphens, without a domain",
        )
    if wish.keep_text not in ("", FOREVER) and not _KEEP.fullmatch(wish.keep_text):
        raise UsageError(
            f"`{one_line(wish.keep_text, 40)}` is no time", hint="write 30d, 90d or forever"
        )
    pairs = (
        ("node", "hostname", wish.name),
        ("node", "control_url", wish.control_url),
        ("node", "auth_key_file", wish.auth_key_file),
        ("store", "keep_text", "" if wish.keep_text == FOREVER else wish.keep_text),
    )
    for table, key, value in pairs:
        if value:
            text = with_value(text, table, key, value)
    if wish.keep_text == FOREVER:
        text = without_value(text, "store", "keep_text")
    return Plan(
        step="machine",
        title="set this machine up" if fresh else "change this machine's settings",
        file=str(facts.config_file),
        before=facts.config,
        after=text,
        kept=wish.keep_text,
        effects=tuple(_machine_effects(facts, wish, fresh=fresh)),
    )


def _machine_effects(facts: Facts, wish: Wish, *, fresh: bool) -> list[str]:
    effects: list[str] = []
    if fresh:
        where = wish.control_url or "Tailscale's control server"
        host = wish.name or facts.host.partition(".")[0]
        starts = f"starts this machine's own node, which asks {where} to let it in as `{host}`"
        effects += [
            f"{starts}; {_login(wish)}",
            "nobody may ask this machine for anything, and it may ask nobody, until a later step",
        ]
        if facts.tailscale is not None:
            effects.append("the system's own Tailscale is neither used nor changed")
    elif wish.name or wish.control_url or wish.auth_key_file:
        effects.append("the node takes it up when the daemon starts next: `cmesh up --replace`")
    if wish.keep_text:
        days = f"for {wish.keep_text[:-1]} days after its end, then erased"
        kept = "for ever" if wish.keep_text == FOREVER else days
        effects.append(f"the texts of a task (prompt, output) are kept {kept}; peers are told so")
    return effects


def _login(wish: Wish) -> str:
    if wish.auth_key_file:
        return f"the auth key in {one_line(wish.auth_key_file)} logs it in"
    return "the login is a page that you open"
