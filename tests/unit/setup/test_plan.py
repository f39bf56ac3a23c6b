"""Plans of the wizard: narrow, whole, bound to their digest, and refused where they would not be."""

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cmesh.config import read_config
from cmesh.errors import CmeshError, PeerUntrusted, RootRefused, UnknownPeer, UsageError
from cmesh.setup.facts import AgentFact, RunnerFact, SystemTailscale
from cmesh.setup.plan import ByCode, Plan, Wish
from cmesh.setup.planning import plan_of
from cmesh.setup.records import Applied
from cmesh.setup.undo import reverse_of
from cmesh.setup.widening import widenings
from tests.unit.setup.facts import CONFIG, UP, facts, peer

FILE = Path("/home/me/.config/cmesh/config.toml")
WORK: dict[str, Any] = {"step": "peer", "peer": "builder", "allow": "work", "directory": "/srv/app"}


def plan(wish: dict[str, Any], **more: Any) -> Plan:
    return plan_of(facts(**more), Wish.model_validate(wish))


def test_a_first_configuration_allows_nobody_anything():
    made = plan({"step": "machine", "name": "box", "keep_text": "30d"})
    config = read_config(FILE, made.after or "")
    assert (config.node.hostname, config.store.keep_text_days) == ("box", 30)
    assert not config.policy.inbound + config.policy.outbound
    assert any("Tailscale's control server" in effect for effect in made.effects)
    assert any("kept for 30 days" in effect for effect in made.effects)


def test_a_login_by_a_key_is_no_page():
    made = plan({"step": "machine", "name": "box", "auth_key_file": "/srv/key"})
    assert "the auth key in /srv/key logs it in" in made.effects[0]
    assert "page" not in made.effects[0]


def test_a_daemon_that_refuses_tasks_as_root_gets_no_rule_that_allows_them():
    with pytest.raises(RootRefused, match="refuse every task of `builder`") as caught:
        plan(WORK, **UP, peers=(peer(),), root_refused=True)
    assert "allow_root = true" in caught.value.hint
    assert plan(WORK | {"allow": "ask"}, **UP, peers=(peer(),), root_refused=True).blocks


def test_for_ever_writes_no_key_and_is_remembered():
    for_days = f'{CONFIG}\n[store]\nkeep_text = "30d" # mine\n'
    made = plan({"step": "machine", "keep_text": "forever"}, config=for_days)
    assert made.after == f"{CONFIG}\n[store]\n"
    made = plan({"step": "machine", "keep_text": "forever"}, config=CONFIG)
    assert made.before == made.after
    assert (made.empty, made.kept) == (True, "forever")


def test_a_system_tailscale_is_said_to_be_left_alone():
    made = plan({"step": "machine"}, tailscale=SystemTailscale(socket="/run/t"))
    assert "the system's own Tailscale is neither used nor changed" in made.effects


def test_both_directions_are_two_narrow_rules_and_a_key():
    made = plan(WORK | {"allow": "both"}, **UP, peers=(peer(),))
    rules = tomllib.loads(made.after or "")
    [asks], [works] = rules["outbound"]["allow"], rules["inbound"]["allow"]
    assert works["peers"] == asks["peers"] == ["node:nBUILD"]
    assert works["profiles"] == asks["profiles"] == ["query"]
    assert (works["paths"], works["runners"]) == (["/srv/app"], ["claude"])
    assert asks["repos"] == ["/home/me/src/app"]
    assert made.trust is not None
    assert made.trust.fingerprint == "ab12 cd34"
    config = read_config(FILE, made.after or "")
    wider = widenings(read_config(FILE, CONFIG), config)
    assert len(wider) == 2
    assert widenings(config, read_config(FILE, CONFIG)) == ()


def test_a_pairing_trusts_no_key_but_the_one_that_a_code_proves():
    unseen = peer(trust="unknown", fingerprint="")
    made = plan(WORK | {"step": "pair"}, **UP, peers=(unseen,))
    assert (made.trust, made.by_code) == (None, ByCode(node_id="nBUILD", name="builder"))
    assert made.blocks == plan(WORK, **UP, peers=(peer(),)).blocks
    assert any("proves by a code" in effect for effect in made.effects)
    # A key that was only compared, or met first, is proved still; one that was proved is not again.
    known = plan(WORK | {"step": "pair"}, **UP, peers=(peer(trust="trusted"),))
    assert known.by_code == ByCode(node_id="nBUILD", name="builder", trusted=True)
    proved = plan(WORK | {"step": "pair"}, **UP, peers=(peer(trust="trusted", by_code=True),))
    assert proved.by_code is None


@pytest.mark.parametrize(("before", "goes"), [(False, True), (True, False)])
def test_a_pairing_is_taken_back_with_the_trust_it_brought_and_no_other(before: bool, goes: bool):
    known = peer(trust="trusted" if before else "unknown")
    made = plan(WORK | {"step": "pair"}, **UP, peers=(known,))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    back = reverse_of([Applied(plan_id="s-1", plan=made, at=at, done=True)], "pair", made.after)
    assert (back.after, back.untrust is not None) == (made.before, goes)


