"""An agent's side of MCP: a real client of the SDK over stdio, for the demo and the tests.

Starts the server's program as an agent would. It asks; what comes back is data.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO, cast

import mcp_types as types
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from cmesh import __version__
from cmesh.errors import CmeshError, DaemonTimeout

__all__ = ["AgentDriver", "Answer", "unfenced"]

CALL_LIMIT_S = 60.0
"""What agents allow a call at least; every call answers within 45 s."""

_FENCED = re.compile(r"<<<cmesh:([0-9a-f]{16})\n(.*?)\ncmesh:\1>>>", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a tool answered.

    Attributes:
        fields: the structured content; empty for answers in text.
        text: what a model reads.
        is_error: the tool reports an error; `text` begins with its code.
    """

    fields: Mapping[str, object]
    text: str
    is_error: bool

    def get(self, name: str) -> str:
        """Return a field as plain text, out of its fence; empty when it is not there."""
        value = self.fields.get(name)
        return "" if value is None else unfenced(str(value))


class AgentDriver:
    """One agent session; an async context manager that starts and ends the server's program.

    Attributes:
        protocol: the MCP version both sides agreed on; empty before.
        tools: names of the tools the server lists.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        errors: TextIO,
    ) -> None:
        self.protocol = ""
        self.tools: tuple[str, ...] = ()
        server = StdioServerParameters(
            command=command[0],
            args=list(command[1:]),
            env=dict(environment),
            cwd=directory,
        )
        self._client = Client(
            stdio_client(server, errlog=errors),
            client_info=types.Implementation(name="cmesh-demo-agent", version=__version__),
            read_timeout_seconds=CALL_LIMIT_S,
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        self.protocol = str(self._client.protocol_version)
        self.tools = tuple(tool.name for tool in (await self._client.list_tools()).tools)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The error is not the client's: told of it, its task groups would wrap it in a group.
        await self._client.__aexit__(None, None, None)

    async def call(self, tool: str, **arguments: Any) -> Answer:
        """Call a tool.

        Raises:
            DaemonTimeout: no answer within `CALL_LIMIT_S`.
            CmeshError: the server refuses the call as such, or is gone.
        """
        try:
            result = await self._client.call_tool(tool, arguments)
        except TimeoutError as error:
            raise DaemonTimeout(f"no answer to `{tool}` within {CALL_LIMIT_S:g} s") from error
        except MCPError as error:
            raise CmeshError(f"MCP refused `{tool}`: {error}") from error
        texts = [part.text for part in result.content if isinstance(part, types.TextContent)]
        fields = cast("Mapping[str, object]", result.structured_content or {})
        return Answer(fields=fields, text="\n".join(texts), is_error=bool(result.is_error))


def unfenced(text: str) -> str:
    """Return what stands inside the fence, or all of a text that has none."""
    found = _FENCED.search(text)
    return found[2] if found else text
