"""Which patch of the turn before a worker goes on with, and what it says of the others."""

from dataclasses import replace

import pytest

from cmesh.daemon.earlier import earlier_of, refusal_of
from cmesh.errors import SecretFound, TaskRefused
from cmesh.model import TaskId
from cmesh.protocol.outcome import Patch
from cmesh.runner.copies import Earlier
from tests.unit.daemon.conftest import Pair
from tests.unit.daemon.test_release import ended, release

pytestmark = pytest.mark.anyio

OF = Patch(base_commit="a" * 40, base_tree="b" * 40)


async def test_a_withheld_patch_is_gone_on_with_only_after_its_release(pair: Pair) -> None:
    task = await ended(pair)
    before = await pair.doer.seen(task.task_id)
    refused = refusal_of(pair.doer.store, before)
    assert isinstance(refused, SecretFound)
    spec = replace(before.record.spec, task_id=TaskId("x"), follows=task.task_id)
    with pytest.raises(SecretFound):
        await earlier_of(pair.doer.store, spec)
    assert await release(pair.doer, task)
    earlier, sha256 = await earlier_of(pair.doer.store, spec)
    assert (earlier, sha256) == (Earlier(commit="", tree="", patched=True), task.patch)


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (
            OF.model_copy(update={"withheld": "patch_too_large", "reason": "it is long"}),
            "it is long",
        ),
        (Patch(withheld="patch_failed", reason="git failed"), "git failed"),
        (OF.model_copy(update={"sha256": "c" * 64, "bytes": 3}), "is not kept any more"),
        (OF, ""),
        (None, ""),
    ],
)
async def test_what_is_not_there_is_named(pair: Pair, patch: Patch | None, words: str) -> None:
    before = await pair.doer.seen((await ended(pair)).task_id)
    assert before.result is not None
    told = patch.model_dump(mode="json") if patch else None
    before = replace(before, result=replace(before.result, patch=told))
    refused = refusal_of(pair.doer.store, before)
    assert (refused is None) == (not words)
    if refused is not None:
        assert isinstance(refused, TaskRefused)
        assert words in refused.message


async def test_a_first_turn_goes_on_with_nothing(pair: Pair) -> None:
    before = await pair.doer.seen((await ended(pair)).task_id)
    assert await earlier_of(pair.doer.store, before.record.spec) == (None, "")