@pytest.mark.parametrize(
    ("wish", "more", "error", "says"),
    [
        ({"step": "machine", "name": "a b"}, {}, UsageError, "no host name"),
        ({"step": "machine", "keep_text": "soon"}, {}, UsageError, "no time"),
        (WORK, {"config": None}, UsageError, "not set up"),
        (WORK | {"peer": "biulder"}, UP, UnknownPeer, "no peer"),
        (WORK | {"allow": ""}, UP, UsageError, "say what"),
        (WORK | {"directory": ""}, UP, UsageError, "absolute"),
        (WORK | {"directory": "src"}, UP, UsageError, "absolute"),
        (WORK | {"directory": "/srv/../etc"}, UP, UsageError, "absolute"),
        (WORK | {"directory": "/"}, UP, UsageError, "your home"),
        (WORK | {"directory": "/home/me"}, UP, UsageError, "your home"),
        (WORK | {"directory": "/home"}, UP, UsageError, "your home"),
        (WORK | {"directory": "/home/me/.config/cmesh/runners"}, UP, UsageError, "cmesh"),
        (WORK | {"runners": ("codex",)}, UP, UsageError, "codex"),
        (WORK, UP | {"runners": ()}, UsageError, "no agent here"),
        (WORK | {"allow": "ask"}, UP | {"project": ""}, UsageError, "repository"),
        (WORK, UP | {"peers": (peer(shared=True),)}, UsageError, "shared"),
        (WORK, UP | {"peers": (peer(trust="changed"),)}, PeerUntrusted, "another key"),
        (
            WORK | {"step": "pair"},
            UP | {"peers": (peer(trust="changed"),)},
            PeerUntrusted,
            "another key",
        ),
        (
            WORK,
            UP | {"peers": (peer(trust="unknown", fingerprint=""),)},
            PeerUntrusted,
            "not shown",
        ),
        ({"step": "agents", "agents": ("emacs",)}, {}, UsageError, "emacs"),
    ],
)
def test_what_is_wide_missing_or_unknown_is_refused_with_a_next_step(
    wish: dict[str, Any], more: dict[str, Any], error: type[CmeshError], says: str
):
    with pytest.raises(error, match=says) as caught:
        plan(wish, **({"peers": (peer(),)} | more))
    assert caught.value.hint


def test_a_runner_that_lacks_something_says_what():
    runners = (RunnerFact(name="claude", program="/c", needs_key=True, obstacle="no key file"),)
    with pytest.raises(UsageError, match="no key file"):
        plan(WORK | {"runners": ("claude",)}, **UP | {"runners": runners}, peers=(peer(),))
    with pytest.raises(UsageError, match="can work") as caught:
        plan(WORK, **UP | {"runners": runners}, peers=(peer(),))
    assert "cmesh runners login claude --key" in caught.value.hint


def test_a_step_made_again_changes_nothing():
    known = peer(trust="trusted", asks=True, works=True)
    wish = {"step": "peer", "peer": "nBUILD", "allow": "both"}
    assert plan(wish, **UP, peers=(known,)).empty


def test_a_rule_gets_a_name_of_its_own():
    first = plan(WORK, **UP, peers=(peer(),))
    again = plan(WORK, **UP | {"config": first.after}, peers=(peer(),))
    names = [rule["name"] for rule in tomllib.loads(again.after or "")["inbound"]["allow"]]
    assert names == ["builder may ask about app", "builder may ask about app 2"]


def test_a_name_in_a_comment_is_free():
    known = peer(name="laptop")
    wish = WORK | {"peer": "laptop", "directory": "/srv/myapp"}
    made = plan(wish, **UP, peers=(known,))
    assert "laptop may ask about myapp" in CONFIG
    [rule] = tomllib.loads(made.after or "")["inbound"]["allow"]
    assert rule["name"] == "laptop may ask about myapp"


def test_agents_that_lack_cmesh_are_registered_and_others_left():
    agents = (AgentFact(name="claude"), AgentFact(name="codex", state="ours"))
    made = plan({"step": "agents"}, agents=agents)
    assert made.agents == ("claude",)
    assert plan({"step": "agents", "agents": ("none",)}, agents=agents).empty


def test_the_digest_covers_every_field():
    made = plan(WORK, **UP, peers=(peer(),))
    others = [
        {"after": f"{made.after}\n"},
        {"effects": ()},
        {"trust": None},
        {"by_code": ByCode(node_id="n1", name="builder")},
        {"file": "/elsewhere"},
        {"widens": ("more",)},
        {"agents": ("claude",)},
    ]
    digests = {made.sha256, *(made.model_copy(update=other).sha256 for other in others)}
    assert len(digests) == len(others) + 1
