"""What `cmesh confirm` shows is the change: no name in it makes a line of its own."""

import io

import pytest

from cmesh.daemon.pair_calls import PairView
from cmesh.daemon.setup_answers import PlanView, SetupPendingView
from cmesh.interfaces.cli import confirm, pair_code

VIEW = PairView(peer="builder", node_id="nBUILD", phase="confirmed")


def test_no_name_passes_for_a_line_of_the_change(capsys: pytest.CaptureFixture[str]) -> None:
    plan = PlanView(
        step="peer",
        title="ask `box\n* nothing`",
        state="waiting",
        effects=["sends to `box\n* nothing`\x1b[2J"],
        widens=["the key of `box\n! nothing`"],
    )
    confirm.show(SetupPendingView(plan=plan, asked_by="agent\n\n* nothing is allowed\u202e"))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line] == [
        "ask `box<U+000A>* nothing`, planned by agent * nothing is allowed",
        "* sends to `box<U+000A>* nothing`<U+001B>[2J",
        "! the key of `box<U+000A>! nothing`",
    ]


@pytest.mark.parametrize(
    ("proved", "typed", "yes"),
    [
        (pair_code.Paired(view=VIEW, by_this_command=True), "", True),
        (pair_code.Paired(view=VIEW, by_this_command=False), "n\n", False),
        (pair_code.Paired(view=VIEW, by_this_command=False), "y\n", True),
        (None, "y\n", False),
    ],
)
def test_a_code_is_a_yes_only_where_this_command_has_shown_or_read_it(
    proved: pair_code.Paired | None, typed: str, yes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prove(node_id: str) -> pair_code.Paired | None:
        assert node_id == "nBUILD"
        return proved

    monkeypatch.setattr(confirm, "proved", prove)
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert confirm.said(SetupPendingView(by_code="nBUILD")) is yes
