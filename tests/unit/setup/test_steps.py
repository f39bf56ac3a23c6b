"""What comes next follows from what is there, whoever asks and after whatever happened."""

from typing import Any

import pytest

from cmesh.setup.facts import AgentFact, RunnerFact, SystemTailscale
from cmesh.setup.steps import next_of, steps_of
from tests.unit.setup.facts import UNIT, UP, facts, peer

MET = peer(trust="trusted", asks=True, linked=True)
KEYLESS = RunnerFact(name="claude", program="/c", needs_key=True, obstacle="no key")
CASES: list[tuple[dict[str, Any], str, dict[str, Any], str]] = [
    ({}, "setup_step", {"step": "machine", "name": "laptop"}, "30 days"),
    (
        {"tailscale": SystemTailscale(control_url="https://hs.example.com")},
        "setup_step",
        {"control_url": "https://hs.example.com"},
        "",
    ),
    (UP | {"keep_text": None}, "setup_step", {"step": "machine", "keep_text": "30d"}, "30 days"),
    (UP | {"phase": "starting"}, "setup_check", {"wait_s": 20}, ""),
    (UP | {"phase": "login", "login_url": "https://l/1"}, "setup_check", {}, "https://l/1"),
    (UP | {"phase": "login", "login_url": "file:///etc"}, "setup_check", {}, "no web page"),
    (UP | {"phase": "failed"}, "setup_check", {}, "cmesh login"),
    (UP | {"problem": "line 3: expected"}, "setup_check", {}, "line 3"),
    (
        UP | {"agents": (AgentFact(name="claude"),)},
        "setup_step",
        {"step": "agents", "agents": ["claude"]},
        "",
    ),
    (UP, "setup_check", {"wait_s": 20}, "continue helping me configure cmesh for this new node"),
    (UP | {"peers": (peer(is_cmesh=None),)}, "setup_check", {}, "continue helping"),
    (
        UP | {"peers": (peer(),)},
        "setup_step",
        {"step": "pair", "peer": "builder", "allow": "work", "directory": "/home/me/src/app"},
        "both",
    ),
    (
        UP | {"peers": (peer(),), "project": "/home/me"},
        "setup_step",
        {"step": "pair", "allow": "work", "directory": "…"},
        "ask the user about which one directory",
    ),
    (
        UP | {"peers": (peer(),), "runners": (KEYLESS,)},
        "setup_step",
        {"step": "pair", "allow": "ask"},
        "`cmesh runners login claude`",
    ),
    (UP | {"peers": (peer(),), "runners": ()}, "setup_step", {"allow": "ask"}, ""),
    (
        UP | {"peers": (peer(fingerprint="", trust="unknown"),)},
        "setup_step",
        {"step": "pair"},
        "on `builder`",
    ),
    (UP | {"peers": (peer(asks=True),)}, "setup_step", {"step": "pair"}, ""),
    (UP | {"peers": (MET,)}, "setup_check", {}, "on `builder` the user says"),
    (
        UP | {"peers": (peer(trust="trusted", works=True, linked=True),)},
        "list_peers",
        {},
        "may ask",
    ),
    (
        UP | {"unit": UNIT, "peers": (peer(trust="trusted", works=True, linked=True),)},
        "setup_step",
        {"step": "service"},
        "ask the user whether systemd",
    ),
    (
        UP
        | {"unit": UNIT, "peers": (peer(trust="trusted", works=True, linked=True),)}
        | {"service_asked": True},
        "list_peers",
        {},
        "may ask",
    ),
]


@pytest.mark.parametrize(("more", "tool", "arguments", "user"), CASES)
def test_the_next_call(more: dict[str, Any], tool: str, arguments: dict[str, Any], user: str):
    step = next_of(facts(**more), pending=False)
    assert step.tool == tool
    assert arguments.items() <= dict(step.arguments).items()
    assert user in step.user


def test_a_change_that_waits_comes_before_everything():
    step = next_of(facts(), pending=True)
    assert (step.tool, step.arguments) == ("setup_check", {"wait_s": 20})
    assert "`cmesh confirm`" in step.user


def test_the_end_is_a_first_question():
    known = peer(
        trust="trusted", asks=True, linked=True, may_ask=("query",), paths=("/srv",), runners=("x",)
    )
    step = next_of(facts(**UP, peers=(known,), unit=UNIT), pending=False)
    assert step.tool == "delegate"
    assert step.arguments["directory"] == "/srv"
    assert 'setup_step(step="service")' in step.user
    kept = steps_of(facts(**UP, peers=(known,), service="systemd"))
    assert all(one.done for one in kept)
    undone = [one.name for one in steps_of(facts(**UP, peers=(known,))) if not one.done]
    assert undone == ["service"]


def test_an_answered_question_is_not_asked_again():
    done = {one.name: one.done for one in steps_of(facts(**UP | {"keep_text": None}))}
    assert not done["machine"]
    asked = steps_of(facts(**UP | {"keep_text": None}, kept_asked=True))
    assert asked[0].done
    agents = (AgentFact(name="claude"),)
    assert (
        next_of(facts(**UP, agents=agents, agents_asked=True), pending=False).tool != "setup_step"
    )


@pytest.mark.parametrize(
    ("more", "step", "said"),
    [
        ({"wanted_name": "laptop"}, "login", "`laptop` is on the tailnet"),
        (
            {"wanted_name": "laptop", "node": "laptop-1"},
            "login",
            "`laptop-1` is on the tailnet: not `laptop`, which another node there has",
        ),
        (
            {"wanted_name": "my_laptop", "node": "my-laptop"},
            "login",
            "`my-laptop` is on the tailnet",
        ),
        ({"phase": "starting", "trouble": "no answer"}, "login", "starting: no answer"),
        ({"phase": "login", "trouble": "no key"}, "login", "waits for a person: no key"),
        ({"keep_text": None}, "machine", "how long texts are kept was not said yet"),
        ({"serviceable": False}, "service", "no service manager of this user runs here"),
        ({"service": "systemd"}, "service", "systemd keeps the daemon"),
        ({}, "service", "the user runs `cmesh service install`"),
        ({"unit": UNIT}, "service", 'setup_step(step="service")'),
        ({}, "verify", "no link yet with a machine that a rule here is about"),
        ({"peers": (MET,)}, "verify", "lets this machine ask for nothing yet"),
    ],
)
def test_a_step_says_on_what_it_rests(more: dict[str, Any], step: str, said: str):
    what = {one.name: one.what for one in steps_of(facts(**UP | more))}
    assert said in what[step]
    assert ("not `laptop`" in what["login"]) == (more.get("node") == "laptop-1")


def test_who_would_refuse_every_task_is_not_offered_to_work():
    step = next_of(facts(**UP, peers=(peer(),), root_refused=True), pending=False)
    assert step.arguments["allow"] == "ask"
    assert "work for it" not in step.user
