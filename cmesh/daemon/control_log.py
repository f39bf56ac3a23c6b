"""Why the control server keeps the node waiting: by the node's own log, since it says nothing."""

from pathlib import Path

from cmesh.errors import ControlUnreachable
from cmesh.node.nodelog import last_control_error, size

__all__ = ["ControlLog"]


class ControlLog:
    """The log of one start of the node, from where it stood then.

    Attributes:
        log: the file; it need not be there.
        server: what people are told the control server is.
    """

    def __init__(self, log: Path, control_url: str) -> None:
        """Begin at the log's present end."""
        self.log = log
        self.server = control_url or "Tailscale's control server"
        self._begin = size(log)

    def trouble(self) -> ControlUnreachable | None:
        """Return the failure of the last round; None = none since the start. Blocks on the disk."""
        why = last_control_error(self.log, self._begin)
        if not why:
            return None
        return ControlUnreachable(
            f"the control server `{self.server}` does not let the node in: {why}",
            hint=f"check `control_url` in config.toml and the network, the node keeps trying; "
            f"its log is {self.log}; after a change of the file `cmesh down`, then `cmesh up`",
        )
