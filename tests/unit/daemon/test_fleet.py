"""A peer's query over a real link: what a rule lets it see, what is refused, what is written down."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import uuid_utils

from cmesh.daemon.fleet_asks import Taken
from cmesh.daemon.refusals import DENIED_COST
from cmesh.errors import (
    CmeshError,
    LinkError,
    PolicyDenied,
    QueryRefused,
    QueueFull,
    RemoteProtocolError,
)
from cmesh.keys import verify
from cmesh.link.link import Link
from cmesh.model import TaskId
from cmesh.protocol.codec import Chunk, encode_chunk
from cmesh.protocol.link_messages import Receipt
from cmesh.protocol.messages import Message, Sql, SqlAnswer, SqlCancel, SqlFile
from cmesh.protocol.receipts import head_bytes
from cmesh.store.records import SqlRows
from tests.fakes.half import Half
from tests.unit.daemon.conftest import Pair

pytestmark = pytest.mark.anyio

LIMIT_S = 30.0


def allow(*operations: str) -> str:
    return f"""
[[inbound.allow]]
name = "may query"
peers = ["user:me@example.com"]
operations = {json.dumps(operations)}
"""


def query(sql: str, **more: Any) -> Sql:
    return Sql(query_id=str(uuid_utils.uuid7()), sql=sql, **more)


async def ask(pair: Pair, message: Sql) -> Taken:
    assert pair.asker.link is not None
    place = pair.asker.store.incoming
    async with asyncio.timeout(LIMIT_S):
        return await pair.asker.caller.queries.ask(pair.asker.link, message, place)


async def rows(half: Half, taken: Taken, limit: int = 1_000) -> SqlRows:
    async with half.store.answer_files() as files:
        return await files.read(taken.path, limit, 1_000_000)


async def noted(half: Half, kind: str) -> list[dict[str, Any]]:
    found = await half.store.sql("SELECT data FROM audit WHERE kind = $1 ORDER BY seq", [kind], 99)
    return [json.loads(str(row[0])) for row in found.rows]


async def test_a_peer_sees_its_own_tasks_by_one_rule_and_all_rows_by_another(pair: Pair) -> None:
    await pair.connect()
    mine = await pair.asker.delegate(pair.doer, prompt="mine")
    await pair.doer.until(mine, "running")
    # One that the worker itself asked of somebody, whose words are nobody else's.
    own = pair.doer.record(pair.asker, prompt="of the worker")
    await pair.doer.store.commit([own])
    pair.doer.configure(pair.doer.rule() + allow("sql_own"))
    told = query("SELECT prompt, direction FROM tasks ORDER BY prompt")
    taken = await ask(pair, told)
    assert taken.file.scope == "own"
    seen = await rows(pair.asker, taken)
    assert (seen.columns, seen.rows) == (("prompt", "direction"), [["mine", "in"]])
    signed = head_bytes(pair.doer.node_id, taken.file.head_seq, taken.file.head_hash)
    assert verify(pair.doer.key.public, signed, taken.file.signature)

    pair.doer.configure(pair.doer.rule() + allow("sql_own", "sql_all"))
    taken = await ask(pair, query("SELECT prompt FROM tasks ORDER BY prompt"))
    assert taken.file.scope == "all"
    assert (await rows(pair.asker, taken)).rows == [["mine"], ["of the worker"]]
    (first, second), (one, _two) = (
        await noted(pair.doer, "query_received"),
        await noted(pair.doer, "query_answered"),
    )
    assert first["sql"].startswith("SELECT prompt, direction")
    assert (first["peer_id"], first["sql_sha256"] != second["sql_sha256"]) == ("nASKER", True)
    assert (one["state"], one["scope"], one["rows"], one["query"]) == (
        "answered",
        "own",
        1,
        told.query_id,
    )
    assert one["bytes"] > 0
    assert not list(pair.doer.store.incoming.glob("incoming-answer-*"))


@pytest.mark.parametrize("left", [[], ["sql_own"]])
async def test_a_right_that_goes_while_rows_are_made_gives_none(
    pair: Pair, left: list[str]
) -> None:
    await pair.connect()
    doer = pair.doer
    doer.configure(doer.rule() + allow("sql_all"))
    askers = doer.store._askers  # pyright: ignore[reportPrivateUsage]
    async with askers.turn(pair.asker.node_id):  # another query of its own is at work
        asking = asyncio.create_task(ask(pair, query("SELECT prompt FROM tasks")))
        async with asyncio.timeout(LIMIT_S):
            while not await noted(doer, "query_received"):
                pass
        doer.configure(doer.rule() + (allow(*left) if left else ""))
    with pytest.raises(PolicyDenied, match="taken back meanwhile"):
        await asking
    [answered] = await noted(doer, "query_answered")
    assert (answered["state"], answered["code"]) == ("refused", "policy_denied")


async def test_values_come_in_order_or_by_name_to_a_peer_that_takes_them(pair: Pair) -> None:
    await pair.connect()
    pair.doer.configure(pair.doer.rule() + allow("sql_all"))
    evil = "'; DROP TABLE tasks; --"
    named = query("SELECT $who AS who, $n + 1 AS n", named={"who": evil, "n": 2})
    assert (await rows(pair.asker, await ask(pair, named))).rows == [[evil, 3]]
    taken = await ask(pair, query("SELECT ?, ?", parameters=(evil, None)))
    assert (await rows(pair.asker, taken)).rows == [[evil, None]]
    assert [one["parameters"] for one in await noted(pair.doer, "query_received")] == [2, 2]


HIDDEN = [
    "SELECT * FROM log",
    "SELECT * FROM audit_row",
    "SELECT * FROM trust_row",
    "SELECT * FROM peers WHERE peer_id <> 'nASKER'",
    "SELECT 1 FROM decisions WHERE reason IS NOT NULL OR rule IS NOT NULL",
    "SELECT 1 FROM tasks WHERE prompt = 'of the worker' OR rule IS NOT NULL",
    "SELECT 1 FROM decision_row WHERE policy_sha256 IS NOT NULL OR failed IS NOT NULL",
    # Its own database alone; where that lies shows by a weaker sandbox than bubblewrap's.
    "SELECT 1 FROM duckdb_databases() WHERE path NOT LIKE '/snapshot/%' AND path NOT LIKE '%/snapshots/query-%'",
    "SELECT 1 FROM duckdb_databases() WHERE database_name = 'whole'",
]


async def test_of_its_own_tasks_a_peer_sees_no_rule_no_reason_and_nobody_else(pair: Pair) -> None:
    pair.doer.configure(pair.doer.rule() + allow("sql_own"))
    await pair.connect()
    mine = await pair.asker.delegate(pair.doer, prompt="mine")
    await pair.doer.until(mine, "running")
    await pair.doer.store.commit([pair.doer.record(pair.asker, prompt="of the worker")])
    for text in HIDDEN:
        seen = await rows(pair.asker, await ask(pair, query(text)))
        assert seen.rows == [], text
    for text in ("SELECT * FROM whole.task_row", "FROM read_blob('store.duckdb')"):
        with pytest.raises(QueryRefused):
            await ask(pair, query(text))


async def test_without_a_rule_a_query_is_denied_and_both_facts_are_written_down(
    pair: Pair,
) -> None:
    await pair.connect()
    with pytest.raises(PolicyDenied) as caught:
        await ask(pair, query("SELECT 1"))
    assert "other node's policy" in caught.value.message
    assert "friends" not in f"{caught.value.message}{caught.value.hint}"  # the name of a rule
    found = await pair.doer.store.sql(
        "SELECT operation, effect FROM decisions WHERE operation LIKE 'sql%'", [], 9
    )
    assert found.rows == [["sql_own", "deny"]]
    (answered,) = await noted(pair.doer, "query_answered")
    assert (answered["state"], answered["code"]) == ("refused", "policy_denied")
    # `ask` waits for a person, and nobody waits with a query.
    asking = allow("sql_all").replace("operations", 'approval = "ask"\noperations')
    pair.doer.configure(pair.doer.rule() + asking)
    with pytest.raises(PolicyDenied):
        await ask(pair, query("SELECT 1"))


async def test_a_denied_query_counts_as_several(pair: Pair) -> None:
    rate = f"[worker]\nsubmits_per_minute = {DENIED_COST}\n"
    pair.doer.configure(pair.doer.rule().replace("[worker]\n", rate))
    await pair.connect()
    for refused in (PolicyDenied, QueueFull):
        with pytest.raises(refused):
            await ask(pair, query("SELECT 1"))
    assert len(await noted(pair.doer, "query_received")) == 1


async def test_a_wrong_statement_and_what_is_too_much_say_so(pair: Pair) -> None:
    pair.doer.configure(pair.doer.rule() + allow("sql_all"))
    await pair.connect()
    with pytest.raises(QueryRefused, match="taskz"):
        await ask(pair, query("SELECT * FROM taskz"))
    with pytest.raises(QueryRefused):
        await ask(pair, query("WITH x AS (DELETE FROM log RETURNING *) SELECT * FROM x"))
    cut = await ask(pair, query("SELECT * FROM range(1000)", limit=10))
    assert (cut.truncated, cut.file.rows) == (True, 10)
    small = query("SELECT uuid() AS u, uuid() AS v FROM range(1000)", bytes=20_000)
    short = await ask(pair, small)
    assert short.truncated
    assert short.file.bytes <= 20_000
    assert 0 < short.file.rows == len((await rows(pair.asker, short)).rows) < 1000
    bound = await ask(pair, query("SELECT $1 AS a, $2 AS b", parameters=("x", 7)))
    assert (await rows(pair.asker, bound)).rows == [["x", 7]]


async def test_a_keeper_of_no_texts_writes_down_a_digest_alone(pair: Pair) -> None:
    text = pair.doer.rule() + allow("sql_all") + '[store]\nkeep_text = "30d"\n'
    pair.doer.configure(text)
    await pair.connect()
    await ask(pair, query("SELECT 'confidential'"))
    (received,) = await noted(pair.doer, "query_received")
    assert "sql" not in received
    assert len(received["sql_sha256"]) == 64


async def test_a_cancelled_query_is_ended_on_the_peer(pair: Pair) -> None:
    pair.doer.configure(pair.doer.rule() + allow("sql_all"))
    await pair.connect()
    asking = asyncio.ensure_future(ask(pair, query("SELECT sleep_ms(60000)")))
    async with asyncio.timeout(LIMIT_S):
        while not await noted(pair.doer, "query_received"):
            await asyncio.sleep(0.01)
        asking.cancel()
        while not (ended := await noted(pair.doer, "query_answered")):
            await asyncio.sleep(0.01)
    assert ended[0]["state"] == "cancelled"
    await ask(pair, query("SELECT 1"))  # the next one is served


async def test_a_link_that_ends_ends_its_queries_on_both_sides(pair: Pair) -> None:
    pair.doer.configure(pair.doer.rule() + allow("sql_all"))
    await pair.connect()
    asking = asyncio.ensure_future(ask(pair, query("SELECT sleep_ms(60000)")))
    async with asyncio.timeout(LIMIT_S):
        while not await noted(pair.doer, "query_received"):
            await asyncio.sleep(0.01)
    assert pair.asker.wire is not None
    pair.asker.wire.abort()
    with pytest.raises(LinkError):
        await asking
    async with asyncio.timeout(LIMIT_S):
        while not (ended := await noted(pair.doer, "query_answered")):
            await asyncio.sleep(0.01)
    assert ended[0]["state"] == "cancelled"


async def test_more_queries_than_a_link_may_have_open_are_refused(pair: Pair) -> None:
    pair.doer.configure(pair.doer.rule() + allow("sql_all"))
    await pair.connect()
    four = [asyncio.ensure_future(ask(pair, query("SELECT sleep_ms(60000)"))) for _ in range(4)]
    async with asyncio.timeout(LIMIT_S):
        while len(await noted(pair.doer, "query_received")) < 4:
            await asyncio.sleep(0.01)
    with pytest.raises(QueueFull):
        await ask(pair, query("SELECT 1"))
    for one in four:
        one.cancel()
    await asyncio.gather(*four, return_exceptions=True)


class Liar:
    """Answers each query of a peer as a test says, in place of the worker's own answer."""

    def __init__(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pair = pair
        self.data = b"not parquet at all"
        self.more: dict[str, Any] = {}
        take = pair.doer.on_message

        def answer(link: Link, message: Message) -> None:
            if isinstance(message, Sql):
                self.lie(link, message)
            elif not isinstance(message, SqlCancel):
                take(link, message)

        monkeypatch.setattr(pair.doer, "on_message", answer)

    def lie(self, link: Link, message: Sql) -> None:
        import hashlib

        sha256 = hashlib.sha256(self.data).hexdigest()
        head = Receipt(head_seq=1, head_hash="ab" * 32, signature="")
        signed = head_bytes(self.pair.doer.node_id, head.head_seq, head.head_hash)
        fields: dict[str, Any] = {
            "sha256": sha256,
            "bytes": len(self.data),
            "rows": 1,
            "scope": "all",
            "head_seq": 1,
            "head_hash": "ab" * 32,
            "signature": self.pair.doer.key.sign(signed),
        }
        link.post(SqlAnswer(query_id=message.query_id, file=SqlFile(**(fields | self.more))))
        chunk = encode_chunk(TaskId(message.query_id), sha256, 0, self.data, final=True)
        task = asyncio.ensure_future(link.send(chunk))
        task.add_done_callback(lambda done: done.exception())


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"signature": "A" * 86}, "not signed"),
        ({"head_seq": 2}, "not signed"),
        ({"rows": 100_000}, "more rows"),
        ({"sha256": "cd" * 32}, "another output"),
        ({"bytes": 3}, "more than the 3 bytes"),
        ({"bytes": 16 * 1024 * 1024}, "above the limit"),
    ],
)
async def test_an_answer_that_is_not_as_announced_is_not_taken_and_costs_the_link(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], why: str
) -> None:
    await pair.connect()
    liar = Liar(pair, monkeypatch)
    liar.more = more
    link = pair.asker.link
    with pytest.raises(RemoteProtocolError, match=why):
        await ask(pair, query("SELECT 1", bytes=1_000_000))
    await pair.asker.quiet()
    assert link is not None
    assert link.turned_away
    assert not list(pair.asker.store.incoming.glob("incoming-*"))


