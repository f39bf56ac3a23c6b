"""What `cmesh confirm` shows is the change: no name in it makes a line of its own."""

import pytest

from cmesh.daemon.setup_answers import PlanView, SetupPendingView
from cmesh.interfaces.cli import confirm


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
