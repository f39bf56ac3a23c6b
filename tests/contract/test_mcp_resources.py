"""Resources, subscriptions, prompts and completion in both eras, and the generated files."""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any, cast

import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.server.subscriptions import ResourceUpdated

from cmesh.daemon.arguments import Context, DelegateArguments
from cmesh.interfaces.mcp.server import McpSession
from tests.fakes.operations import FIRST_TASK, FakeOperations

pytestmark = pytest.mark.anyio

LIMIT_S = 10.0
CONTEXT = Context(session="s", pid=7)
TASK_URI = f"cmesh://tasks/{FIRST_TASK}"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["legacy", "auto"])
def mode(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def operations() -> FakeOperations:
    operations = FakeOperations()
    await operations.delegate(
        CONTEXT, DelegateArguments(peer="worker", prompt="why?", directory="/srv/app")
    )
    return operations


@pytest.fixture
def connect(operations: FakeOperations, mode: Any) -> Callable[[], Client]:
    return lambda: Client(McpSession(operations, CONTEXT).server, mode=mode)


def content_of(result: types.ReadResourceResult) -> types.TextResourceContents:
    (content,) = result.contents
    assert isinstance(content, types.TextResourceContents)
    return content


async def subscribe(client: Client, uri: str) -> None:
    # The client's own method warns: the request is gone from the modern era.
    request = types.SubscribeRequest(params=types.SubscribeRequestParams(uri=uri))
    await client.session.send_request(request, types.EmptyResult)


async def test_every_listed_resource_can_be_read(connect: Callable[[], Client]) -> None:
    async with connect() as client:
        listed = (await client.list_resources()).resources
        assert [resource.uri for resource in listed] == [
            "cmesh://status",
            "cmesh://peers",
            "cmesh://guide",
            "cmesh://schema",
            "cmesh://docs",
        ]
        for resource in listed:
            content = content_of(await client.read_resource(resource.uri))
            assert content.mime_type == resource.mime_type
            assert content.text


async def test_a_task_and_its_output_can_be_read(
    connect: Callable[[], Client], operations: FakeOperations
) -> None:
    operations.finish(FIRST_TASK, text="done", output="0123456789")
    async with connect() as client:
        templates = (await client.list_resource_templates()).resource_templates
        assert [template.uri_template for template in templates] == [
            "cmesh://docs/{page}",
            "cmesh://tasks/{task_id}",
            "cmesh://tasks/{task_id}/output{?offset,limit}",
        ]
        task = content_of(await client.read_resource(TASK_URI))
        output = content_of(await client.read_resource(f"{TASK_URI}/output?offset=3&limit=4"))
    assert json.loads(task.text)["state"] == "succeeded"
    assert "\n3456\n" in output.text
    assert "next_offset: 7" in output.text


async def test_a_subscribed_task_is_announced_until_it_ends(
    connect: Callable[[], Client], operations: FakeOperations, mode: str
) -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def on_message(message: object) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            seen.put_nowait(message.params.uri)

    async with asyncio.timeout(LIMIT_S):
        if mode == "legacy":
            session = McpSession(operations, CONTEXT)
            async with Client(
                session.server, mode="legacy", message_handler=cast("Any", on_message)
            ) as client:
                await subscribe(client, TASK_URI)
                operations.start(FIRST_TASK)
                assert await seen.get() == TASK_URI
                operations.finish(FIRST_TASK)
                assert await seen.get() == TASK_URI
            session.close()
            return
        async with (
            connect() as client,
            client.listen(resource_subscriptions=[TASK_URI, "cmesh://status"]) as stream,
        ):
            operations.start(FIRST_TASK)
            async for event in stream:
                assert event == ResourceUpdated(uri=TASK_URI)
                break


async def test_only_tasks_that_exist_can_be_subscribed_to(operations: FakeOperations) -> None:
    async with Client(McpSession(operations, CONTEXT).server, mode="legacy") as client:
        for uri in ("cmesh://status", "cmesh://tasks/ffff", "cmesh://tasks/nonsense!", "x:y"):
            with pytest.raises(Exception, match=r"bad_arguments|task_not_found"):
                await subscribe(client, uri)


async def test_a_watch_ends_with_its_session(operations: FakeOperations) -> None:
    session = McpSession(operations, CONTEXT)
    async with Client(session.server, mode="legacy") as client:
        await subscribe(client, TASK_URI)
        watches = [task for task in asyncio.all_tasks() if "_keep_watch" in repr(task)]
        assert len(watches) == 1
    session.close()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.wait(watches)
    assert watches[0].cancelled()


@pytest.mark.parametrize("name", ["delegate_well", "review_result", "why_denied"])
async def test_a_prompt_needs_no_argument_and_uses_those_it_gets(
    connect: Callable[[], Client], name: str
) -> None:
    async with connect() as client:
        listed = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
        arguments = {argument.name: "xyz" for argument in listed[name].arguments or ()}
        bare = await client.get_prompt(name)
        filled = await client.get_prompt(name, arguments)
    assert "xyz" not in bare.model_dump_json()
    assert filled.model_dump_json().count("xyz") == len(arguments)


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("peer", "w", ["worker"]),
        ("task_id", "0190", [FIRST_TASK]),
        ("task_id", "ffff", []),
        ("goal", "w", []),
    ],
)
async def test_peers_and_task_ids_are_completed(
    connect: Callable[[], Client], argument: str, value: str, expected: list[str]
) -> None:
    reference = types.PromptReference(type="ref/prompt", name="delegate_well")
    async with connect() as client:
        done = await client.complete(reference, {"name": argument, "value": value})
    assert done.completion.values == expected


async def test_the_pages_of_the_documentation_can_be_read(connect: Callable[[], Client]) -> None:
    async with connect() as client:
        index = content_of(await client.read_resource("cmesh://docs"))
        assert index.mime_type == "text/markdown"
        for name in re.findall(r"\(([\w-]+)\.md\)", index.text):
            assert content_of(await client.read_resource(f"cmesh://docs/{name}")).text[:2] == "# "
        for wrong in ("nosuch", "..%2Fsecurity", "README", "decisions%2FREADME"):
            with pytest.raises(MCPError):
                await client.read_resource(f"cmesh://docs/{wrong}")
        found = await client.complete(
            types.ResourceTemplateReference(uri="cmesh://docs/{page}"),
            {"name": "page", "value": "sec"},
        )
        assert found.completion.values == ["security"]
