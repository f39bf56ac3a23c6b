"""The daemon's log: one line per event, key=value, never a prompt, a result or a secret.

Audit is not a log: audit rows are written by the store, in the transaction
they describe.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from typing_extensions import override

from cmesh.redact import Redactor

__all__ = ["LineFormatter", "configure"]


class LineFormatter(logging.Formatter):
    """Formats `logger.info("event", extra={"data": {...}})` as `time level name event k=v`.

    Attributes:
        redactor: what takes secrets out of each line; of known forms only, until somebody
            knows more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.redactor: Callable[[], Redactor] = Redactor

    @override
    def format(self, record: logging.LogRecord) -> str:
        ts = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        data: dict[str, object] = getattr(record, "data", {})
        pairs = "".join(f" {key}={_value(value)}" for key, value in data.items())
        line = f"{ts} {record.levelname.lower()} {record.name} {record.getMessage()}{pairs}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return self.redactor().text(line)[0]


def configure(stream: TextIO, level: int = logging.INFO) -> LineFormatter:
    """Send every log record of this process to `stream`, replacing earlier handlers."""
    handler, formatter = logging.StreamHandler(stream), LineFormatter()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # websockets logs every connection at INFO; the link writes its own summary line.
    logging.getLogger("websockets").setLevel(logging.WARNING)
    return formatter


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if any(ch.isspace() or ch in "=\"'" for ch in text) or not text else text
