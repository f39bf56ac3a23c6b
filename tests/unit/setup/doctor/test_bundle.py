"""A bundle has what a bug report needs, and nothing of what is private."""

import json
from dataclasses import replace

from cmesh.setup.doctor.bundle import PARTS, contents
from cmesh.setup.doctor.examine import examine
from cmesh.setup.doctor.facts import ControlFact, Fault
from tests.unit.setup.doctor.support import DAEMON, PEER, RULE, RUNNER, config, well

KEY = "sk-ant-" + "a1B2c3D4" * 6
CANARIES = (
    "secret-project", "alice", "alice@example.org", "nALICE", "box-of-alice", "tail.example.org",
    "100.99.1.2", "/home/me", "the rule of alice", "control.alice.example", "deploy-alice",
    "nLAPTOP", KEY, "please do the thing", "label-alice", "/opt/alice",
)  # fmt: skip
LOG = f"""\
2026-11-29T12:00:00.000+00:00 info cmesh.daemon.links connected peer=box-of-alice code=ok
2026-11-29T12:00:01.000+00:00 error cmesh.daemon.worker failed reason='please do the thing' code=disk_full pid=7
Traceback (most recent call last):
  File "/home/me/venv/lib/python3.11/site-packages/cmesh/daemon/core.py", line 12, in close
    raise OSError("please do the thing")
OSError: please do the thing /home/me/secret-project
cmesh-failure {{"code": "store_busy", "message": "/home/me/secret-project"}}
{KEY}
"""
CONFIG = (
    '[node]\nhostname = "box-of-alice"\nlabels = ["label-alice"]\n'
    '[commands.deploy-alice]\nargv = ["/opt/alice/deploy"]\n'
    + RULE.replace("the laptop may ask", "the rule of alice")
    .replace("/srv/app", "/home/me/secret-project")
    .replace('runners = ["claude"]', 'runners = ["claude", "command:deploy-alice"]')
)


def files() -> dict[str, str]:
    daemon = replace(
        DAEMON, node="box-of-alice.tail.example.org", node_id="nALICE", user="alice@example.org",
        tailnet="tail.example.org", addresses=("100.99.1.2",),
        problems=(Fault(code="missing_path", what="no `/home/me/secret-project`", next="make it"),),
        health=(f"cannot reach control.alice.example with {KEY}",),
    )  # fmt: skip
    facts = well(
        daemon=daemon,
        config=config(CONFIG),
        peers=(replace(PEER, name="box-of-alice", paths=("/opt/alice",)),),
        runners=(replace(RUNNER, program="/opt/alice/claude"),),
        control=ControlFact(url="https://control.alice.example", reached=False, problem="no"),
    )
    return contents(facts, examine(facts), versions={"cmesh": "0.1.0"}, log=LOG)


def test_the_parts_are_those_that_are_told_before() -> None:
    assert set(files()) == set(PARTS)


def test_nothing_private_is_in_any_part() -> None:
    text = "\n".join(files().values())
    assert not [canary for canary in CANARIES if canary in text]


def test_what_a_bug_report_needs_is_there() -> None:
    parts = files()
    assert json.loads(parts["versions.json"]) == {"cmesh": "0.1.0"}
    findings = json.loads(parts["findings.json"])
    assert {"group": "node", "check": "control", "level": "problem"}.items() <= {
        **next(one for one in findings if one["check"] == "control")
    }.items()
    state = json.loads(parts["state.json"])
    assert state["daemon"]["problems"] == ["missing_path"]
    assert state["runners"]["claude"]["version"] == "2.1.330"
    [rule] = json.loads(parts["rules.json"])["inbound"]
    assert (rule["peers"], rule["profiles"], rule["paths"]) == (["node"], ["query"], 1)
    assert rule["runners"] == ["claude", "command"]


def test_the_log_is_kept_in_outline() -> None:
    assert files()["daemon-log.txt"].splitlines() == [
        "2026-11-29T12:00:00.000+00:00 info cmesh.daemon.links connected code=ok",
        "2026-11-29T12:00:01.000+00:00 error cmesh.daemon.worker failed code=disk_full pid=7",
        "[1 lines left out]",
        "  cmesh/daemon/core.py:12 in close",
        "[1 lines left out]",
        "  OSError",
        "[2 lines left out]",
    ]


def test_a_name_that_json_writes_otherwise_is_hidden_too() -> None:
    rule = RULE.replace("the laptop may ask", 'Jürgens \\"box\\"').replace(
        "/srv/app", "/home/jürgen/app"
    )
    facts = well(config=config(rule), home="/home/jürgen")
    warning = Fault(code="missing_path", what='`Jürgens "box"`: no /home/jürgen/x', next="make it")
    facts = replace(facts, daemon=replace(DAEMON, problems=(warning,)))
    parts = contents(facts, examine(facts), versions={"cmesh": "0.1.0"}, log="")
    shown = json.dumps(
        [json.loads(parts[n]) for n in parts if n.endswith(".json")], ensure_ascii=False
    )
    assert "<home-1>" in shown or "<path-1>" in shown
    assert "ürgen" not in shown
