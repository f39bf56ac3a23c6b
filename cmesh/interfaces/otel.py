"""Traces for OpenTelemetry: the daemon's spans, exported by OTLP over HTTP in the background.

The only importer of the SDK, which is an extra (`cmesh[otel]`) and is loaded only where an endpoint
is configured. The SDK's own `OTEL_*` variables say the rest: headers, time limits, attributes of the
resource (OpenTelemetry specification, "Environment Variable Specification").
"""

from collections.abc import Callable, Mapping
from datetime import datetime

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from cmesh import __version__
from cmesh.daemon.spans import Span

__all__ = ["Exporter"]

FLUSH_LIMIT_MS = 3_000
"""How long a daemon that ends waits for its last spans to go out."""

_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_PATH = "/v1/traces"


class Exporter:
    """Takes spans and sends them in batches, from a thread of its own.

    Args:
        endpoint: base URL of an OTLP receiver; empty = as the environment says.
        node: the machine's name on the tailnet.
        make: makes what sends them; given the URL, None = as the environment says.
    """

    def __init__(
        self,
        endpoint: str,
        node: str,
        make: Callable[[str | None], SpanExporter] = OTLPSpanExporter,
    ) -> None:
        self._processor = BatchSpanProcessor(
            make(endpoint.rstrip("/") + _PATH if endpoint else None)
        )
        ours = Resource({"service.version": __version__, "host.name": node})
        # What the environment says of the resource counts more than what we know of it.
        made = ours.merge(Resource.create())
        nameless = str(made.attributes.get("service.name", "")).startswith("unknown_service")
        name = Resource({"service.name": "cmesh"})
        self._resource = made.merge(name) if nameless else made
        self._scope = InstrumentationScope("cmesh", __version__)

    def take(self, span: Span) -> None:
        """Queue a span; dropped when the queue is full. Does not block or raise."""
        self._processor.on_end(self._readable(span))

    def close(self) -> None:
        """Send what is queued, for a short time, and end. Blocks."""
        self._processor.force_flush(FLUSH_LIMIT_MS)
        self._processor.shutdown()

    def _readable(self, span: Span) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=_context(span.trace, span.id, remote=False),
            parent=_context(span.trace, span.parent, remote=True) if span.parent else None,
            resource=self._resource,
            attributes=_attributes(span.data),
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR if span.failed else StatusCode.OK),
            start_time=_nanoseconds(span.begin),
            end_time=_nanoseconds(span.end),
            instrumentation_scope=self._scope,
        )


def _context(trace: str, span: str, *, remote: bool) -> SpanContext:
    return SpanContext(
        trace_id=int(trace, 16),
        span_id=int(span, 16),
        is_remote=remote,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def _attributes(data: Mapping[str, object]) -> dict[str, str | bool | int | float]:
    """Return a span's data under cmesh's own names, in the types that OpenTelemetry has."""
    return {
        f"cmesh.{key}": value if isinstance(value, str | bool | int | float) else str(value)
        for key, value in data.items()
    }


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1_000
