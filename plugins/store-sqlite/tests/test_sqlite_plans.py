"""What the store asks SQLite for goes along indexes: nothing looks through all runs, journals or inboxes."""

from __future__ import annotations

import re
from contextlib import closing

import pytest

from perdure.messages import Commit, Delivery, Entry, Reported, Request, RunFilter, Start
from perdure_store_sqlite import listing
from perdure_store_sqlite.driver import Driver, ProcessLock
from perdure_store_sqlite.ledger import Ledger
from perdure_store_sqlite.schema import open_reader, open_writer
from perdure_store_sqlite.views import Views

# The partial indexes hold what waits, not what there is; to go through one of them whole is no look at everything.
ALLOWED = re.compile(
    r"SCAN (\w+) USING (COVERING )?INDEX (runs_ready|runs_timer|runs_delayed|runs_unreported|requests_oldest)"
)
LOOK = re.compile(r"SCAN (\w+ AS )?(\w+)")
SMALL = re.compile(r"SCAN (\d+ CONSTANT|driver|called|CONSTANT|json_each|\(subquery|sqlite_master|pragma)")
TARGETS = {"a": None, "b": frozenset({"app.flow", "app.agent"})}
"""Of workers that have claimed."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "perdure.db"


@pytest.fixture
def asked(path):
    """The writer's connection, and all that it is asked."""
    with closing(open_writer(path, synchronous="full", patience=5.0)) as connection:
        statements = []
        connection.set_trace_callback(statements.append)
        yield connection, statements


def looks(connection, statements):
    """The statements whose plan has a look at a whole table, each with that line of its plan."""
    connection.set_trace_callback(None)
    found = {}
    for statement in dict.fromkeys(statements):
        if not statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
            continue
        for *_, line in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
            if LOOK.search(line) and not ALLOWED.search(line) and not SMALL.search(line):
                found[statement] = line
    return found


def flow(run, **fields):
    return Start(run, "workflow", "app.flow", b"{}", 0.0)._replace(**fields)


def turn(run, **fields):
    return Start(run, "turn", "app.agent", b"{}", 0.0, session="s")._replace(**fields)


def step(n):
    return Entry("step", f"0/s#{n}", 0.0, "s", value=b"x" * 20_000 if n else b"1")


def end(claim, seq=0, **fields):
    done = {"status": "completed", "active": False, "value": b"1", **fields}
    return Commit(claim.start.run, claim.epoch, seq, 0.0, **done)


def work(ledger):
    """A call of each sort, in one transaction."""
    ledger.begin()
    starts = [flow("r", tags={"a": "b"}), flow("c", parent="r"), flow("late", due=50.0), turn("t1"), turn("t2")]
    _, claims = ledger.accept(starts, "a", 0.0)
    held = {claim.start.run: claim for claim in claims}
    ledger.accept([flow("r"), flow("k", key="k"), flow("k2", key="k"), Delivery("r", "event", "e", 0.0)], "a", 0.0)
    ask = Request("q", "r", "0/q#1", "?", {}, 0.0)
    consumed = (("e", 0),)
    ledger.commit(Commit("r", held["r"].epoch, 0, 0.0, (step(0), step(1)), consumed, asks=(ask, ask)), "a")
    ledger.commit(Commit("r", held["r"].epoch, 2, 0.0, (step(2),)), "a")
    ledger.accept([Delivery("r", "answer", "q", 0.0, b"1"), Delivery("late", "cancel", "x", 0.0)], "a", 0.0)
    ledger.commit(Commit("c", held["c"].epoch, 0, 0.0, status="parked", active=False), "a")
    ledger.accept([Delivery("c", "resume", "go", 0.0)], None, 0.0)
    ledger.commit(end(held["t1"], log=(b"1",), state=b"2"), "a")
    ledger.commit(end(held["r"], 3, unreported=True, closes=("none",)), "a")
    ledger.claim("a", 100.0, 10)
    ledger.claim("b", 100.0, 10)
    ledger.accept([Reported("r"), flow("r", reuse="restart")], "a", 0.0)
    ledger.fork("r", 1, flow("f"), 0.0)
    ledger.untell(["r"])
    ledger.flush()
    ledger.done()


def test_no_call_looks_at_everything(asked, path):
    connection, statements = asked
    lock = ProcessLock(path.with_name("driver"))
    driver = Driver(connection, lock, lease=10.0, now=lambda: 0.0)
    connection.execute("BEGIN IMMEDIATE")
    driver.take("a")
    ledger = Ledger(connection, driver, lambda _: 1.0, TARGETS)
    work(ledger)
    ledger.leave("a", last=True)
    connection.execute("COMMIT")
    lock.close()
    assert len(statements) > 100
    assert looks(connection, statements) == {}


