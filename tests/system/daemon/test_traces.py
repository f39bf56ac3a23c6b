"""One trace over both machines, from an agent's call to its command's exit, as a collector gets it."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from typing_extensions import override

from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system]

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NAMES = {"cmesh delegate", "cmesh task", "cmesh link", "cmesh work", "cmesh queue", "cmesh run"}


class Collector:
    """An OTLP/HTTP receiver on loopback.

    Attributes:
        spans: what came, by name: the machine, and the span.
    """

    def __init__(self) -> None:
        self.spans: dict[str, tuple[str, Any]] = {}
        self.raw = b""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    collector.take(body)
                self.send_response(200)
                self.end_headers()

            @override
            def log_message(self, format: str, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, body: bytes) -> None:
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            assert names["service.name"] == "cmesh"
            for scope in resource.scope_spans:
                for span in scope.spans:
                    assert span.name not in self.spans, f"`{span.name}` came twice"
                    self.spans[span.name] = (names["host.name"], span)


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    thread = threading.Thread(target=running.server.serve_forever)
    thread.start()
    yield running
    running.server.shutdown()
    thread.join()
    running.server.server_close()


async def test_a_call_is_one_trace_on_both_machines_and_holds_no_text(
    make_machine: MakeMachine, collector: Collector
) -> None:
    builder = await make_machine("builder")
    place = builder.directory("canary-app")
    runner = command("fail", "/bin/sh", "-c", "echo canary-out; cat; exit 3", "canary-argv")
    rule = inbound(place, ["command:fail"])
    await builder.configure(f'{runner}{rule}\n[trace]\nendpoint = "{collector.url}"\n')
    laptop = await make_machine("laptop", OUTBOUND)
    quick = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
    # The one is told by its configuration, the other by the environment.
    await builder.start(environment=quick)
    await laptop.start(environment={**quick, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    await asyncio.gather(laptop.up(), builder.up())
    async with laptop.mcp() as agent:
        meta: Any = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
        arguments = {
            "peer": "builder", "directory": str(place), "prompt": "canary-in", "profile": "full",
            "runner": "command:fail", "if_offline": "queue", "wait_s": 0,
        }  # fmt: skip
        answer = await agent._client.call_tool("delegate", arguments, meta=meta)  # pyright: ignore[reportPrivateUsage]
        fields: dict[str, Any] = answer.structured_content or {}
        task_id: str = fields["task_id"]
        await builder.trust(laptop)
        await laptop.ended(task_id)

    async def all_there() -> bool | None:
        return True if collector.spans.keys() >= NAMES else None

    await eventually(all_there)
    spans = collector.spans
    assert spans.keys() == NAMES
    assert {span.trace_id.hex() for _, span in spans.values()} == {TRACE}
    parents = {
        name: next((one for one, (_, of) in spans.items() if of.span_id == span.parent_span_id), "")
        for name, (_, span) in spans.items()
    }
    assert parents == {
        "cmesh delegate": "",
        "cmesh task": "cmesh delegate",
        "cmesh link": "cmesh task",
        "cmesh work": "cmesh task",
        "cmesh queue": "cmesh work",
        "cmesh run": "cmesh work",
    }
    assert spans["cmesh delegate"][1].parent_span_id.hex() == CALLER
    there = {name for name, (machine, _) in spans.items() if machine == "builder"}
    assert there == {"cmesh work", "cmesh queue", "cmesh run"}
    data = {one.key: one.value for one in spans["cmesh run"][1].attributes}
    assert data["cmesh.exit"].int_value == 3
    assert data["cmesh.task"].string_value == task_id
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano for _, span in spans.values())
    assert b"canary" not in collector.raw
