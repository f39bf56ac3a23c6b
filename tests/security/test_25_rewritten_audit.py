"""Abuse 25: who owns files and key writes the audit anew; only the other side can tell."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cmesh.interfaces.audit import reading
from cmesh.interfaces.cli.app import main
from cmesh.keys import fingerprint
from cmesh.model import NodeId, TaskId
from cmesh.protocol.link_messages import Seen
from cmesh.protocol.proof_messages import HeldEnd, RowNow
from cmesh.store import held
from cmesh.store.against import Comparison, Known, Outcome
from cmesh.store.store import Store
from scripts.gen_schemas import SCHEMAS
from tests.security.two_logs import (
    LAPTOP,
    NAS,
    Machine,
    cut,
    other_decision,
    other_end,
    rechain,
    two_machines,
)
from tests.unit.store.support import FixedClock, new_id, trust

Verify = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TaskId]]:
    """Both machines as they were written, once."""
    base = tmp_path_factory.mktemp("written")
    return base, asyncio.run(two_machines(base))


@pytest.fixture
def ids(written: tuple[Path, list[TaskId]], tmp_path: Path) -> list[TaskId]:
    """Return the tasks' ids, in the order asked; the machines stand in `tmp_path`."""
    base, ids = written
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    return ids


@pytest.fixture
def verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Verify:
    """Check a machine's audit, with what the other holds when `receipts` is not told to stay."""

    def run(of: Machine = LAPTOP, *, against: bool = True) -> tuple[int, dict[str, Any]]:
        argv = ["audit", "verify", "--store", str(of.store(tmp_path)), "--json"]
        if against:
            argv += ["--against", str(receipts(tmp_path, of.peer, capsys))]
        status = main(argv)
        told = json.loads(capsys.readouterr().out)
        Draft202012Validator(SCHEMAS["audit"]()).validate(told)  # pyright: ignore[reportUnknownMemberType]
        return status, told

    return run


def receipts(base: Path, by: Machine, capsys: pytest.CaptureFixture[str]) -> Path:
    """Write what `by` holds of the other machine to a file."""
    file = base / f"{by.name}.receipts"
    file.unlink(missing_ok=True)
    argv = ["audit", "receipts", by.peer.name, "--store", str(by.store(base))]
    assert main([*argv, "--output", str(file)]) == 0
    assert file.stat().st_mode & 0o077 == 0
    capsys.readouterr()
    for line in file.read_text("utf-8").splitlines():
        Draft202012Validator(SCHEMAS["receipts"]()).validate(json.loads(line))  # pyright: ignore[reportUnknownMemberType]
    return file


@pytest.mark.parametrize("machine", [LAPTOP, NAS])
def test_25_an_end_that_was_erased_is_no_difference_on_either_side(
    ids: list[TaskId], verify: Verify, tmp_path: Path, machine: Machine
) -> None:
    erased = asyncio.run(forget(machine, tmp_path, 0 if machine == LAPTOP else 1, ids))
    for looker in (LAPTOP, NAS):
        status, told = verify(looker)
        [one] = told["against"]
        assert (status, told["ok"], one["verdict"]) == (0, True, "fits"), one
        assert (one["forgotten"], one["differing"]) == (1, 0)
        assert told["erased"] == (erased if looker == machine else 0)


def test_25_an_end_that_is_gone_is_a_difference_also_beside_one_that_was_erased(
    ids: list[TaskId], verify: Verify, tmp_path: Path
) -> None:
    asyncio.run(forget(LAPTOP, tmp_path, 0, ids))
    rechain(LAPTOP.store(tmp_path), other_end(LAPTOP, ids[-1]))
    status, told = verify()
    assert (status, told["ok"]) == (76, False)
    assert told["finding"] is None
    assert ids[-1] in {found["task_id"] for found in told["against"][0]["differences"]}


