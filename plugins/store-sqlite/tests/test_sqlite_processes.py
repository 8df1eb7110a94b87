"""Several processes on one file: real ones, really killed and really stopped."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from perdure.messages import Commit, Entry, Start
from perdure_store_sqlite import SqliteStore

CHILD = Path(__file__).with_name("sqlite_child.py")
NEVER = 3600.0
"""A lease so long that only the system's lock can show a death."""


class Children:
    def __init__(self, path):
        self._path = path
        self._running = []

    async def start(self, what, name="child", lease=NEVER):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(CHILD),
            str(self._path),
            what,
            name,
            str(lease),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._running.append(process)
        return process

    async def end(self):
        for process in self._running:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shared.db"


@pytest.fixture
async def children(path):
    children = Children(path)
    yield children
    await children.end()


@pytest.fixture
async def open_store(path):
    opened = []

    def open_store(**options):
        opened.append(SqliteStore(path, **options))
        return opened[-1]

    yield open_store
    for store in opened:
        await store.close()


async def line(child):
    return (await asyncio.wait_for(child.stdout.readline(), 60)).decode().strip()


async def tell(child):
    child.stdin.write(b"go\n")
    await child.stdin.drain()


async def claim_when_free(store):
    """As an engine does: claim, and again whenever something changed."""
    seen = 0
    while not (claims := (await store.claim("here", 0.0))[0]):
        seen = await asyncio.wait_for(store.changed(seen), 60)
    return claims


async def test_after_a_kill_the_next_process_sees_everything_that_was_acknowledged(children, open_store):
    child = await children.start("drive")
    acknowledged = [int(await line(child)) for _ in range(50)]
    store = open_store(lease=NEVER)
    assert (await store.claim("here", 0.0))[0] == ()
    child.kill()
    rest, _ = await child.communicate()
    acknowledged += [int(word) for word in rest.split(b"\n")[:-1]]
    (claim,) = await claim_when_free(store)
    entries = (await store.load("r")).entries
    assert claim.takeovers == 1
    assert claim.seq == len(entries) >= acknowledged[-1]
    assert [entry.path for entry in entries] == [f"0/s#{n}" for n in range(len(entries))]


async def test_a_watcher_learns_of_a_death_without_anybody_writing(children, open_store):
    child = await children.start("hold")
    assert await line(child) == "held"
    store = open_store(lease=NEVER)
    assert (await store.claim("here", 0.0))[0] == ()
    waiting = asyncio.create_task(claim_when_free(store))
    child.kill()
    assert [claim.start.run for claim in await waiting] == ["r"]


async def test_a_stopped_process_is_taken_over_from_and_writes_nothing_when_it_goes_on(children, open_store):
    child = await children.start("hold", lease=0.5)
    assert await line(child) == "held"
    store = open_store(lease=30.0)
    assert (await store.claim("here", 0.0))[0] == ()
    child.send_signal(signal.SIGSTOP)
    (claim,) = await claim_when_free(store)
    mine = Entry("step", "0/s#0", 1.0, "s", value=b'"mine"')
    await store.commit(Commit("r", claim.epoch, 0, 1.0, (mine,)), worker="here")
    child.send_signal(signal.SIGCONT)
    await tell(child)
    assert await line(child) == "LeaseLost"
    assert list(await store.journal("r")) == [mine]
    await store.commit(Commit("r", claim.epoch, 1, 2.0, (mine._replace(path="0/s#1"),)), worker="here")


async def test_a_process_that_ticks_is_not_taken_over_from(children, open_store):
    child = await children.start("hold", lease=0.5)
    assert await line(child) == "held"
    store = open_store(lease=0.5)
    seen = 0
    for _ in range(5):  # each renewal of the child's lease is a change
        seen = await asyncio.wait_for(store.changed(seen), 60)
        assert (await store.claim("here", 0.0))[0] == ()
    await tell(child)
    assert await line(child) == "committed"


async def test_two_processes_get_their_turn_while_the_driver_never_pauses(children, open_store):
    store = open_store()
    await store.claim("here", 0.0)
    _, claims = await store.accept(
        [Start(f"busy{n}", "workflow", "app.flow", b"{}", 0.0) for n in range(20)], worker="here"
    )
    done = asyncio.Event()
    counts = dict.fromkeys(range(20), 0)

    async def work(number, claim):
        while not done.is_set():
            n = counts[number]
            entry = Entry("step", f"0/s#{n}", 0.0, "s", value=b"1")
            await store.commit(Commit(claim.start.run, claim.epoch, n, 0.0, (entry,)), worker="here")
            counts[number] += 1

    workers = [asyncio.create_task(work(n, claim)) for n, claim in enumerate(claims)]
    both = [await children.start("accept", name) for name in ("left", "right")]
    assert [await line(child) for child in both] == ["ready", "ready"]
    for child in both:
        await tell(child)
    assert [await line(child) for child in both] == ["accepted", "accepted"]
    done.set()
    await asyncio.gather(*workers)
    views = await store.runs(limit=1000)
    names = [view.id.partition("-")[0] for view in views]
    assert (names.count("left"), names.count("right")) == (100, 100)
    assert sum(counts.values()) == sum([view.seq for view in views])
    assert min(counts.values()) > 0


async def test_processes_that_make_and_open_the_same_files_at_once_do_not_harm_each_other(children, path):
    names = {f"maker{n}" for n in range(4)}
    makers = [await children.start("make", name) for name in names]
    assert [await line(child) for child in makers] == ["ready"] * 4
    for child in makers:
        await tell(child)
    assert [await line(child) for child in makers] == ["made"] * 4
    for n in range(8):
        store = SqliteStore(path.with_name(f"new{n}.db"))
        assert {view.id for view in await store.runs()} == names
        await store.close()


async def test_a_full_disk_refuses_one_commit_and_takes_it_when_there_is_room(children):
    child = await children.start("fill")
    assert await line(child) == "StoreUnavailable tuple"
    assert await line(child) == "0"
    assert await line(child) == "1000000"


async def test_commits_that_wait_together_are_one_transaction(open_store):
    store = open_store()
    await store.claim("here", 0.0)
    starts = [Start(f"r{n}", "workflow", "app.flow", b"{}", 0.0) for n in range(500)]
    _, claims = await store.accept(starts, worker="here")
    before = store.transactions
    entry = Entry("step", "0/s#0", 0.0, "s", value=b"1")
    await asyncio.gather(*(store.commit(Commit(c.start.run, c.epoch, 0, 0.0, (entry,)), worker="here") for c in claims))
    assert 0 < store.transactions - before <= 50
