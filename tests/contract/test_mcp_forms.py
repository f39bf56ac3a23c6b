"""A form of the agent's program as the user's word, in both protocol eras: what it is enough for."""

from typing import Any, cast

import mcp_types as types
import pytest
from mcp import Client
from mcp.client import ClientRequestContext

from cmesh.daemon.arguments import Context
from cmesh.daemon.setup_arguments import SetupConfirmArguments
from cmesh.interfaces.mcp import form as form_module
from cmesh.interfaces.mcp.server import McpSession
from tests.fakes.operations import FakeOperations

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class User:
    """A program with forms; `answer` is what it says to each."""

    def __init__(self, answer: types.ElicitResult | None) -> None:
        self.operations = FakeOperations()
        self.asked: list[types.ElicitRequestFormParams] = []
        self._answer = answer

    async def form(
        self, context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ElicitResult:
        del context
        self.asked.append(cast("types.ElicitRequestFormParams", params))
        assert self._answer is not None
        return self._answer

    async def step(self, mode: str, **arguments: Any) -> dict[str, Any]:
        session = McpSession(self.operations, Context(session="s", pid=7))
        shows = self.form if self._answer is not None else None
        async with Client(
            session.server, mode=cast("Any", mode), elicitation_callback=shows
        ) as client:
            answer = await client.call_tool("setup_step", arguments)
        session.close()
        assert not answer.is_error
        return cast("dict[str, Any]", answer.structured_content)

    @property
    def words(self) -> list[tuple[bool, bool]]:
        """What the daemon was told: yes or no, and whether by a form."""
        given = [arguments for _, _, arguments in self.operations.calls]
        return [(a.accept, a.by_form) for a in given if isinstance(a, SetupConfirmArguments)]


YES = types.ElicitResult(action="accept", content={"apply": True})
NO = types.ElicitResult(action="accept", content={"apply": False})
DECLINED = types.ElicitResult(action="decline")
SAYS: list[tuple[types.ElicitResult, str, list[tuple[bool, bool]]]] = [
    (YES, "applied", [(True, True)]),
    (NO, "declined", [(False, True)]),
    (DECLINED, "declined", [(False, True)]),
    (types.ElicitResult(action="cancel"), "waiting", []),
    (types.ElicitResult(action="accept", content={}), "waiting", []),
    (types.ElicitResult(action="accept", content={"apply": "true"}), "waiting", []),
]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize(("answer", "state", "words"), SAYS)
async def test_what_widens_nothing_is_answered_by_a_form(
    mode: str, answer: types.ElicitResult, state: str, words: list[tuple[bool, bool]]
) -> None:
    user = User(answer)
    fields = await user.step(mode, step="agents")
    assert (fields["state"], user.words) == (state, words)
    [asked] = user.asked
    assert "+[node]" in asked.message
    assert "* starts a node" in asked.message


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_what_widens_is_never_asked_by_a_form(mode: str) -> None:
    user = User(YES)
    assert (await user.step(mode, step="machine"))["state"] == "waiting"
    assert (user.asked, user.words) == ([], [])


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_without_forms_it_waits_for_a_terminal(mode: str) -> None:
    user = User(None)
    assert (await user.step(mode, step="agents"))["state"] == "waiting"
    assert user.words == []


async def test_a_form_that_stands_open_too_long_was_answered_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(form_module, "FORM_LIMIT_S", 0.0)
    user = User(YES)
    assert (await user.step("legacy", step="agents"))["state"] == "waiting"
    assert user.words == []


async def test_an_answer_that_comes_twice_counts_once() -> None:
    user = User(YES)
    session = McpSession(user.operations, Context(session="s", pid=7))
    key = "s-00000001"
    async with Client(session.server, elicitation_callback=user.form) as client:
        await client.call_tool("setup_step", {"step": "agents"})
        again = await client.session.call_tool(
            "setup_step", {"step": "agents"}, request_state=key, input_responses={key: YES}
        )
    session.close()
    assert again.is_error
    assert "plan_gone" in str(again.content)
    assert user.words == [(True, True)]
