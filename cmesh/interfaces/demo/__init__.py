"""`cmesh demo`: a whole delegation between two nodes on this machine, without an account.

Everything in it is real but the distance: what it says is asserted, and a claim that
does not hold is exit status 1. Leaves nothing behind, unless told to.
"""

import asyncio
from dataclasses import dataclass

from cmesh.clock import SystemClock

__all__ = ["DemoOptions", "main"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What `cmesh demo` was asked for; an empty `runner` is the built-in script.

    Attributes:
        keep: leave tailnet and daemons running until Ctrl-C.
        key_file: file of mode 0600 with the runner's API key; empty = none.
        base_url: the model API's address; empty = the runner's default.
    """

    as_json: bool = False
    keep: bool = False
    runner: str = ""
    key_file: str = ""
    base_url: str = ""


def main(options: DemoOptions) -> int:
    """Run the demo; return its exit status. Blocks; ends what it started, also on Ctrl-C.

    Raises:
        CmeshError: the options ask for something this machine does not have.
    """
    # Half a second to load: not for `cmesh --help`.
    from cmesh.interfaces.demo.plan import make_plan
    from cmesh.interfaces.demo.run import Run

    plan = make_plan(options.runner, options.key_file, options.base_url)

    async def run() -> int:
        return await Run(plan, SystemClock(), as_json=options.as_json, keep=options.keep).main()

    return asyncio.run(run())
