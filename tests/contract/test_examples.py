"""The configurations of `examples`, read as a daemon reads them, and asked what they mean."""

import re
import shutil
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from cmesh.config import Config, load_config
from cmesh.interfaces.cli.app import main
from cmesh.model import Identity, NodeId, Profile
from cmesh.policy.decide import decide_inbound, decide_outbound
from cmesh.policy.explain import explain
from tests.contract.test_docs import blocks, lines, parse
from tests.contract.test_schemas import accepts
from tests.unit.policy.support import asks, sends, who

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted((EXAMPLES / "config").glob("*.toml"))
PAGE = EXAMPLES / "README.md"

ME = "me@example.com"
LAPTOP = who(node_id=NodeId("nLAPTOPCNTRL"), user=ME)
SERVER = who(node_id=NodeId("nSERVERCNTRL"), name="server.tail.example", user=ME)
OTHER = who(node_id=NodeId("nOTHERCNTRL"), user="other@example.com")
CI = who(node_id=NodeId("nCI"), user="", tags=("tag:ci",))
CI_WORKER = who(node_id=NodeId("nW1"), user="", tags=("tag:ci-worker",))


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A question to an example, its answer, and what the explanation says of it."""

    file: str
    peer: Identity
    effect: str
    says: str
    fields: dict[str, Any] = field(default_factory=dict[str, Any])

    @override
    def __str__(self) -> str:
        return f"{self.file}: {self.effect}, {self.says}"


def ask(file: str, peer: Identity, effect: str, says: str, **fields: Any) -> Ask:
    return Ask(file=file, peer=peer, effect=effect, says=says, fields=fields)


CODEX: dict[str, Any] = {"runner": "codex", "profile": Profile.EDIT, "directory": "/home/me/src/a"}
BUILD: dict[str, Any] = {"profile": Profile.BUILD, "directory": "/srv/checkout/x"}
CHECK: dict[str, Any] = {
    "runner": "command:check",
    "directory": "/srv/checkout",
    "reports_cost": False,
}

ASKS = (
    ask("laptop-and-server.server", LAPTOP, "allow", "the laptop may look"),
    ask("laptop-and-server.server", LAPTOP, "ask", "I look at each", profile=Profile.EDIT),
    ask("laptop-and-server.server", LAPTOP, "deny", "profile", profile=Profile.FULL),
    ask("laptop-and-server.server", LAPTOP, "deny", "never the keys", directory="/srv/keys/a"),
    ask("laptop-and-server.server", LAPTOP, "deny", "never the keys", directory="/srv"),
    ask("laptop-and-server.server", LAPTOP, "deny", "path", directory="/etc"),
    ask("laptop-and-server.server", OTHER, "deny", "peer"),
    ask("laptop-and-server.laptop", SERVER, "allow", "ask the server", project="~/src/myapp/x"),
    ask("laptop-and-server.laptop", SERVER, "deny", "repo", project="~/other"),
    ask("laptop-and-server.laptop", SERVER, "deny", "send_changes", project="~/src/myapp", sends_changes=True),
    ask("laptop-and-server.laptop", OTHER, "deny", "peer", project="~/src/myapp"),
    ask("ci-fleet.worker", CI, "allow", "run the check", **CHECK),
    ask("ci-fleet.worker", CI, "allow", "mend what the check finds", **BUILD, accept=("make", "check")),
    ask("ci-fleet.worker", CI, "deny", "accept", **BUILD, accept=("make", "deploy")),
    ask("ci-fleet.worker", CI, "deny", "per_day", **BUILD, today=100),
    ask("ci-fleet.worker", LAPTOP, "deny", "peer", **BUILD),
    ask("ci-fleet.coordinator", CI_WORKER, "allow", "any worker", project="/srv/checkout", sends_changes=True),
    ask("ci-fleet.coordinator", SERVER, "deny", "peer", project="/srv/checkout"),
    ask("build-box.box", LAPTOP, "allow", "take the wheel home", **CODEX, artifacts=True),
    ask("build-box.box", LAPTOP, "allow", "narrowed to pip", directory="/home/me/src/a", profile=Profile.BUILD),
    ask("build-box.box", LAPTOP, "deny", "path", profile=Profile.EDIT, directory="/home/me/.ssh"),
    ask("build-box.box", CI, "deny", "peer", **CODEX),
    ask("build-box.laptop", SERVER, "allow", "build and fix", project="~/src/a", sends_changes=True, profile=Profile.EDIT),
    ask("build-box.laptop", CI_WORKER, "deny", "peer", project="~/src/a"),
    ask("headscale.server", who(node_id=NodeId("1")), "allow", "the laptop may look"),
    ask("headscale.server", who(node_id=NodeId("12")), "deny", "peer"),
    ask("headscale.laptop", who(node_id=NodeId("2")), "allow", "ask the server"),
)  # fmt: skip


def config_of(name: str, place: Path) -> Config:
    path = place / "config.toml"
    shutil.copy(EXAMPLES / "config" / f"{name}.toml", path)
    path.chmod(0o600)
    return load_config(path)


@pytest.mark.parametrize("one", ASKS, ids=str)
def test_each_example_answers_as_it_says(one: Ask, tmp_path: Path, private_home: Path) -> None:
    policy = config_of(one.file, tmp_path).policy
    fields = dict(one.fields)
    if policy.inbound:
        request = asks(identity=one.peer, **fields)
        decision = decide_inbound(request, policy)
    else:
        place = fields.pop("project", "").replace("~", str(private_home))
        request = sends(identity=one.peer, project=place, **fields)
        decision = decide_outbound(request, policy)
    said = "\n".join(explain(decision, request))
    assert decision.effect == one.effect, said
    assert one.says in said, said
    if one.effect == "deny" and decision.rule is None and decision.code != "busy":
        assert "to allow it:" in said


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_example_is_shown_as_rules_and_fits_the_schema(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(file.stem, tmp_path)
    monkeypatch.setenv("CMESH_CONFIG_DIR", str(tmp_path))
    assert main(["policy", "show"]) == 0
    shown = capsys.readouterr().out
    rules = (*config.policy.inbound, *config.policy.outbound)
    assert rules
    assert all(rule.name in shown for rule in rules)
    assert accepts(tomllib.loads(file.read_text("utf-8")))


def test_every_example_is_asked_and_named_on_the_page() -> None:
    names = {file.stem for file in FILES}
    assert {one.file for one in ASKS} == names
    page = PAGE.read_text("utf-8")
    linked = re.findall(r"\]\(([^)]+)\)", page)
    assert all((EXAMPLES / target).exists() for target in linked)
    assert names <= {Path(target).stem for target in linked}
    for script in blocks(PAGE, "sh"):
        for words in lines(script):
            parse(words[1:])