async def forget(machine: Machine, base: Path, number: int, ids: list[TaskId]) -> int:
    """Erase a task's texts on one machine; return how many rows had them."""
    store = await Store.open(machine.store(base), clock=FixedClock(), node=machine.name)
    try:
        await store.forget([ids[number]], {"by": "a test"})
        rows = await store.erase_due(None)
        await store.compact()
    finally:
        await store.close()
    assert rows > 0
    return rows


def test_25_two_whole_logs_vouch_for_each_other(ids: list[TaskId], verify: Verify) -> None:
    for machine in (LAPTOP, NAS):
        status, told = verify(machine)
        [one] = told["against"]
        assert (status, told["ok"], one["verdict"], one["peer"]) == (
            0, True, "fits", machine.peer.name,
        )  # fmt: skip
        assert one["ends"] == len(ids) - (machine == NAS)
        assert one["covered_through"] + one["rows_after"] == told["rows"]
        assert (one["unknown_keys"], one["differences"]) == (0, [])


def test_25_a_log_cut_off_with_its_head_file_is_found_by_the_other_side(
    ids: list[TaskId], tmp_path: Path, verify: Verify
) -> None:
    cut(LAPTOP.store(tmp_path), 14)
    status, told = verify(against=False)
    assert (status, told["ok"], told["rows"]) == (0, True, 14)  # what it must be: it fits in itself
    status, told = verify()
    first = told["against"][0]["differences"][0]
    assert (status, told["ok"], told["finding"]) == (76, False, None)
    assert (first["whose"], first["seq"], first["proved"]) == ("own", 15, True)
    assert "the log ends before it" in first["what"]
    missing = {one["task_id"] for one in told["against"][0]["differences"]} - {None}
    assert missing == set(ids[1:])


