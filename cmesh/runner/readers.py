"""Which reader understands which output, by the word that a manifest says for it.

A manifest may change, or go, while its task runs. So each task's directory says how its output
is to be read, as its manifest said when it was started.
"""

from collections.abc import Mapping
from pathlib import Path

from cmesh.runner.claude_stream import ClaudeReader
from cmesh.runner.codex_stream import CodexReader
from cmesh.runner.gemini_stream import GeminiReader
from cmesh.runner.meter import Meter, noted_terms
from cmesh.runner.opencode_stream import OpencodeReader
from cmesh.runner.reader import OutputReader, Reader
from cmesh.runner.task_files import replace

__all__ = ["note_parser", "noted_reader", "reader_of"]

_FILE = "parser"
_READERS: Mapping[str, type[Reader]] = {
    "claude-stream-json": ClaudeReader,
    "codex-json": CodexReader,
    "gemini-stream-json": GeminiReader,
    "opencode-json": OpencodeReader,
    "output": OutputReader,
}


def reader_of(parser: str) -> Reader:
    """Return a new reader for one run; `parser` is one of a manifest."""
    return _READERS[parser]()


def note_parser(directory: Path, parser: str) -> None:
    """Write down how a task's output is to be read; its directory is there. Not durable.

    Raises:
        OSError: the disk refuses.
    """
    replace(directory / _FILE, parser.encode())


def noted_reader(directory: Path) -> Reader | None:
    """Return a new reader of what was noted for a task, held to its limits; None = of nothing."""
    try:
        found = _READERS.get((directory / _FILE).read_text("ascii"))
    except (OSError, UnicodeDecodeError):
        return None
    reader, terms = found() if found else None, noted_terms(directory)
    if reader is not None and terms is not None:
        reader.meter = Meter(terms)
    return reader
