"""The step `agents`: cmesh among the MCP servers of the agents here. Pure."""

from cmesh.errors import UsageError
from cmesh.setup.facts import Facts
from cmesh.setup.plan import NOBODY, Plan, Wish
from cmesh.text import one_line

__all__ = ["agents"]


def agents(facts: Facts, wish: Wish) -> Plan:
    """Return what registers cmesh with the agents here; raises as `plan_of`."""
    known = {agent.name: agent for agent in facts.agents}
    all_of_them = tuple(n for n, a in known.items() if a.state in ("missing", "outdated"))
    names = () if wish.agents == (NOBODY,) else wish.agents or all_of_them
    for name in names:
        if name not in known:
            raise UsageError(
                f"no agent `{one_line(name, 40)}` was found here",
                hint=f"agents here: {', '.join(known) or 'none'}",
            )
    wanted = [known[name] for name in names if known[name].state != "ours"]
    effects = [
        f"adds `cmesh mcp` to the MCP servers of {agent.title or agent.name}"
        + (f": {agent.place}" if agent.place else "")
        for agent in wanted
    ]
    return Plan(
        step="agents",
        title="register cmesh with the agents here",
        file=str(facts.config_file),
        before=facts.config,
        after=facts.config,
        agents=tuple(agent.name for agent in wanted),
        effects=tuple(effects),
    )