def test_upkeep_looks_at_the_runs_that_it_is_about(asked):
    connection, statements = asked
    lock = ProcessLock(":memory:")
    driver = Driver(connection, lock, lease=10.0, now=lambda: 0.0)
    connection.execute("BEGIN IMMEDIATE")
    driver.take("a")
    ledger = Ledger(connection, driver, lambda _: 1.0, TARGETS)
    _, claims = ledger.accept([turn("t", tags={"a": "b"})], "a", 0.0)
    ledger.commit(end(claims[0], entries=(step(1),), log=(b"1",), state=b"2"), "a")
    ledger.rewind("t", 0, 0.0)
    (claim,) = ledger.claim("a", 0.0, 10)[0]
    ledger.commit(end(claim), "a")
    assert ledger.purge(RunFilter(), listing.ended(connection, RunFilter(), 10)) == 1
    connection.execute("COMMIT")
    lock.close()
    assert looks(connection, statements) == {}


def effort(connection, ledger, worker):
    """How many hundreds of instructions of SQLite's machine a claim takes; two before it have put aside what is old."""
    hundreds = []
    for _ in range(2):
        assert ledger.claim(worker, 100.0, 10)[0] == []
    connection.set_progress_handler(lambda: hundreds.append(1), 100)
    claims, look = ledger.claim(worker, 100.0, 10)
    connection.set_progress_handler(None, 0)
    assert (claims, look is None or look > 100.0) == ([], True)
    return len(hundreds)


@pytest.mark.parametrize("state", ["new", "due", "later"])
def test_runs_of_other_targets_cost_a_claim_nothing_however_many_they_are(asked, path, state):
    connection, _ = asked
    with closing(ProcessLock(path.with_name("driver"))) as lock:
        driver = Driver(connection, lock, lease=10.0, now=lambda: 0.0)
        connection.execute("BEGIN IMMEDIATE")
        driver.take("a")
        ledger = Ledger(connection, driver, lambda _: 1.0, {"a": None, "b": frozenset({"app.agent", "app.other"})})
        efforts = []
        for many in (200, 2000):
            worker = None if state == "new" else "a"
            _, claims = ledger.accept([flow(f"r{n}-{many}") for n in range(many)], worker, 0.0)
            for claim in claims:
                ledger.commit(end(claim, status="waiting", value=None, wake_at=50.0 if state == "due" else 500.0), "a")
            efforts.append(effort(connection, ledger, "b"))
        connection.execute("COMMIT")
    assert efforts[1] <= 2 * efforts[0] + 10


FILTERS = {
    "all": RunFilter(),
    "status": RunFilter(status=("failed", "completed")),
    "target": RunFilter(target="app.flow"),
    "target and status": RunFilter(target="app.flow", status=("failed",)),
    "time": RunFilter(since=1.0, until=2.0),
    "parent": RunFilter(parent="r", status=("failed",)),
    "tag": RunFilter(tags={"a": "b"}),
    "tags, status and time": RunFilter(tags={"a": "b", "c": "d"}, status=("failed",), since=1.0),
    "idle": RunFilter(idle_since=5.0),
    "idle and status": RunFilter(idle_since=5.0, status=("completed",), target="app.flow"),
}


@pytest.mark.parametrize("which", FILTERS.values(), ids=FILTERS)
def test_no_list_looks_at_everything(asked, which):
    connection, statements = asked
    listing.newest(connection, which, (5.0, 7), 50)
    listing.ended(connection, which, 50)
    assert looks(connection, statements) == {}
    ordered = [s for s in statements if s.startswith("SELECT") and "ORDER BY" in s]
    for statement in ordered:  # a page is the first rows of an index: nothing is sorted
        plan = "\n".join(line for *_, line in connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        assert "TEMP B-TREE" not in plan


def test_no_view_looks_at_everything(asked, path):
    connection, statements = asked
    lock = ProcessLock(path.with_name("driver"))
    driver = Driver(connection, lock, lease=10.0, now=lambda: 0.0)
    connection.execute("BEGIN IMMEDIATE")
    driver.take("a")
    work(Ledger(connection, driver, lambda _: 1.0, TARGETS))
    connection.execute("COMMIT")
    lock.close()
    reader = open_reader(path)
    statements.clear()
    reader.set_trace_callback(statements.append)
    views = Views(path, connection=reader)
    views.read(lambda v: (v.run("r"), v.load("t1"), v.journal("r", 0, 10), v.requests(None, 10), v.requests("r", 10)))
    views.read(
        lambda v: (v.runs(RunFilter(), None, 10), v.runs(RunFilter(), "c", 10), v.request("q"), v.unreported(10))
    )
    views.close()
    assert len(statements) > 20
    assert looks(connection, statements) == {}
