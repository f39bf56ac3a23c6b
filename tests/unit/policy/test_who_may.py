"""The matrix of the policy page is made of real decisions, each as `decide_inbound` gives it."""

from dataclasses import replace

from cmesh.model import Profile
from cmesh.policy.decide import decide_inbound
from cmesh.policy.rules import RuleLimits
from cmesh.policy.who_may import directories_of, may_here, runners_of
from tests.unit.policy.support import WORKER, allow, asks, deny, inbound, node, out_allow, who

RUNNERS = {"claude": frozenset({"cost", "turns"}), "command:test": frozenset[str]()}

RULES = inbound(
    allow(profiles=(Profile.QUERY, Profile.EDIT), runners=("claude", "command:test")),
    allow(name="builds wait", profiles=(Profile.BUILD,), approval="ask"),
    deny(profiles=(Profile.EDIT,), runners=("command:test",)),
)


def test_each_cell_is_what_the_rules_decide():
    found = {
        (cell.profile, cell.runner): (cell.decision.effect, cell.decision.rule)
        for cell in may_here(who(), "/srv/myapp/api", RUNNERS, WORKER, RULES)
    }
    assert found == {
        (Profile.QUERY, "claude"): ("allow", "laptop may ask"),
        (Profile.EDIT, "claude"): ("allow", "laptop may ask"),
        (Profile.BUILD, "claude"): ("ask", "builds wait"),
        (Profile.FULL, "claude"): ("deny", None),
        (Profile.QUERY, "command:test"): ("allow", "laptop may ask"),
        (Profile.EDIT, "command:test"): ("deny", "never"),
        (Profile.BUILD, "command:test"): ("deny", None),
        (Profile.FULL, "command:test"): ("deny", None),
    }
    for cell in may_here(who(), "/srv/myapp", RUNNERS, WORKER, RULES):
        request = asks(
            profile=cell.profile,
            runner=cell.runner,
            runtime_s=900,
            output_bytes=16 * 1024 * 1024,
            reports_cost=cell.runner == "claude",
            reports=RUNNERS[cell.runner] - {"cost"},
        )
        assert cell.decision == decide_inbound(request, RULES)


def test_elsewhere_and_for_others_everything_is_denied():
    for identity, directory in ((who(), "/etc"), (who(node_id="nOTHER"), "/srv/myapp")):
        cells = may_here(identity, directory, RUNNERS, WORKER, RULES)
        assert {cell.decision.effect for cell in cells} == {"deny"}
    expired = may_here(replace(who(), expired=True), "/srv/myapp", RUNNERS, WORKER, RULES)
    assert {cell.decision.code for cell in expired} == {"key_expired"}


def test_a_limit_that_a_runner_does_not_tell_denies_as_it_would_a_task():
    rules = inbound(
        allow(runners=("claude", "command:test"), limits=RuleLimits(cost_usd=5.0, turns=9))
    )
    found = {
        cell.runner: cell.decision.effect
        for cell in may_here(who(), "/srv/myapp", RUNNERS, WORKER, rules)
        if cell.profile is Profile.QUERY
    }
    assert found == {"claude": "allow", "command:test": "deny"}


def test_what_is_offered_to_choose_from_is_what_rules_open():
    rules = inbound(
        allow(paths=("/srv/b", "/srv/a")), allow(name="other", peers=(node("nX"),)), deny()
    )
    assert directories_of(rules) == ("/srv/a", "/srv/b", "/srv/myapp")
    assert runners_of(rules, ["opencode", "claude"]) == ["claude"]
    assert directories_of(inbound()) == ()
    assert out_allow()  # rules of the other direction open nothing here
