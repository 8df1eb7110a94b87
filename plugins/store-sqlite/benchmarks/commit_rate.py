# ruff: noqa: INP001 - a program, no package
"""How many commits of one step the store takes, beside what the machine gives to plain SQLite in the same run.

    python plugins/store-sqlite/benchmarks/commit_rate.py [FOLDER]

``raw`` is the store's journal table and settings without the store: one row per transaction from one thread,
the same through a writer thread, and rows by the thousand per transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from perdure.messages import Claim, Commit, Entry, Start
from perdure_store_sqlite import SqliteStore
from perdure_store_sqlite.schema import open_writer
from perdure_store_sqlite.statements import APPEND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEP = Entry("step", "0.2/read#1", 1.75e9, "read", "0123456789abcdef", b'"' + b"x" * 40 + b'"', None, 1, 1.75e9, "step")
ROUNDS, SHARE = 15, 200
SEQUENTIAL = ROUNDS * SHARE
RUNS, EACH = 1_000, 60


def rate(count: int, act: Callable[[], object]) -> float:
    """How many per second."""
    began = time.perf_counter()
    act()
    return count / (time.perf_counter() - began)


def raw_sequential(connection: sqlite3.Connection, run: int) -> None:
    """One row per transaction."""
    for n in range(SEQUENTIAL):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(APPEND, (run, n, *STEP, 0))
        connection.execute("COMMIT")


def raw_batches(connection: sqlite3.Connection, run: int) -> None:
    """A row for each of a thousand runs per transaction."""
    for n in range(EACH):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(APPEND, [(run + r, n, *STEP, 0) for r in range(RUNS)])
        connection.execute("COMMIT")


class RawThread:
    """One row per transaction, asked for by a coroutine and written by a thread."""

    def __init__(self, connection: sqlite3.Connection, run: int) -> None:
        self._connection, self._run, self._length = connection, run, 0
        self._jobs: SimpleQueue[tuple[int, asyncio.Future[None]] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(APPEND, (self._run, job[0], *STEP, 0))
            self._connection.execute("COMMIT")
            self._loop.call_soon_threadsafe(job[1].set_result, None)

    async def write(self, count: int) -> None:
        """So many rows, one after the other."""
        for _ in range(count):
            future: asyncio.Future[None] = self._loop.create_future()
            self._jobs.put((self._length, future))
            self._length += 1
            await future

    def end(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join()


async def commit(store: SqliteStore, claim: Claim, first: int, count: int) -> None:
    """One run's steps, one after the other."""
    for n in range(first, first + count):
        await store.commit(Commit(claim.start.run, claim.epoch, n, 1.75e9, (STEP,)), worker="bench")


async def alone(store: SqliteStore, claim: Claim, raw: RawThread) -> tuple[float, float]:
    """Rows per second through a bare thread, and commits per second of one run, in turns: disks have moods."""
    seconds = [0.0, 0.0]
    for turn in range(ROUNDS):
        for which, work in enumerate((raw.write(SHARE), commit(store, claim, turn * SHARE, SHARE))):
            began = time.perf_counter()
            await work
            seconds[which] += time.perf_counter() - began
    return SEQUENTIAL / seconds[0], SEQUENTIAL / seconds[1]


async def together(store: SqliteStore, claims: Sequence[Claim]) -> tuple[float, float]:
    """Commits per second of many runs at once, and commits per transaction."""
    before, began = store.transactions, time.perf_counter()
    await asyncio.gather(*(commit(store, claim, 0, EACH) for claim in claims))
    count = len(claims) * EACH
    return count / (time.perf_counter() - began), count / (store.transactions - before)


async def measure(folder: Path, connection: sqlite3.Connection) -> None:
    """Print the table."""
    store = SqliteStore(folder / "store.db")
    await store.claim("bench", 1.75e9)
    starts = [Start(f"r{n}", "workflow", "bench.flow", b"{}", 1.75e9) for n in range(RUNS + 1)]
    began = time.perf_counter()
    _, claims = await store.accept(starts, worker="bench")
    accepted = len(starts) / (time.perf_counter() - began)
    raw = RawThread(connection, 1)
    threaded, single = await alone(store, claims[0], raw)
    raw.end()
    batched = rate(RUNS * EACH, lambda: raw_batches(connection, 2))
    many, shared = await together(store, claims[1:])
    await store.close()
    lines = [
        ("raw, one row per transaction", rate(SEQUENTIAL, lambda: raw_sequential(connection, 0)), ""),
        ("raw, the same through a writer thread", threaded, ""),
        ("raw, 1,000 rows per transaction", batched, ""),
        ("store, one run", single, f"{single / threaded:.0%} of raw through a thread"),
        ("store, 1,000 runs at once", many, f"{many / threaded:.1f} times that; {shared:.0f} commits a transaction"),
        ("store, runs accepted in one call", accepted, ""),
    ]
    for name, figure, remark in lines:
        print(f"{name:40} {figure:10,.0f}/s  {remark}")  # noqa: T201 - a benchmark prints its table


def main(folder: Path) -> None:
    """Measure in this folder."""
    with closing(open_writer(folder / "raw.db", synchronous="full", patience=5.0)) as connection:
        asyncio.run(measure(folder, connection))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        main(Path(name))
