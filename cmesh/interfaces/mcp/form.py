"""Asking the user by a form that the agent's program shows (MCP elicitation), in both eras.

INVARIANT: what comes back is the program's word and may be no person's: programs without a person
answer by themselves. It counts only for what widens nothing, and the daemon sees to that.
"""

from typing import Any, Literal

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

__all__ = ["FORM_LIMIT_S", "Form", "Said"]

Said = Literal["yes", "no", "nobody"]

FORM_LIMIT_S = 30.0
"""How long a form may stand open in a call; later the change waits for a terminal."""

_FIELD = "apply"
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        _FIELD: {"type": "boolean", "title": "Apply this change", "default": False},
    },
    "required": [_FIELD],
}


class Form:
    """The forms of one call of a tool.

    In the older era the form is a request of its own to the client. In the newer one the call
    ends with what is to be asked, and comes again with the answer; `about` tells which change
    such an answer is of.
    """

    def __init__(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> None:
        self._context = context
        self._params = params

    @property
    def shown(self) -> bool:
        """The client says that it can show one."""
        capabilities = self._context.session.client_capabilities
        form = capabilities.elicitation if capabilities is not None else None
        return form is not None and (form.form is not None or form.url is None)

    def about(self) -> tuple[str, Said] | None:
        """Return of which change this call brings an answer, and which; None = it brings none."""
        key = self._params.request_state
        answer = (self._params.input_responses or {}).get(key) if key else None
        if not key or not isinstance(answer, types.ElicitResult):
            return None
        return key, _said(answer)

    async def ask(self, key: str, message: str) -> Said | types.InputRequiredResult:
        """Ask whether the change named `key` shall be applied; blocks up to `FORM_LIMIT_S`.

        Returns the answer, or in the newer era what the call is to end with.
        """
        if self._context.session.protocol_version in MODERN_PROTOCOL_VERSIONS:
            params = types.ElicitRequestFormParams(message=message, requested_schema=_SCHEMA)
            requests: dict[str, Any] = {key: types.ElicitRequest(params=params)}
            return types.InputRequiredResult(request_state=key, input_requests=requests)
        request = types.ElicitRequest(
            params=types.ElicitRequestFormParams(message=message, requested_schema=_SCHEMA)
        )
        try:
            answer = await self._context.session.send_request(
                request, types.ElicitResult, request_read_timeout_seconds=FORM_LIMIT_S
            )
        except (MCPError, ValidationError):  # refused, too late, or no answer to the question
            return "nobody"
        return _said(answer)


def _said(answer: types.ElicitResult) -> Said:
    """Read an answer; what is broken off or incomplete was said by nobody."""
    if answer.action == "decline":
        return "no"
    content = answer.content or {}
    if answer.action != "accept" or not isinstance(content.get(_FIELD), bool):
        return "nobody"
    return "yes" if content[_FIELD] else "no"
