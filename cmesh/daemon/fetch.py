"""A kept output on its way from the worker: asked for, checked, stored under its hash."""

import tempfile
from pathlib import Path

from cmesh.errors import RemoteProtocolError
from cmesh.link.link import Link
from cmesh.model import TaskId
from cmesh.protocol.codec import Chunk
from cmesh.protocol.messages import Artifact, ResultMessage
from cmesh.protocol.transfer import Assembler
from cmesh.store.store import Store

__all__ = ["Fetch"]


class Fetch:
    """One output; the result it belongs to waits here until the bytes are stored.

    Attributes:
        message: the result, to be taken up when the output is there.
    """

    def __init__(self, message: ResultMessage, limit_bytes: int) -> None:
        """Expect the output that `message` announces.

        Raises:
            RemoteProtocolError: it is larger than the task allowed.
        """
        outcome = message.outcome
        self.message = message
        self._task_id = TaskId(message.task_id)
        self._assembler = Assembler(
            self._task_id, outcome.output_sha256, outcome.output_kept, limit_bytes
        )
        self._file = tempfile.NamedTemporaryFile(prefix="cmesh-output-", delete=False)  # noqa: SIM115

    def ask(self, link: Link) -> None:
        """Ask the worker for it."""
        sha256 = self.message.outcome.output_sha256
        link.post(Artifact(task_id=self._task_id, sha256=sha256, offset=0))

    def add(self, chunk: Chunk) -> bool:
        """Take a chunk; True when the output is whole.

        Raises:
            RemoteProtocolError: the bytes are not those announced.
        """
        self._file.write(self._assembler.add(chunk))
        return self._assembler.done

    async def store(self, store: Store) -> None:
        """Put the whole output into the store."""
        self._file.close()
        sha256 = await store.blob(Path(self._file.name))
        if sha256 != self.message.outcome.output_sha256:
            raise RemoteProtocolError("the fetched output is not the one announced")

    def close(self) -> None:
        """Remove what is left on disk."""
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)
