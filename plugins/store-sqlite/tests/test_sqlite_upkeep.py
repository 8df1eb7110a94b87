"""What operators do to finished runs, and what begins anew: what of it is SQLite's own, besides the kit."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing

import pytest

from perdure.errors import DataCorrupted, RunActive
from perdure.messages import AgentId, Commit, Delivery, Entry, ErrorInfo, Request, RunFilter, Start
from perdure_store_sqlite import SqliteStore
from perdure_store_sqlite.upkeep import MANY

LARGE = b'"' + b"x" * 100_000 + b'"'
ERROR = ErrorInfo(type="ValueError", message="no").model_dump_json().encode()
TURN = Start("t1", "turn", "app.agent", b'"hello"', 0.0, session="s")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "perdure.db"


@pytest.fixture
async def store(path):
    store = SqliteStore(path)
    await store.claim("a", 0.0)
    yield store
    await store.close()


def flow(run, **fields):
    return Start(run, "workflow", "app.flow", b"{}", 0.0)._replace(**fields)


def step(n, value=b"1"):
    return Entry("step", f"0/s#{n}", float(n), "s", value=value)


def reply(key, **fields):
    return Delivery("r", "reply", key, 0.0, **fields)


async def begin(store, start):
    _, claims = await store.accept([start], worker="a")
    return claims[0]


def commit(claim, seq=0, **fields):
    return Commit(claim.start.run, claim.epoch, seq, **{"at": 0.0, **fields})


async def finish(store, claim, seq=0, **fields):
    end = commit(claim, seq, **{"status": "completed", "active": False, "value": b"1", **fields})
    return await store.commit(end, worker="a")


async def done(store, start, *values, **fields):
    """A run that recorded these values and finished."""
    claim = await begin(store, start)
    await finish(store, claim, entries=tuple(step(n, value) for n, value in enumerate(values)), **fields)
    return claim


def rows(path, sql):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def row_count(path):
    tables = ("runs", "run_tags", "journal", "inbox", "requests", "blobs")
    counts = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in tables)  # noqa: S608 - ours
    return dict(rows(path, counts))


# -- purging -----------------------------------------------------------------------------------------------------


async def test_a_purged_run_leaves_nothing_in_any_table(store, path):
    claim = await begin(store, flow("r", tags={"colour": "red"}, input=LARGE))
    await store.accept([reply("p", value=LARGE + b" ")], worker="a")
    asked = Request("q", "r", "0/q#1", "?", {}, 0.0)
    await store.commit(commit(claim, entries=(step(0, LARGE + b"  "),), asks=(asked,)), worker="a")
    await finish(store, claim, 1, value=LARGE + b"   ")
    assert set(row_count(path).values()) == {1, 4}
    assert await store.purge(RunFilter()) == 1
    assert set(row_count(path).values()) == {0}


async def test_a_large_value_stays_as_long_as_anybody_refers_to_it(store, path):
    for run in ("r", "s"):
        await done(store, flow(run, tags={"run": run}), LARGE)
    assert await store.purge(RunFilter(tags={"run": "r"})) == 1
    assert row_count(path)["blobs"] == 1
    assert (await store.load("s")).entries == (step(0, LARGE),)
    assert await store.purge(RunFilter(tags={"run": "s"})) == 1
    assert row_count(path)["blobs"] == 0


async def test_the_conversation_of_a_purged_turn_stays_and_belongs_to_no_later_one(store):
    claim = await begin(store, TURN)
    await finish(store, claim, log=(LARGE,), state=LARGE)
    assert await store.purge(RunFilter()) == 1
    await store.accept([TURN._replace(run="t2")])
    loaded = await store.load("t2")
    assert (loaded.log, loaded.state) == ((LARGE,), LARGE)


async def test_a_purge_of_many_rows_goes_by_several_transactions_and_takes_each_run_whole(store, path):
    for n in range(3):
        await done(store, flow(f"r{n}"), *[b"1"] * (MANY // 2 + 1))
    before = store.transactions
    assert await store.purge(RunFilter(), limit=3) == 3
    assert store.transactions - before >= 2
    assert set(row_count(path).values()) == {0}


async def test_a_purge_takes_no_more_than_its_limit(store):
    for n in range(5):
        await done(store, flow(f"r{n}"))
    assert [await store.purge(RunFilter(), limit=2) for _ in range(4)] == [2, 2, 1, 0]


async def test_a_purge_forgets_by_age_and_status(store):
    for n, status in enumerate(("completed", "failed", "cancelled", "failed")):
        claim = await begin(store, flow(f"r{n}"))
        await finish(store, claim, at=float(n), status=status)
    await begin(store, flow("live"))
    assert await store.purge(RunFilter(status=("failed", "running"), idle_since=3.0)) == 1
    assert await store.purge(RunFilter(idle_since=2.0)) == 1
    assert [view.id for view in await store.runs()] == ["live", "r3", "r2"]


async def test_a_run_whose_parent_goes_on_is_not_purged(store):
    parent = await begin(store, flow("r"))
    child = flow("child", parent="r", path="0/c#1")
    (claim,) = await store.commit(commit(parent, starts=(child,)), worker="a")
    await finish(store, claim)
    assert await store.purge(RunFilter(parent="r")) == 0
    await finish(store, parent)
    assert await store.purge(RunFilter()) == 2


async def _watching(store):
    seen = 0
    while True:
        seen = await store.changed(seen)


async def test_the_file_shrinks_after_a_purge(path):
    store = SqliteStore(path)
    await store.claim("a", 0.0)
    await done(store, flow("r"), *[b"%d" % n * 1000 for n in range(3000)])
    before = rows(path, "PRAGMA page_count")[0][0]
    await store.purge(RunFilter())
    watch = asyncio.create_task(_watching(store))  # while somebody waits, it looks after what is idle
    while rows(path, "PRAGMA freelist_count")[0][0]:
        await asyncio.wait([watch], timeout=0.05)
    watch.cancel()
    await store.close()
    assert rows(path, "PRAGMA page_count")[0][0] < before / 4


# -- rewinding ---------------------------------------------------------------------------------------------------


async def test_a_rewound_run_takes_from_its_inbox_what_the_cut_entries_had_taken(store):
    claim = await begin(store, flow("r"))
    items = [reply("good", value=b"1"), reply("bad", error=ERROR), Delivery("r", "event", "e", 0.0, b"2", name="n")]
    await store.accept([reply("kept", value=b"0"), *items], worker="a")
    consumed = (("kept", 0), ("good", 1), ("bad", 2), ("e", 3))
    await finish(
        store,
        claim,
        entries=tuple(step(n) for n in range(4)),
        consumed=consumed,
        status="failed",
        value=None,
        error=ERROR,
    )
    await store.rewind("r", 1, at=5.0)
    claims, _ = await store.claim("a", 0.0)
    assert [(c.seq, [d.key for d in c.inbox]) for c in claims] == [(1, ["good", "e"])]
    again, _ = await store.accept([reply("bad", value=b"3"), reply("kept", value=b"0")], worker="a")
    assert [item.new for item in again] == [True, False]
    view = await store.run("r")
    assert (view.status, view.error, view.result, view.seq, view.updated) == ("pending", None, None, 1, 5.0)


async def test_a_rewound_run_may_ask_again_what_its_end_closed(store):
    claim = await begin(store, flow("r"))
    asked = Request("q", "r", "0/q#1", "?", {}, 0.0, to="first")
    await store.commit(commit(claim, asks=(asked,)), worker="a")
    await finish(store, claim)
    await store.rewind("r", 0, at=1.0)
    (claim,), _ = await store.claim("a", 0.0)
    await store.commit(commit(claim, asks=(asked._replace(to="second"),)), worker="a")
    view = await store.request("q")
    assert (view.status, view.to) == ("open", "second")


async def test_a_rewound_turn_takes_back_what_it_said_and_remembered(store):
    await finish(store, await begin(store, TURN), log=(b'"one"',), state=b"1")
    await finish(store, await begin(store, TURN._replace(run="t2")), log=(b'"two"', LARGE), state=LARGE)
    await store.rewind("t2", 0, at=1.0)
    loaded = await store.load("t2")
    assert (loaded.log, loaded.state) == ((b'"one"',), b"1")
    assert list(await store.log(AgentId("app.agent", "s"))) == [b'"one"']
    (claim,), _ = await store.claim("a", 0.0)
    await finish(store, claim, log=(b'"again"',), state=b"3")
    assert list(await store.log(AgentId("app.agent", "s"))) == [b'"one"', b'"again"']


async def test_a_turn_after_which_another_began_is_not_rewound(store):
    await finish(store, await begin(store, TURN))
    claim = await begin(store, TURN._replace(run="t2"))
    with pytest.raises(RunActive, match=r"'t1'.*'app.agent/s'"):
        await store.rewind("t1", 0, at=1.0)
    await finish(store, claim)
    with pytest.raises(RunActive):
        await store.rewind("t1", 0, at=1.0)
    await store.rewind("t2", 0, at=1.0)


async def test_a_damaged_journal_is_not_forked_beyond_the_damage(store, path):
    await done(store, flow("r"), b"0", b"1", b"2")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE journal SET value = x'00' WHERE seq = 1")
    with pytest.raises(DataCorrupted, match="entry 1"):
        await store.fork("r", 3, flow("f"))
    assert await store.run("f") is None
    assert (await store.fork("r", 1, flow("f"))).new
    assert (await store.load("f")).entries == (step(0, b"0"),)


async def test_a_fork_shares_large_values_and_outlives_its_source(store, path):
    await done(store, flow("r"), LARGE, b"1")
    await store.fork("r", 1, flow("f"))
    assert row_count(path)["blobs"] == 1
    assert await store.purge(RunFilter()) == 1
    (claim,), _ = await store.claim("a", 0.0)
    assert (claim.start.run, claim.seq, (await store.load("f")).entries) == ("f", 1, (step(0, LARGE),))


# -- beginning anew ----------------------------------------------------------------------------------------------


async def test_a_restarted_run_has_nothing_of_the_one_before_it(store, path):
    claim = await done(store, flow("r", tags={"a": "1"}, input=LARGE), LARGE + b" ")
    accepted, claims = await store.accept([flow("r", tags={"a": "2"}, reuse="restart")], worker="a")
    assert [item.new for item in accepted] == [True]
    assert [(c.start.generation, c.seq, c.epoch > claim.epoch) for c in claims] == [(1, 0, True)]
    assert (await store.load("r")).entries == ()
    assert row_count(path)["blobs"] == 0
    assert [v.id for v in await store.runs(RunFilter(tags={"a": "2"}))] == ["r"]
    assert await store.runs(RunFilter(tags={"a": "1"})) == []


async def test_a_run_that_goes_on_as_new_drops_its_journal_and_keeps_in_mind_which_events_came(store, path):
    claim = await begin(store, flow("r", input=LARGE))
    event = Delivery("r", "event", "e1", 0.0, b"1", name="n")
    await store.accept([event, reply("p", value=b"1"), event._replace(key="e2")], worker="a")
    again = flow("r", input=b'{"n":2}', version=2, generation=1)
    anew = commit(
        claim,
        entries=(step(0, LARGE + b" "),),
        consumed=(("e1", 0), ("p", 0)),
        status="pending",
        active=False,
        again=again,
    )
    claims = await store.commit(anew, worker="a")
    assert [(c.start, c.seq, [d.key for d in c.inbox]) for c in claims] == [(again, 0, ["e2"])]
    assert (await store.load("r")).entries == ()
    accepted, _ = await store.accept([event, reply("p", value=b"2")], worker="a")
    assert [item.new for item in accepted] == [False, True]
    assert row_count(path)["blobs"] == 0


async def test_a_state_that_is_replaced_leaves_no_large_value_behind(store, path):
    for n in range(4):
        claim = await begin(store, TURN._replace(run=f"t{n}"))
        await finish(store, claim, state=json.dumps([n] * 20_000).encode())
    assert row_count(path)["blobs"] == 2  # the state, and the one before it
