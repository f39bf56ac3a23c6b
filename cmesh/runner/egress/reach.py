"""Finding a host that was allowed, and connecting to it: what proxy and gateway have in common.

INVARIANT: each address of a name is judged before any of it is connected to.
"""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from cmesh.clock import Clock
from cmesh.runner.egress.addresses import Address
from cmesh.runner.egress.outside import Outside, Streams
from cmesh.runner.egress.trail import BAD_GATEWAY, Refused, Trail

__all__ = ["Limits", "Means", "addresses_of", "connect"]

HEAD_LIMIT_S = 30.0
"""From a connection to the whole head of its request, and from the answer to the TLS hello.

Long, because an agent on a busy machine is slow, and who is slow on purpose holds up itself.
"""

RESOLVE_LIMIT_S = 10.0
CONNECT_LIMIT_S = 5.0
IDLE_LIMIT_S = 600.0
"""Without a byte either way; a model may think for minutes, but its servers send pings."""

ADDRESSES_TRIED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long one connection may take for what, in seconds."""

    head_s: float = HEAD_LIMIT_S
    resolve_s: float = RESOLVE_LIMIT_S
    connect_s: float = CONNECT_LIMIT_S
    idle_s: float = IDLE_LIMIT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every connection of a daemon's tasks is made with."""

    outside: Outside
    clock: Clock
    limits: Limits


async def addresses_of(
    host: str, means: Means, trail: Trail, *, own: bool = False
) -> Sequence[Address]:
    """Return where a name leads, best first; of an `own` host of the owner no address is judged.

    Raises:
        Refused: nowhere, or to an address that no task may reach.
    """
    try:
        async with asyncio.timeout(means.limits.resolve_s):
            addresses = list(await means.outside.resolve(host))
    except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
        why = f"`{host}` has no address"
        raise Refused("no_address", why, detail=str(error), status=BAD_GATEWAY) from None
    for address in () if own else addresses:
        # INVARIANT: one forbidden address forbids the name: who answers so means no good.
        if kind := means.outside.refusal(address):
            trail.address = str(address)
            why = f"`{host}` has an address that no task may reach"
            raise Refused("address_refused", why, detail=f"{address} is {kind}")
    return addresses[:ADDRESSES_TRIED]


async def connect(
    addresses: Sequence[Address],
    port: int,
    means: Means,
    trail: Trail,
    *,
    tls_name: str = "",
) -> Streams:
    """Return a connection to the first address that takes one; in TLS when a name is given.

    Raises:
        Refused: none does, or its certificate is not one for that name.
    """
    trouble = "there is no address"
    for address in addresses:
        trail.address = str(address)
        try:
            async with asyncio.timeout(means.limits.connect_s):
                if tls_name:
                    return await means.outside.secure(address, port, tls_name)
                return await means.outside.connect(address, port)
        except ssl.SSLCertVerificationError as error:
            why = "the model's server has no certificate that this machine trusts"
            detail = f"{address}: {error.verify_message}"
            raise Refused("certificate_refused", why, detail=detail, status=BAD_GATEWAY) from None
        except OSError as error:
            trouble = f"{address}: {error.strerror or type(error).__name__}"
    raise Refused("unreachable", "the host does not answer", detail=trouble, status=BAD_GATEWAY)
