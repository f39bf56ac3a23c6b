"""Call one operation of a daemon as whoever runs this: arguments on stdin, answer on stdout."""

import asyncio
import json
import sys
from pathlib import Path

from pydantic import ConfigDict

from cmesh.daemon.answers import View
from cmesh.errors import CmeshError
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.wire import OPERATIONS, error_body
from cmesh.paths import control_socket


class Raw(View):
    model_config = ConfigDict(extra="allow")


async def main(state: str, operation: str) -> dict[str, object]:
    arguments = OPERATIONS[operation].model_validate_json(sys.stdin.read())
    try:
        async with ControlClient(control_socket(Path(state)), session="owner") as client:
            return {"result": (await client.call(operation, arguments, Raw)).model_extra}
    except CmeshError as error:
        return {"error": error_body(error)}


print(json.dumps(asyncio.run(main(*sys.argv[1:])), default=str))