def test_25_a_rewritten_log_with_new_hashes_and_head_file_is_found_by_the_other_side(
    ids: list[TaskId], tmp_path: Path, verify: Verify, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ids
    rechain(LAPTOP.store(tmp_path), other_decision)
    status, told = verify(against=False)
    assert (status, told["ok"], told["finding"]) == (0, True, None)
    status, told = verify()
    [first] = told["against"][0]["differences"]
    assert (status, told["against"][0]["verdict"], first["proved"]) == (76, "differs", True)
    # The decision is row 4; the first row that anybody has a signature for after it is named.
    assert first["seq"] in range(4, 12)
    assert first["fits_through"] == 0
    assert "it is not the row that was signed" in first["what"]
    file = str(receipts(tmp_path, NAS, capsys))
    assert (
        main(["audit", "verify", "--store", str(LAPTOP.store(tmp_path)), "--against", file]) == 76
    )
    said = capsys.readouterr().out
    assert "nas (file): DIFFERS" in said
    assert "it may begin anywhere before" in said
    assert "as it was written" not in said


def test_25_an_end_signed_anew_is_named_with_its_row_and_task(
    ids: list[TaskId], tmp_path: Path, verify: Verify
) -> None:
    worked = ids[-1]  # the laptop was its worker, and has no receipt of the caller for it
    rechain(LAPTOP.store(tmp_path), other_end(LAPTOP, worked))
    assert verify(against=False)[0] == 0
    status, told = verify()
    found = {one["task_id"]: one for one in told["against"][0]["differences"]}
    assert status == 76
    assert found[worked]["proved"] is True
    assert "another end of it" in found[worked]["what"]
    assert found[worked]["fits_through"] == 0
    assert found[None]["fits_through"] > 0


def test_25_a_wholly_new_log_under_the_same_key_is_found(
    ids: list[TaskId], tmp_path: Path, verify: Verify
) -> None:
    assert ids
    other = tmp_path / "other"
    other.mkdir()
    asyncio.run(two_machines(other, tasks=2))
    shutil.rmtree(LAPTOP.store(tmp_path))
    shutil.copytree(LAPTOP.store(other), LAPTOP.store(tmp_path))
    assert verify(against=False)[0] == 0
    status, told = verify()
    assert (status, told["against"][0]["covered_through"]) == (76, 0)


def compared_with(base: Path, nas: Path) -> Outcome:
    """Compare the laptop's log with what the store `nas` would answer over a link."""
    own, peer = (LAPTOP.node_id, LAPTOP.key.public), NAS.key.public
    known = Known(own=[own], peer_id=NAS.node_id, peer="nas", peer_keys=[peer])
    with reading(LAPTOP.store(base)) as ours, reading(nas) as theirs:
        comparison = Comparison(ours, known, through=held.last_row(ours))
        page = held.page(theirs, LAPTOP.node_id, 0)
        comparison.heads(page.heads)
        for task_id in comparison.ends(page.ends):
            comparison.whole(task_id, held.whole_end(theirs, LAPTOP.node_id, task_id))
        for asked in comparison.asked():
            now = held.hashes(theirs, [head.head_seq for head in asked])
            rows = [RowNow(seq=seq, hash=hashed) for seq, hashed in now.items()]
            comparison.rows(asked, rows)
        return comparison.outcome()


def test_25_the_other_side_s_log_that_was_cut_off_or_rewritten_is_found_here(
    ids: list[TaskId], tmp_path: Path
) -> None:
    whole = compared_with(tmp_path, NAS.store(tmp_path))
    assert (whole.verdict, whole.peer_heads, whole.peer_ends) == ("fits", 3, 3)
    rewritten = tmp_path / "rewritten" / "store"
    shutil.copytree(NAS.store(tmp_path), rewritten)
    rechain(rewritten, other_decision)
    found = compared_with(tmp_path, rewritten)
    assert (found.verdict, found.peer_heads, found.peer_ends) == ("differs", 0, 3)
    assert {(one.whose, one.proved) for one in found.differences} == {("peer", True)}
    cut(NAS.store(tmp_path), 14)
    found = compared_with(tmp_path, NAS.store(tmp_path))
    assert found.verdict == "differs"
    assert {(one.whose, one.proved) for one in found.differences} == {("peer", True)}
    assert {one.task_id for one in found.differences} >= {None, ids[2]}


def test_25_a_file_of_yesterday_accuses_nobody(
    ids: list[TaskId], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What a peer had not got yet looks like what it has lost.
    cut(NAS.store(tmp_path), 14)
    file = receipts(tmp_path, NAS, capsys)
    argv = ["audit", "verify", "--store", str(LAPTOP.store(tmp_path)), "--json"]
    assert main([*argv, "--against", str(file)]) == 0
    [one] = json.loads(capsys.readouterr().out)["against"]
    assert (one["verdict"], one["ends"] < len(ids), one["rows_after"] > 0) == ("fits", True, True)


def test_25_a_peer_that_makes_up_any_number_of_things_is_counted_and_not_believed(
    ids: list[TaskId], tmp_path: Path
) -> None:
    assert ids
    own = (LAPTOP.node_id, LAPTOP.key.public)
    known = Known(own=[own], peer_id=NAS.node_id, peer="nas", peer_keys=[NAS.key.public])
    with reading(LAPTOP.store(tmp_path)) as cursor:
        comparison = Comparison(cursor, known, through=held.last_row(cursor))
        asked = 0
        for _ in range(4):
            made_up = [
                HeldEnd(task_id=new_id(), worked=False, worker_signature="x" * 86)
                for _ in range(100)
            ]
            wholes = comparison.ends(made_up)
            asked += len(wholes)
            for task_id in wholes:
                comparison.whole(task_id, None)
        heads = [
            Seen(head_seq=seq, head_hash="ab" * 32, signature="y" * 86) for seq in range(1, 200)
        ]
        comparison.heads(heads)
        outcome = comparison.outcome()
    assert (asked, outcome.verdict, len(outcome.differences)) == (50, "unproven", 20)
    assert (outcome.differing, outcome.unknown_keys) == (401, 199)
    assert not any(one.proved for one in outcome.differences)


def test_25_nobody_is_accused_without_a_signature_of_its_own(
    ids: list[TaskId], tmp_path: Path, verify: Verify, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ids
    file = receipts(tmp_path, NAS, capsys)
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    for line in lines:
        if line["type"] == "head":
            line["head"]["head_hash"] = "ab" * 32
        if line["type"] == "end" and not line["end"]["worked"]:
            line["whole"]["outcome"]["text"] = "forged"
            line["end"]["worker_signature"] = line["end"]["worker_signature"][::-1]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    store = str(LAPTOP.store(tmp_path))
    assert main(["audit", "verify", "--store", store, "--against", str(file), "--json"]) == 77
    told = json.loads(capsys.readouterr().out)
    [one] = told["against"]
    assert (told["ok"], one["verdict"]) == (False, "unproven")
    assert one["differences"]
    assert not any(found["proved"] for found in one["differences"])
    assert verify(against=False)[0] == 0


def test_25_a_peer_that_cannot_be_asked_is_not_passed_over(
    ids: list[TaskId], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ids
    argv = ["audit", "verify", "--store", str(LAPTOP.store(tmp_path)), "--json"]
    torn, other = tmp_path / "torn", tmp_path / "other"
    text = receipts(tmp_path, NAS, capsys).read_text("utf-8")
    torn.write_text(text[: len(text) // 2], "utf-8")
    other.write_text(text.replace('"of":"nLAPTOP"', '"of":"nOTHER"', 1), "utf-8")
    codes = list[str]()
    for target in ("nas", str(tmp_path / "nothing"), str(torn), str(other)):
        assert main([*argv, "--against", target]) == 77
        told = json.loads(capsys.readouterr().out)
        assert (told["ok"], told["against"][0]["verdict"]) == (False, "not_asked")
        codes.append(told["against"][0]["code"])
    assert codes == ["daemon_not_running", "store_failed", "audit_unproven", "audit_unproven"]
    assert main([*argv[:-1], "--against", "nas"]) == 77
    assert "as far as this store can say" in capsys.readouterr().out
    assert main([*argv, "--against", "all"]) == 81
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "daemon_not_running"
    # A finding weighs more than somebody who was away.
    cut(LAPTOP.store(tmp_path), 14)
    file = str(receipts(tmp_path, NAS, capsys))
    assert main([*argv, "--against", "nas", "--against", file]) == 76


@pytest.mark.parametrize(
    ("by", "said"), [("pair", "by_code"), ("owner", "by_person"), ("delegate", "first_use")]
)
def test_25_the_report_says_who_has_confirmed_each_key(
    tmp_path: Path, verify: Verify, by: str, said: str
) -> None:
    asyncio.run(two_machines(tmp_path, tasks=1, by=by))
    status, told = verify(against=False)
    own, peer = told["keys"]
    assert (status, own["confirmed"], own["standing"]) == (0, "own", "current")
    assert (peer["confirmed"], peer["standing"], peer["name"]) == (said, "current", "nas.test")
    assert peer["fingerprint"] == fingerprint(NAS.key.public)
    assert (own["signatures"], peer["signatures"]) == (1, 2)


def test_25_a_key_that_was_replaced_or_is_not_known_is_named(
    ids: list[TaskId], tmp_path: Path, verify: Verify
) -> None:
    assert ids

    async def more() -> None:
        live = await Store.open(LAPTOP.store(tmp_path), clock=FixedClock(), node="laptop")
        unknown = replace(NAS.head(live), peer_id=NodeId("nGONE"))
        await live.commit([trust(NAS.node_id, key="k" * 43), unknown])
        await live.commit([trust(NAS.node_id, key="k" * 43, trusted=False)])
        await live.close()

    asyncio.run(more())
    status, told = verify(against=False)
    kinds = [(key["confirmed"], key["standing"]) for key in told["keys"]]
    assert (status, told["signatures_unknown"]) == (0, 1)
    assert kinds == [
        ("own", "current"),
        ("by_code", "replaced"),
        ("first_use", "taken_back"),
        ("unknown", "unknown"),
    ]
    assert told["keys"][-1]["node_id"] == "nGONE"
