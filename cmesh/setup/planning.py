"""The plan of a step, by its name. Pure."""

from cmesh.setup.facts import Facts
from cmesh.setup.plan import Plan, Wish
from cmesh.setup.plan_agents import agents
from cmesh.setup.plan_machine import machine
from cmesh.setup.plan_peer import peer
from cmesh.setup.plan_service import service

__all__ = ["plan_of"]

_STEPS = {"machine": machine, "agents": agents, "peer": peer, "pair": peer, "service": service}


def plan_of(facts: Facts, wish: Wish) -> Plan:
    """Return what the step would change here.

    Raises:
        UsageError: a value cannot be, or one is missing; says which.
        UnknownPeer: no such peer.
        PeerUntrusted: its key is not known yet, or is another than the trusted one.
        RootRefused: this machine would refuse every task, since its daemon is root.
        ServiceFailed: no systemd to keep the daemon, or another file in the unit's place.
        ConfigError: the file cannot be changed without touching the rest of it.
    """
    return _STEPS[wish.step](facts, wish)
