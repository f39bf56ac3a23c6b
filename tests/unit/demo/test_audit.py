"""The comparison of both nodes' records: every difference must fail the demo."""

import hashlib
from typing import Any, cast

import pytest

from cmesh.daemon.answers import SqlView
from cmesh.daemon.arguments import SqlArguments
from cmesh.errors import DemoFailed
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.demo import audit

pytestmark = pytest.mark.anyio

TASK: dict[str, Any] = {
    "task_id": "t1",
    "payload_hash": "aa",
    "state": "succeeded",
    "runner": "command:x",
    "directory": "/srv",
    "output_sha256": "bb",
    "worker_signature": "w",
    "caller_signature": "c",
}


class FakeClient:
    """Answers each query with the same rows."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = rows

    async def sql(self, _arguments: SqlArguments) -> SqlView:
        columns = list(self.rows[0]) if self.rows else []
        return SqlView(
            columns=columns, types=[], rows=[[row[name] for name in columns] for row in self.rows]
        )


def client(*rows: dict[str, Any]) -> ControlClient:
    return cast("ControlClient", FakeClient(*rows))


def chain(*canons: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    previous = bytes(32)
    for seq, canon in enumerate(canons, start=1):
        previous = hashlib.sha256(previous + canon.encode()).digest()
        rows.append({"seq": seq, "canon": canon, "h": previous.hex()})
    return rows


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "RECEIPT_LIMIT_S", 0.01)


async def test_equal_records_agree() -> None:
    assert await audit.agreement(client(TASK), client(TASK)) == [TASK]


@pytest.mark.parametrize("name", audit.AGREED)
async def test_one_different_field_fails(name: str) -> None:
    with pytest.raises(DemoFailed, match=name):
        await audit.agreement(client(TASK), client(TASK | {name: "other"}))


@pytest.mark.parametrize("name", ["payload_hash", "worker_signature", "caller_signature"])
async def test_a_field_that_both_lack_fails(name: str) -> None:
    with pytest.raises(DemoFailed, match=name):
        await audit.agreement(client(TASK | {name: ""}), client(TASK | {name: ""}))


async def test_a_task_that_only_one_side_knows_fails() -> None:
    with pytest.raises(DemoFailed, match="the same tasks"):
        await audit.agreement(client(TASK), client(TASK, TASK | {"task_id": "t2"}))


async def test_a_chain_is_recomputed_from_its_rows() -> None:
    rows = chain("a", "b", "c")
    assert await audit.verify_chain(client(*rows), "x") == [row["h"] for row in rows]


@pytest.mark.parametrize(
    "change", [{"canon": "B"}, {"h": "00" * 32}, {"seq": 3}], ids=["text", "hash", "number"]
)
async def test_a_changed_row_breaks_the_chain(change: dict[str, Any]) -> None:
    rows = chain("a", "b", "c")
    rows[1] |= change
    with pytest.raises(DemoFailed, match=r"audit"):
        await audit.verify_chain(client(*rows), "x")


async def test_an_empty_audit_proves_nothing() -> None:
    with pytest.raises(DemoFailed):
        await audit.verify_chain(client(), "x")


async def test_a_receipt_must_be_of_the_other_nodes_chain() -> None:
    hashes = [row["h"] for row in chain("a", "b", "c")]
    good = {"head_seq": 2, "head_hash": hashes[1]}
    assert await audit.head_at(client(good), "x", hashes) == 2
    for bad in ({"head_seq": 1}, {"head_seq": 9}, {"head_hash": "00"}):
        with pytest.raises(DemoFailed, match="receipt"):
            await audit.head_at(client(good, good | bad), "x", hashes)
    with pytest.raises(DemoFailed, match="no receipt"):
        await audit.head_at(client(), "x", hashes)
