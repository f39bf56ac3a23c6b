"""The small parts: actor, news, draft, turns, rules, trust."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import cast

import pytest

from cmesh.config import Config
from cmesh.daemon.actor import Actor, News
from cmesh.daemon.draft import Draft
from cmesh.daemon.roots import real_path
from cmesh.daemon.rules import Rules
from cmesh.daemon.trust import Trust
from cmesh.daemon.turns import Turns
from cmesh.errors import (
    CmeshError,
    LinkError,
    PeerUntrusted,
    RemoteProtocolError,
    StoreError,
    TaskRefused,
    UnknownPeer,
    WrongMachine,
)
from cmesh.keys import SigningKey, fingerprint
from cmesh.link.link import Link
from cmesh.model import Direction, Identity, NodeId, TaskId
from cmesh.runner.own_manifests import file_of, write_own
from cmesh.runner.template import manifest_text
from cmesh.store.store import Store
from tests.fakes.half import StillClock

pytestmark = pytest.mark.anyio

TASK = TaskId("0193a5c0-0000-7000-8000-000000000001")
ME = Identity(node_id=NodeId("nB"), name="builder.test")
KEY, OTHER = SigningKey(b"a" * 32).public, SigningKey(b"b" * 32).public


async def test_one_bad_event_spoils_no_other_of_its_batch() -> None:
    async def handle(batch: list[int]) -> Mapping[int, CmeshError]:
        return {place: TaskRefused("odd") for place, event in enumerate(batch) if event % 2}

    actor = Actor("t", handle)
    told = [actor.tell(number) for number in range(4)]
    await actor.settle()
    assert [future.exception() is None for future in told] == [True, False, True, False]
    assert actor.idle


async def test_a_failed_batch_is_told_to_all_and_the_actor_goes_on() -> None:
    seen: list[list[int]] = []

    async def handle(batch: list[int]) -> Mapping[int, CmeshError]:
        seen.append(batch)
        if len(seen) == 1:
            raise StoreError("no disk")
        return {}

    actor = Actor("t", handle)
    first, second = actor.tell(1), actor.tell(2)
    await actor.settle()
    third = actor.tell(3)
    await third
    assert [type(f.exception()) for f in (first, second)] == [StoreError, StoreError]
    assert seen == [[1, 2], [3]]


async def test_who_stops_waiting_stops_nothing() -> None:
    async def handle(_batch: list[int]) -> Mapping[int, CmeshError]:
        await asyncio.sleep(0)
        return {}

    actor = Actor("t", handle)
    waiting = asyncio.ensure_future(_wait(actor.tell(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    other = actor.tell(2)
    await other
    assert waiting.cancelled() or waiting.done()


async def _wait(future: asyncio.Future[None]) -> None:
    await future


async def test_news_forgets_those_who_went_away() -> None:
    news: News[str] = News()
    future = news.next("a")
    future.cancel()
    await asyncio.sleep(0)
    assert not news._waiting  # pyright: ignore[reportPrivateUsage] -- what memory holds


def test_the_first_store_a_task_went_to_stands() -> None:
    draft = Draft(TASK, Direction.OUT, None)
    draft.mark_sent_to("one")
    draft.mark_sent_to("two")
    assert (draft.sent_to(), len(draft.records)) == ("one", 1)


class Ends:
    """What turns need of a link."""

    def __init__(self) -> None:
        self.identity = ME
        self.refused: list[LinkError] = []
        self.held = 0
        self.turned_away = False

    def hold(self, _work: object) -> None:
        self.held += 1

    async def refuse(self, error: LinkError) -> None:
        self.refused.append(error)


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (RemoteProtocolError("a hole"), True),
        (LinkError("the link has ended"), False),
        (StoreError("no disk"), False),
        (RuntimeError("a bug"), False),
    ],
)
async def test_only_who_broke_the_protocol_loses_the_link_for_it(
    error: Exception, *, refused: bool
) -> None:
    link, turns, after = Ends(), Turns(), asyncio.Event()

    async def fail() -> None:
        raise error

    async def follow() -> None:
        after.set()

    turns.add("k", cast("Link", link), fail)
    turns.add("k", cast("Link", link), follow)
    await turns.close()
    assert (bool(link.refused), link.held, after.is_set()) == (refused, 2, True)


async def test_what_a_peer_asked_before_it_was_turned_away_is_not_begun() -> None:
    link, turns, done = Ends(), Turns(), list[str]()

    async def breaks() -> None:
        done.append("breaks")
        link.turned_away = True

    async def more() -> None:
        done.append("more")

    turns.add("k", cast("Link", link), breaks)
    turns.add("k", cast("Link", link), more)
    await turns.close()
    assert done == ["breaks"]


def write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text, "utf-8")
    fresh.chmod(0o600)
    fresh.replace(path)


RULE = '[[outbound.allow]]\nname = "x"\npeers = ["user:me@example.com"]\nprofiles = ["query"]\n'


@pytest.mark.parametrize("bad", ["[[outbound", None])
def test_a_bad_or_vanished_file_allows_nothing_until_it_is_mended(
    tmp_path: Path, bad: str | None
) -> None:
    path = tmp_path / "config.toml"
    write(path, RULE)
    rules = Rules(path)
    told: list[Config] = []
    rules.on_change = told.append
    assert len(rules.policy().outbound) == 1
    if bad is None:
        path.unlink()
    else:
        write(path, bad)
    assert (rules.policy().outbound, rules.error is None) == ((), False)
    assert rules.config().configured
    write(path, RULE)
    assert (len(rules.policy().outbound), rules.error) == (1, None)
    assert [len(config.policy.outbound) for config in told] == [0, 1]


def test_nobody_is_given_rules_that_another_is_just_replacing(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    write(path, RULE)
    rules = Rules(path)
    begun, go, seen = threading.Event(), threading.Event(), list[int]()

    def take_up(_config: Config) -> None:
        begun.set()
        assert go.wait(10)
        seen.append(1)

    rules.on_change = take_up
    write(path, RULE.replace("query", "full"))
    with ThreadPoolExecutor(2) as threads:
        threads.submit(rules.config)
        assert begun.wait(10)
        second = threads.submit(lambda: (rules.config(), seen.append(2)))
        wait([second], timeout=0.2)  # longer changes nothing: it waits for the first one
        go.set()
        second.result(10)
    assert seen == [1, 2]


def test_manifests_are_taken_up_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    write(path, RULE)
    rules = Rules(path)
    told: list[Config] = []
    rules.on_change = told.append
    write_own(tmp_path, "mine", manifest_text("mine", "cat"), force=False)
    assert rules.config() is rules.config()
    assert (rules.manifests.by_name["mine"].program, len(told)) == ("cat", 1)
    file = file_of(tmp_path, "mine")
    write(file, file.read_text("utf-8") + "shell = true\n")
    assert rules.policy().outbound  # the configuration is in force as it was
    assert str(file) in rules.manifests.broken["mine"].message
    assert "mine" not in rules.manifests.by_name
    file.unlink()
    rules.config()
    assert (dict(rules.manifests.own), dict(rules.manifests.broken), len(told)) == ({}, {}, 3)


def test_a_directory_that_is_not_absolute_is_left_for_policy_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert real_path(f"{tmp_path}/link/x") == str(tmp_path / "x")
    assert [real_path(path) for path in (".", "app", "/a\0b")] == [".", "app", "/a\0b"]


@pytest.fixture
async def trust(tmp_path: Path) -> AsyncIterator[Trust]:
    store = await Store.open(tmp_path, clock=StillClock(), node="t", floor_bytes=1)
    made = Trust(store)
    await made.load()
    yield made
    await store.close()


async def test_a_stranger_waits_and_a_confirmed_key_is_let_in(trust: Trust) -> None:
    for _ in range(2):
        with pytest.raises(PeerUntrusted):
            await trust.check(ME, KEY, first_contact=False)
    assert trust.standing(ME.node_id) == "waiting"
    with pytest.raises(WrongMachine) as wrong:
        await trust.pin(ME.node_id, by="owner", expected=fingerprint(OTHER))
    assert "cmesh peers trust" not in (wrong.value.hint or ""), "no way round the comparison"
    assert "do not trust it" in (wrong.value.hint or "")
    await trust.pin(ME.node_id, by="owner", expected=fingerprint(KEY))
    await trust.check(ME, KEY, first_contact=False)
    assert trust.standing(ME.node_id) == "trusted"


async def test_each_change_of_how_a_node_stands_is_told_once(tmp_path: Path) -> None:
    store, told = await Store.open(tmp_path, clock=StillClock(), node="t", floor_bytes=1), [0]
    trust = Trust(store, lambda: told.append(0))
    for _ in range(2):  # it knocks until it is let in
        with pytest.raises(PeerUntrusted):
            await trust.check(ME, KEY, first_contact=False)
    assert len(told) == 2
    await trust.pin(ME.node_id, by="owner", expected=fingerprint(KEY))
    assert len(told) == 3
    await trust.take_back(ME.node_id)
    assert len(told) == 4
    await trust.confirm(ME, KEY)
    assert len(told) == 5
    await store.close()


async def test_another_key_of_a_known_node_waits_even_when_it_was_asked(trust: Trust) -> None:
    await trust.check(ME, KEY, first_contact=True)
    with pytest.raises(PeerUntrusted):
        await trust.check(ME, OTHER, first_contact=True)
    assert trust.standing(ME.node_id) == "changed"
    await trust.check(ME, KEY, first_contact=False)
    assert trust.standing(ME.node_id) == "trusted"


async def test_a_name_that_means_another_node_now_is_refused(trust: Trust) -> None:
    await trust.check(ME, KEY, first_contact=True)
    trust.require_same(ME)
    with pytest.raises(WrongMachine):
        trust.require_same(Identity(node_id=NodeId("nX"), name=ME.name))


async def test_a_node_that_showed_no_key_cannot_be_trusted(trust: Trust) -> None:
    with pytest.raises(UnknownPeer):
        await trust.pin(NodeId("nNEVER"), by="owner")
