"""Bundles of commits: told to the worker of their task, and to nobody else."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cmesh.daemon import bundles
from cmesh.daemon.bundles import Bundles
from cmesh.errors import ChangesRefused
from cmesh.link.link import Link
from cmesh.model import Changes, Direction
from cmesh.protocol.messages import Bundle, Failure, Lacks

pytestmark = pytest.mark.anyio

TASK = "0198c0de-1111-7aaa-8bbb-0123456789ab"
SHA256 = "a" * 64


class Store:
    """Knows one task, which was sent to `worker`."""

    incoming = Path("/nowhere")

    async def task(self, _task_id: str) -> Any:
        changes = Changes(commit="b" * 40, sha256="c" * 64, bytes=1, bundle=True)
        record = SimpleNamespace(
            direction=Direction.OUT,
            peer_id="worker",
            spec=SimpleNamespace(changes=changes),
            first=TASK,
            project="/app",
        )
        return SimpleNamespace(record=record, terminal=False)


def link_of(peer_id: str, posted: list[object]) -> Link:
    link = SimpleNamespace(identity=SimpleNamespace(node_id=peer_id), post=posted.append)
    return cast("Link", link)


async def test_a_bundle_is_told_to_its_tasks_worker_and_to_no_other_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle"
    path.touch()

    def make(*asked: Any) -> bundles._Made:  # pyright: ignore[reportPrivateUsage]
        return bundles._Made(  # pyright: ignore[reportPrivateUsage]
            peer_id=asked[-1], path=path, sha256=SHA256, bytes=7
        )

    monkeypatch.setattr(bundles, "_make", make)
    made = Bundles(cast("Any", SimpleNamespace(store=Store(), redactor=lambda: None)))
    told: list[object] = []
    await made.wanted(link_of("worker", told), Lacks(task_id=TASK))
    await made.wanted(link_of("worker", told), Lacks(task_id=TASK))
    assert [type(one) for one in told] == [Bundle, Bundle]
    strange: list[object] = []
    with pytest.raises(ChangesRefused):
        await made.wanted(link_of("stranger", strange), Lacks(task_id=TASK))
    assert [type(one) for one in strange] == [Failure]
    assert SHA256 not in str(strange)
