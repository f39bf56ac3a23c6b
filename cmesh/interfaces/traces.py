"""Whether a daemon's traces are collected, and by whom; loads OpenTelemetry only where they are."""

import asyncio
import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Protocol, cast

from cmesh.daemon.core import Daemon
from cmesh.daemon.spans import Span
from cmesh.extras import how_to_add

__all__ = ["Collects", "close_exporter", "is_wanted", "open_exporter"]

logger = logging.getLogger(__name__)

CLOSE_LIMIT_S = 5.0
_MODULE = "cmesh.interfaces.otel"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Collects(Protocol):
    """What takes spans."""

    def take(self, span: Span) -> None:
        """Queue a span; neither blocks nor raises."""
        ...

    def close(self) -> None:
        """Send what is queued, and end. Blocks."""
        ...


def is_wanted(endpoint: str, environment: Mapping[str, str]) -> bool:
    """Say whether traces go anywhere, by the configuration or by the `OTEL_*` variables.

    The variables turn it off as well, as the SDK's do.
    """
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    off = off or environment.get("OTEL_TRACES_EXPORTER", "otlp") not in {"", "otlp"}
    return not off and bool(endpoint or any(environment.get(name) for name in _ENDPOINTS))


async def open_exporter(daemon: Daemon) -> Collects | None:
    """Have the daemon's spans collected where that is wanted; None = nobody does.

    A missing extra is a line of the log: no task is held up by it.
    """
    config = daemon.rules.config()
    endpoint = config.trace.endpoint
    if not is_wanted(endpoint, daemon.settings.environment):
        return None
    try:
        module = await asyncio.to_thread(import_module, _MODULE)
    except ImportError as error:
        data = {"missing": error.name, "next": f"{how_to_add('otel')}, then restart the daemon"}
        logger.warning("no_traces", extra={"data": data})
        return None
    exporter = cast("Collects", module.Exporter(endpoint, config.node.hostname))
    daemon.trace = exporter.take
    return exporter


async def close_exporter(exporter: Collects) -> None:
    """Let the last spans go out, for a short time."""
    try:
        async with asyncio.timeout(CLOSE_LIMIT_S):
            await asyncio.to_thread(exporter.close)
    except TimeoutError:
        logger.warning("traces_cut")
