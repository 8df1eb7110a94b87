"""What is damaged is known before anybody acts on it, and harms nobody else."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from perdure.errors import DataCorrupted, NewerJournal, StoreUnusable
from perdure.messages import AgentId, Commit, Delivery, Entry, Start
from perdure_store_sqlite import SqliteStore

LARGE = b'"' + b"x" * 100_000 + b'"'
TURN = Start("t", "turn", "app.agent", b'"hello"', 0.0, session="s")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "perdure.db"


@pytest.fixture
async def open_store(path):
    opened = []

    def open_store():
        opened.append(SqliteStore(path))
        return opened[-1]

    yield open_store
    for store in opened:
        await store.close()


def flow(run, **fields):
    return Start(run, "workflow", "app.flow", b'{"n":1}', 0.0)._replace(**fields)


def step(n, value=b"1"):
    return Entry("step", f"0/s#{n}", float(n), "s", value=value)


def change(path, sql, *parameters):
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(sql, parameters).rowcount > 0


async def recorded(store, *runs, values=(b"0", b"1", LARGE)):
    """Runs with a journal, which wait; closed."""
    await store.claim("a", 0.0)
    _, claims = await store.accept([flow(run) for run in runs], worker="a")
    entries = tuple(step(n, value) for n, value in enumerate(values))
    for claim in claims:
        await store.commit(
            Commit(claim.start.run, claim.epoch, 0, 0.0, entries, status="waiting", active=False), worker="a"
        )
    await store.leave("a")
    await store.close()


COLUMNS = {
    "kind": "'timer'",
    "path": "'0/t#0'",
    "at": "9.5",
    "name": "'t'",
    "fingerprint": "'f'",
    "value": "x'31'",
    "error": "x'7b7d'",
    "attempt": "2",
    "started": "0.5",
    "role": "'tool'",
    "source": "'a.py:1'",
    "seq": "7",
    "run": "9",
    "sum": "0",
}


@pytest.mark.parametrize("column", COLUMNS)
async def test_each_column_of_a_journals_row_is_checked(open_store, path, column):
    await recorded(open_store(), "r", "s")
    change(path, f"UPDATE journal SET {column} = {COLUMNS[column]} WHERE id = 1")  # noqa: S608 - the test's own
    store = open_store()
    with pytest.raises(DataCorrupted, match=r"run 'r' .*entry 0 of its journal.*backup"):
        await store.load("r")
    assert len((await store.load("s")).entries) == 3


STARTED = (
    "kind",
    "target",
    "input",
    "at",
    "session",
    "key",
    "parent",
    "path",
    "ancestry",
    "headers",
    "tags",
    "version",
)


@pytest.mark.parametrize("column", [*STARTED, "due", "generation", "on_close"])
async def test_a_run_whose_start_is_damaged_is_set_aside_and_others_are_claimed(open_store, path, column):
    await open_store().accept([flow("r"), flow("s")])
    changed = "7.5" if column in {"at", "due", "version", "generation"} else "'[9]'"
    change(path, f"UPDATE runs SET {column} = {changed} WHERE run = 'r'")  # noqa: S608 - the test's own
    store = open_store()
    claims, _ = await store.claim("a", 100.0)
    assert [claim.start.run for claim in claims] == ["s"]
    (view,) = [view for view in await store.runs() if view.id == "r"]
    assert (await store.run("r")).id == "r"
    assert (view.status, view.error.type) == ("parked", "perdure.errors.DataCorrupted")
    with pytest.raises(DataCorrupted, match="'r'"):
        await store.load("r")


async def test_a_run_whose_inbox_is_damaged_is_set_aside(open_store, path):
    await open_store().accept([flow("r"), Delivery("r", "event", "e", 0.0, b"1"), flow("s")])
    change(path, "UPDATE inbox SET value = x'32'")
    store = open_store()
    claims, _ = await store.claim("a", 0.0)
    assert [claim.start.run for claim in claims] == ["s"]
    assert "delivery 'e' in its inbox" in (await store.run("r")).error.message


async def test_a_damaged_run_goes_on_once_it_is_repaired_and_resumed(open_store, path):
    await open_store().accept([flow("r")])
    change(path, "UPDATE runs SET input = x'00'")
    store = open_store()
    assert (await store.claim("a", 0.0))[0] == []
    _, claims = await store.accept([Delivery("r", "resume", "too early", 0.0)], worker="a")
    assert ([*claims], (await store.run("r")).status) == ([], "parked")
    change(path, "UPDATE runs SET input = ?", flow("r").input)
    _, (claim,) = await store.accept([Delivery("r", "resume", "go", 0.0)], worker="a")
    assert claim.start == flow("r")


@pytest.mark.parametrize("kind", ["cancel", "terminate"])
async def test_a_damaged_run_can_be_ended(open_store, path, kind):
    await open_store().accept([flow("r")])
    change(path, "UPDATE runs SET input = x'00'")
    store = open_store()
    await store.claim("a", 0.0)
    _, claims = await store.accept([Delivery("r", kind, "off", 0.0)], worker="a")
    view = await store.run("r")
    assert ([*claims], view.status, view.finished) == ([], "terminated", True)
    accepted, _ = await store.accept([Delivery("r", "event", "e", 0.0)])
    assert not accepted[0].new


async def test_a_large_value_that_is_not_what_its_name_says_is_damage(open_store, path):
    await recorded(open_store(), "r")
    change(path, "UPDATE blobs SET data = CAST(substr(data, 1, 500) || 'y' || substr(data, 502) AS BLOB)")
    store = open_store()
    with pytest.raises(DataCorrupted, match="large value"):
        await store.load("r")
    shown = await store.journal("r")
    assert [entry.value for entry in shown] == [b"0", b"1", None]
    assert b"damaged" in shown[2].error


@pytest.mark.parametrize("where", ["log SET entry = x'32'", "sessions SET state = x'32'"])
async def test_a_conversation_that_is_damaged_is_known_to_be(open_store, path, where):
    store = open_store()
    await store.claim("a", 0.0)
    _, (claim,) = await store.accept([TURN], worker="a")
    end = Commit("t", claim.epoch, 0, 0.0, log=(b"1",), state=b"1", status="completed", active=False)
    await store.commit(end, worker="a")
    await store.accept([TURN._replace(run="t2"), TURN._replace(run="other", session="other")])
    change(path, f"UPDATE {where}")
    with pytest.raises(DataCorrupted, match=r"'t2'.*session"):
        await store.load("t2")
    assert (await store.load("other")).log == ()
    assert len(await store.log(AgentId("app.agent", "s"))) == 1


async def test_an_entry_that_only_a_newer_release_knows_is_no_damage(open_store):
    store = open_store()
    await store.claim("a", 0.0)
    _, (claim,) = await store.accept([flow("r")], worker="a")
    await store.commit(Commit("r", claim.epoch, 0, 0.0, (step(0), step(1)._replace(kind="dream"))), worker="a")
    with pytest.raises(NewerJournal, match=r"'r'.*'dream'.*'0/s#1'.*upgrade"):
        await store.load("r")
    assert [entry.kind for entry in await store.journal("r")] == ["step", "dream"]


async def test_a_page_that_sqlite_cannot_read_costs_the_run_that_lies_there(open_store, path):
    await recorded(open_store(), "r", values=[b"%d" % n * 500 for n in range(300)])
    await recorded(open_store(), "s")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    data = bytearray(path.read_bytes())
    place = data.index(b"150" * 500)  # a leaf of the journal, in the midst of the first run
    data[place // size * size : place // size * size + 8] = b"\xa5" * 8
    path.write_bytes(data)
    store = open_store()
    with pytest.raises(DataCorrupted, match=r"'r'.*malformed"):
        await store.load("r")
    assert len((await store.load("s")).entries) == 3
    await store.claim("a", 0.0)
    _, (claim,) = await store.accept([flow("new")], worker="a")
    await store.commit(Commit("new", claim.epoch, 0, 0.0, (step(0),)), worker="a")


async def test_a_file_that_vanished_is_not_quietly_begun_anew(open_store, path):
    store = open_store()
    await store.accept([flow("r")])
    store._writer._broken = True  # noqa: SLF001 - as after a failed commit
    path.rename(path.with_name("moved"))
    with pytest.raises(StoreUnusable, match="gone"):
        await store.accept([flow("s")])
    path.with_name("moved").rename(path)
    outcomes = await asyncio.gather(*(store.accept([flow(run)]) for run in ("r", "s")))
    assert [accepted[0].new for accepted, _ in outcomes] == [False, True]
