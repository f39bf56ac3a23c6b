"""Each thing that can be wrong, one at a time, on a machine where all else is well."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cmesh.config import load_config
from cmesh.setup.doctor.examine import examine
from cmesh.setup.doctor.facts import (
    AgentFact,
    ControlFact,
    Facts,
    Fault,
    LiveFact,
    PlaceFact,
    ServiceFact,
    StateFacts,
)
from cmesh.setup.doctor.finding import GROUPS
from tests.unit.setup.doctor.support import (
    CONSENT,
    DAEMON,
    MIB,
    NOW,
    PEER,
    RULE,
    RUNNER,
    STATE,
    config,
    found,
    well,
)

FULL = RULE.replace('["query"]', '["full"]') + CONSENT + "\n"


def state(**changes: Any) -> Facts:
    return well(state=replace(STATE, **changes))


def daemon(**changes: Any) -> Facts:
    return well(daemon=replace(DAEMON, **changes))


def alone(code: str = "daemon_not_running", next_: str = "cmesh up", **changes: Any) -> Facts:
    """Return facts of a machine whose daemon does not answer."""
    why = Fault(code=code, what=f"said {code}", next=next_)
    given = {"store_holder": None, "node_holder": None, "socket": "none"} | changes
    gone: dict[str, Any] = {"daemon": None, "runners": None, "peers": None}
    return well(no_daemon=why, state=replace(STATE, **given), **gone)


def runner(**changes: Any) -> Facts:
    return well(runners=(replace(RUNNER, **changes),))


def peer(**changes: Any) -> Facts:
    return well(peers=(replace(PEER, **changes),))


def rule(text: str) -> Facts:
    return well(config=config(text))


def control(**changes: Any) -> Facts:
    fact = ControlFact(url="https://c", reached=True, offset_s=0.0)
    return well(control=replace(fact, **changes))


def service(**changes: Any) -> Facts:
    unit = ServiceFact(manager="systemd", installed=True, enabled=True, active=True, lingers=True)
    return well(service=replace(unit, **changes))


def place(**changes: Any) -> Facts:
    one = PlaceFact(path="/p", mode=0o600, forbidden=0o077)
    return state(places=(replace(one, **changes),))


def agent(entry: Any, detail: str = "") -> Facts:
    return well(agents=(AgentFact(name="codex", entry=entry, detail=detail),))


BAD_CONFIG = Fault(code="bad_config", what="line 3: expected a table", next="edit it")

# Facts, group, check, level, a word of what it says, a word of the next step.
CASES: list[tuple[Facts, str, str, str, str, str]] = [
    (well(config=None, config_error=BAD_CONFIG), "installation", "config", "problem", "line 3", "edit it"),
    (well(config=None), "installation", "config", "warning", "no configuration", "cmesh up"),
    (place(mode=0o644), "installation", "modes", "problem", "mode 0644", "chmod 0600 /p"),
    (place(mode=0o775, forbidden=0o022, directory=True), "installation", "modes", "problem", "0775", "chmod 0755 /p"),
    (place(mine=False), "installation", "modes", "problem", "not a plain file of yours", "ls -ld /p"),
    (state(network=True, file_system="nfs4"), "installation", "state", "problem", "nfs4", "CMESH_STATE_DIR"),
    (state(store_holder=77), "installation", "state", "problem", "process 77 has the store", "ps -fp 77"),
    (state(node_holder=78), "installation", "state", "problem", "process 78 has the node state", "ps -fp 78"),
    (well(state=StateFacts(path="/s", there=False)), "installation", "state", "note", "not there yet", ""),
    (alone(), "installation", "daemon", "warning", "said daemon_not_running", "cmesh up"),
    (alone(down=True), "installation", "daemon", "warning", "cmesh down", "cmesh up"),
    (alone(store_holder=77), "installation", "daemon", "problem", "process 77 has the store", "ps -fp 77"),
    (alone(socket="silent", store_holder=9), "installation", "daemon", "problem", "does not answer", "kill 9"),
    (alone(socket="stale"), "installation", "socket", "warning", "nobody serves", "--fix"),
    (state(replacing=True), "installation", "mark", "warning", "nobody is at it", "--fix"),
    (state(replacing=True, replacer=5), "installation", "mark", "note", "process 5", ""),
    (state(down=True), "installation", "mark", "warning", "cmesh down", "cmesh up"),
    (daemon(version="0.0.9"), "installation", "version", "warning", "0.0.9", "cmesh up --replace"),
    (service(current=False), "installation", "service", "warning", "not what this version", "cmesh service install"),
    (service(enabled=False), "installation", "service", "warning", "does not start by itself", "cmesh service install"),
    (service(lingers=False), "installation", "linger", "warning", "log out", "loginctl enable-linger"),
    (well(service=ServiceFact(manager="systemd"), daemon=replace(DAEMON, kind="detached")),
     "installation", "service", "note", "after a reboot", "cmesh service install"),
    (well(service=ServiceFact()), "installation", "service", "note", "no service manager", ""),
    (alone(), "node", "phase", "skipped", "only a running daemon", "cmesh up"),
    (daemon(phase="login"), "node", "phase", "problem", "log it in", "cmesh login"),
    (daemon(phase="login", problems=(Fault(code="key_file_missing", what="no key", next="put"),)),
     "node", "phase", "problem", "no key", "put"),
    (daemon(phase="setup"), "node", "phase", "warning", "no node yet", "cmesh up"),
    (daemon(phase="starting"), "node", "phase", "warning", "on its way", "cmesh status"),
    (daemon(phase="failed", problems=(Fault(code="node_failed", what="broke", next="mend"),)),
     "node", "phase", "problem", "broke", "mend"),
    (daemon(key_expiry=NOW + timedelta(days=5)), "node", "key", "warning", "in 5 days", "cmesh login"),
    (daemon(key_expiry=NOW - timedelta(days=1)), "node", "key", "problem", "expired", "cmesh login"),
    (daemon(key_expiry=None), "node", "key", "ok", "does not expire", ""),
    (daemon(health=("no DERP",)), "node", "health", "warning", "no DERP", "cmesh status"),
    (control(reached=False, problem="timed out"), "node", "control", "problem", "timed out", "control_url"),
    (control(proxy=True), "node", "control", "problem", "proxy only", "without the proxy"),
    (control(offset_s=3600.0), "node", "clock", "problem", "3600 s ahead of", "timedatectl"),
    (control(offset_s=-90.0), "node", "clock", "problem", "90 s behind", "timedatectl"),
    (control(offset_s=None), "node", "clock", "skipped", "not compared", ""),
    (alone("store_damaged", "restore"), "store", "health", "problem", "said store_damaged", "restore"),
    (alone(), "store", "health", "skipped", "not opened", "cmesh audit verify"),
    (state(free=100 * MIB), "store", "disk", "problem", "100.0 MiB free", "free space"),
    (state(free=300 * MIB), "store", "disk", "warning", "300.0 MiB free", "free space"),
    (state(backups=(("backup-schema-8", 5 * MIB),)), "store", "copies", "note", "5.0 MiB", "remove"),
    (rule(RULE + '[store]\nkeep_text = "2d"\n'), "store", "texts", "note", "3 days old", "cmesh tasks"),
    (state(replaced=(("store.replaced-1", 5 * MIB),)), "store", "replaced", "note", "ever erased", "remove"),
    (alone(), "sandbox", "tier", "skipped", "only a running daemon", "cmesh up"),
    (daemon(enforcement="tier 2", enforcement_note="no user namespaces"), "sandbox", "tier", "warning", "no user namespaces", "security.md"),
    (daemon(enforcement="tier 2", enforcement_note="x", worker=False), "sandbox", "tier", "note", "tier 2", ""),
    (daemon(enforcement=""), "sandbox", "tier", "skipped", "not tried", "cmesh runners check"),
    (daemon(containment="best_effort", containment_note="none"), "sandbox", "processes", "warning", "best effort", "security.md"),
    (alone(), "runners", "runners", "skipped", "only a running daemon", "cmesh up"),
    (runner(available=False, reason="no program", hint="install it"), "runners", "claude", "problem", "no program", "install it"),
    (runner(refused="untested version"), "runners", "claude", "problem", "untested version", "cmesh runners check claude"),
    (runner(test="failed"), "runners", "claude", "warning", "self-test failed", "cmesh runners check claude"),
    (runner(shell_program="/opt/claude"), "runners", "claude-path", "warning", "/opt/claude", "program = "),
    (runner(program="", available=False, reason="x", shell_program="/opt/claude"), "runners", "claude-path", "warning", "path has none", "[runners.claude]"),
    (runner(shell_program=""), "runners", "claude-path", "note", "your shell finds no such", ""),
    (runner(login_until=NOW + timedelta(days=2)), "runners", "claude-login", "warning", "in 2 days", "cmesh runners login claude"),
    (runner(login_until=NOW - timedelta(days=2)), "runners", "claude-login", "problem", "has ended", "cmesh runners login claude"),
    (runner(live=LiveFact(ok=False, problem="401")), "runners", "claude-live", "problem", "401", "cmesh runners test claude"),
    (runner(live=LiveFact(ok=True, seconds=2.0, cost_usd=0.01)), "runners", "claude-live", "ok", "0.0100 USD", ""),
    (runner(wanted=False), "runners", "unused", "note", "claude", "[runners.NAME]"),
    (well(runners=()), "runners", "runners", "note", "none is configured", ""),
    (agent("old", "0.0.9"), "agents", "codex", "warning", "older entry", "cmesh mcp add codex"),
    (agent("foreign"), "agents", "codex", "warning", "did not write", "leaves it alone"),
    (agent("unreadable", "bad TOML"), "agents", "codex", "warning", "bad TOML", "cmesh mcp add codex"),
    (agent("none"), "agents", "codex", "note", "does not know", "cmesh mcp add codex"),
    (well(agents=()), "agents", "agents", "note", "no coding agent", ""),
    (rule(""), "policy", "rules", "note", "no rule allows anything", "config.toml"),
    (rule(RULE.replace('"node:nLAPTOP"', '"*"')), "policy", "peers", "warning", "every node", "node:ID"),
    (rule(RULE.replace("node:nLAPTOP", "user:me@example.com")), "policy", "peers", "note", "names no node", "node:ID"),
    (rule(RULE.replace("/srv/app", "/")), "policy", "paths", "warning", "the whole machine", "project"),
    (rule(RULE.replace("/srv/app", "/home/me")), "policy", "paths", "warning", "your whole home", "project"),
    (rule(RULE.replace("/srv/app", "/home")), "policy", "paths", "warning", "holds your home", "project"),
    (rule(RULE.replace("/srv/app", "/home/me/.config")), "policy", "paths", "warning", "own keys", "project"),
    (rule(FULL), "policy", "full", "warning", "does not ask you first", "query"),
    (rule(FULL + 'approval = "ask"\n'), "policy", "full", "warning", "grants `full`", "query"),
    (rule(RULE + "shared = true\n"), "policy", "shared", "warning", "other tailnets", "shared"),
    (rule(RULE + "router = true\n"), "policy", "router", "warning", "advertises routes", "router"),
    (rule(RULE.replace("limits", "#")), "policy", "limits", "note", "neither run time", "limits"),
    (daemon(problems=(Fault(code="missing_path", what="no `/srv/app`", next="make it"),)), "policy", "missing_path", "problem", "no `/srv/app`", "make it"),
    (well(config=None, config_error=BAD_CONFIG), "policy", "rules", "skipped", "cannot be read", ""),
    (alone(), "peers", "peers", "skipped", "only a running daemon", "cmesh up"),
    (well(peers=None, peers_error=Fault(code="", what="the node is not up", next="cmesh status")), "peers", "peers", "skipped", "not up", "cmesh status"),
    (peer(expired=True), "peers", "laptop", "problem", "expired", "cmesh login"),
    (peer(trust="changed"), "peers", "laptop", "problem", "another cmesh key", "cmesh peers trust laptop"),
    (peer(trust="waiting"), "peers", "laptop", "warning", "waits for you", "cmesh peers trust laptop"),
    (peer(online=False), "peers", "laptop", "note", "offline", ""),
    (peer(path_problem="no answer"), "peers", "laptop", "warning", "no answer", "cmesh doctor"),
    (peer(link="down"), "peers", "laptop", "warning", "no link", "cmesh status"),
    (peer(direct=False, relay="fra"), "peers", "laptop", "ok", "by the relay fra in 1.5 ms", ""),
    (peer(), "peers", "laptop", "ok", "I may ask for query with codex", ""),
    (peer(trust="unknown", link="none"), "peers", "peers", "note", "1 more nodes", "cmesh peers"),
    (well(peers=()), "peers", "peers", "note", "no other node", "another"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "group", "check", "level", "what", "step"),
    CASES,
    ids=[f"{number}-{case[1]}-{case[2]}" for number, case in enumerate(CASES)],
)
def test_each_bad_case_is_found_with_its_next_step(
    facts: Facts, group: str, check: str, level: str, what: str, step: str
) -> None:
    one = found(facts, group, check)
    assert (one.level, what in one.what, step in one.next) == (level, True, True), one


def test_where_all_is_well_there_is_no_warning_and_each_group_says_so() -> None:
    report = examine(well())
    assert report.worst == "ok", [one for one in report.findings if one.level != "ok"]
    assert {one.group for one in report.findings} == set(GROUPS)
    assert not report.fixable


def test_the_list_keeps_its_order_and_counts() -> None:
    report = examine(alone(socket="stale"))
    order = [GROUPS.index(one.group) for one in report.findings]
    assert order == sorted(order)
    assert report.worst == "warning"
    assert [one.fix for one in report.fixable] == ["socket"]
    assert report.count("warning") == 2


def test_whatever_is_wrong_has_a_next_step() -> None:
    for facts, *_rest in CASES:
        for one in examine(facts).findings:
            assert one.next or one.level not in ("warning", "problem"), one


def test_where_there_is_no_configuration_no_step_names_a_line_of_it(tmp_path: Path) -> None:
    facts = replace(alone(), config=load_config(tmp_path / "config.toml"))
    assert "cmesh up" in found(facts, "installation", "config").next
    rules = found(facts, "policy", "rules")
    assert (rules.level, rules.next) == ("skipped", "")
    assert not any("config.toml" in one.next for one in examine(facts).findings)


def test_of_the_state_directory_only_what_was_put_aside_is_to_be_removed() -> None:
    put_aside = (("store.replaced-1", MIB), ("store.replaced-2", MIB))
    one = found(state(replaced=put_aside), "store", "replaced")
    paths = [word.rstrip(",") for word in one.next.split() if word.startswith("/")]
    assert paths == [f"{STATE.path}/{name}" for name, _size in put_aside]