async def test_what_comes_whole_and_is_no_parquet_is_read_nowhere_but_confined(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.connect()
    Liar(pair, monkeypatch)
    taken = await ask(pair, query("SELECT 1"))
    with pytest.raises(RemoteProtocolError, match="cannot be read"):
        await rows(pair.asker, taken)


async def test_a_refusal_in_a_peers_words_is_short_and_on_one_line(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.connect()

    def refuse(link: Link, message: Message) -> None:
        if isinstance(message, Sql):
            words = "\x1b[2J" + "no\n" * 300
            link.post(SqlAnswer(query_id=message.query_id, code="made_up", reason=words))

    monkeypatch.setattr(pair.doer, "on_message", refuse)
    with pytest.raises(CmeshError) as caught:
        await ask(pair, query("SELECT 1"))
    assert "\n" not in caught.value.message
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) <= 300


async def test_chunks_and_answers_that_nobody_asked_for_are_nothing(pair: Pair) -> None:
    await pair.connect()
    stray = Chunk(
        task_id=TaskId(str(uuid_utils.uuid7())), sha256="ab" * 32, offset=0, data=b"x", final=True
    )
    queries, link = pair.asker.caller.queries, pair.asker.link
    assert link is not None
    assert not queries.take_chunk(link, stray)
    queries.take(link, SqlAnswer(query_id=stray.task_id))
    await pair.asker.quiet()
    assert pair.asker.link is link
    assert Path(pair.asker.store.incoming).is_dir()
