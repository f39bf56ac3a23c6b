"""The daemon's log: one line per event, never a prompt, a result or a secret.

Audit is not a log: audit rows are written by the store, in the transaction
they describe.
"""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, TextIO

from typing_extensions import override

from cmesh.redact import Redactor

__all__ = ["Form", "LineFormatter", "configure"]

Form = Literal["text", "json"]


class LineFormatter(logging.Formatter):
    """Formats `logger.info("event", extra={"data": {...}})` as `time level name event k=v`.

    Attributes:
        form: `text`, or `json`: an object a line with `ts`, `level`, `logger`, `event`, the data
            under its own keys, and of a failure `traceback`.
        redactor: what takes secrets out of each line; of known forms only, until somebody
            knows more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.form: Form = "text"
        self.redactor: Callable[[], Redactor] = Redactor

    @override
    def format(self, record: logging.LogRecord) -> str:
        ts = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        data: dict[str, object] = getattr(record, "data", {})
        if self.form == "json":
            return self.redactor().text(self._object(record, ts, data))[0]
        pairs = "".join(f" {key}={_value(value)}" for key, value in data.items())
        line = f"{ts} {record.levelname.lower()} {record.name} {record.getMessage()}{pairs}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return self.redactor().text(line)[0]

    def _object(self, record: logging.LogRecord, ts: str, data: dict[str, object]) -> str:
        head: dict[str, object] = {
            "ts": ts,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            head["traceback"] = self.formatException(record.exc_info)
        return json.dumps(head | {k: v for k, v in data.items() if k not in head}, default=str)


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
    plain = text.isprintable() and not any(ch.isspace() or ch in "=\"'" for ch in text)
    return text if plain and text else repr(text)
