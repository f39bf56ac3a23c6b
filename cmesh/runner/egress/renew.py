"""Asking a provider for a new access token: one request, over a connection of the daemon's own."""

import asyncio
import json
from collections.abc import Mapping
from ipaddress import IPv4Address
from urllib.parse import urlsplit

import h11

from cmesh.runner.egress.addresses import parse_address
from cmesh.runner.egress.gateway import ANSWER_HEAD_BYTES, Wire
from cmesh.runner.egress.reach import Means, addresses_of, connect
from cmesh.runner.egress.trail import Refused, Trail

__all__ = ["RENEW_LIMIT_S", "ask"]

RENEW_LIMIT_S = 30.0
ANSWER_BYTES = 64 * 1024
TLS_PORT = 443


async def ask(url: str, form: Mapping[str, str], means: Means) -> tuple[int, bytes]:
    """Send a form as JSON, and return the answer's status and body. Redirects are not followed.

    Raises:
        OSError: nobody answers whole and in time; the text names no part of the form.
    """
    try:
        async with asyncio.timeout(RENEW_LIMIT_S):
            return await _ask(url, json.dumps(form).encode(), means)
    except Refused as refused:
        raise OSError(f"{refused.reason} {refused.detail}".strip()) from None
    except h11.ProtocolError:
        raise OSError("the answer is no plain HTTP") from None
    except TimeoutError:
        raise OSError(f"there was no answer within {RENEW_LIMIT_S:g} s") from None


async def _ask(url: str, body: bytes, means: Means) -> tuple[int, bytes]:
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    trail = Trail(record=_unrecorded)
    address = IPv4Address("127.0.0.1") if host == "localhost" else parse_address(host)
    addresses = [address] if address else await addresses_of(host, means, trail)
    port = parts.port or (TLS_PORT if secure else 80)
    streams = await connect(addresses, port, means, trail, tls_name=host if secure else "")
    wire = Wire(streams, h11.CLIENT, ANSWER_HEAD_BYTES)
    headers = [
        ("host", parts.netloc),
        ("accept", "application/json"),
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("connection", "close"),
    ]
    try:
        await wire.send(h11.Request(method="POST", target=parts.path, headers=headers))
        await wire.send(h11.Data(data=body))
        await wire.send(h11.EndOfMessage())
        return await _answer(wire)
    finally:
        wire.abort()


async def _answer(wire: Wire) -> tuple[int, bytes]:
    while isinstance(event := await wire.next(), h11.InformationalResponse):
        pass
    if not isinstance(event, h11.Response):
        raise ConnectionAbortedError("the connection ended without an answer")
    status, body = event.status_code, b""
    while isinstance(event := await wire.next(), h11.Data):
        body += event.data
        if len(body) > ANSWER_BYTES:
            raise ConnectionAbortedError("the answer is too large")
    return status, body


async def _unrecorded(_kind: str, _row: Mapping[str, object]) -> None:
    """Record nothing: it is the daemon's own connection, and the login's row tells of it."""
