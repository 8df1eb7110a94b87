"""What the disk, and SQLite on it, give to anybody: the limits that the other figures stand beside."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.figures import Scale

_ROW: Final = b"x" * 100
_ROWS: Final = 1000
_PAGE: Final = b"x" * 4096
_GROWN: Final = 6000  # pages; fewer than make SQLite check-point by itself
_INSERT: Final = "INSERT INTO t VALUES (?)"
_SET_UP: Final = (
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 8192; CREATE TABLE t (x BLOB)"
)


def figures(scale: Scale) -> Iterator[Figure]:
    """See the module."""
    with tempfile.TemporaryDirectory() as folder:
        yield Figure("disk: 4 KiB appended and synced", f"{_syncs(Path(folder) / 'raw', scale.seconds):,.0f}/s")
    with _database() as connection:
        one = _rate(scale.seconds, 1, lambda: connection.execute(_INSERT, (_ROW,)))
    with _database() as connection:
        many = _rate(scale.seconds, _ROWS, lambda: _commit_many(connection))
    yield Figure("SQLite FULL: one-row commits", f"{one:,.0f}/s")
    yield Figure(f"SQLite FULL: rows in commits of {_ROWS:,}", f"{many:,.0f}/s")


def _rate(seconds: float, each: int, act: Callable[[], object]) -> float:
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        act()
        count += each
    return count / took


def _syncs(path: Path, seconds: float) -> float:
    sync = getattr(os, "fdatasync", os.fsync)
    with path.open("wb", buffering=0) as file:

        def append() -> None:
            file.write(_PAGE)
            sync(file.fileno())

        return _rate(seconds, 1, append)


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "raw.db", isolation_level=None, check_same_thread=False)
        try:
            connection.executescript(_SET_UP)
            _grow_log(connection)
            yield connection
        finally:
            connection.close()


def _grow_log(connection: sqlite3.Connection) -> None:
    """A log that grows costs the file system a write more for each commit; the limit is the rate where it does not."""
    connection.execute("BEGIN")
    connection.executemany(_INSERT, [(_PAGE,)] * _GROWN)
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _commit_many(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    connection.executemany(_INSERT, [(_ROW,)] * _ROWS)
    connection.execute("COMMIT")


class WriterThread:
    """One row per transaction: asked for by a coroutine, written by a thread, which wakes the coroutine."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[asyncio.Future[None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(asyncio.get_running_loop(),))
        self._thread.start()

    async def write(self, count: int) -> None:
        """So many rows, one after the other."""
        for _ in range(count):
            job: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._jobs.put(job)
            await job

    def end(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        with _database() as connection:
            while (job := self._jobs.get()) is not None:
                connection.execute(_INSERT, (_ROW,))
                loop.call_soon_threadsafe(job.set_result, None)
