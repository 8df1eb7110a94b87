"""The right to drive: which process of those on one file hands out claims and writes journals.

It is a row (epoch, worker, lease) that every driving transaction checks: whoever lost it commits nothing. Two
things show that the driver is gone: a lock of the operating system, which falls at the very moment a process
dies, and the lease, which runs out when a process lives but does not move.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from perdure_store_sqlite.schema import is_busy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class ProcessLock:
    """A lock that dies with its process: an exclusive transaction on an empty SQLite file beside the database.

    SQLite takes the system's own record locks, portably, and keeps two connections of one process apart too; a
    forked child does not inherit them, unlike ``flock``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = self._connect()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        return self._connection.in_transaction

    def acquire(self) -> bool:
        """Take it if it is free; return whether it is ours."""
        if not self.held:
            try:
                self._connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
        return self.held

    def free(self) -> bool:
        """Whether nobody else holds it."""
        try:
            self._connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if is_busy(error):
                return False
            raise
        return True

    def release(self) -> None:
        """Give it up, if it is ours."""
        if self.held:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:  # closing lets go of it in any case
                self._connection.close()
                self._connection = self._connect()

    def close(self) -> None:
        """Give it up and let go of the file."""
        self._connection.close()


class Driver:
    """This process's part in who drives the file. Used by the writer's thread only.

    Args:
        connection: The writer's.
        lock: Held by whoever drives.
        lease: Seconds.
        now: The wall clock.
    """

    def __init__(
        self, connection: sqlite3.Connection, lock: ProcessLock, *, lease: float, now: Callable[[], float]
    ) -> None:
        self._connection, self._lock, self._lease, self._now = connection, lock, lease, now
        self._renewed = self._promised = 0.0
        self.epoch: int | None = None
        """The epoch that this process drives under, or ``None``."""

    @property
    def leased_until(self) -> float:
        """Before then nobody takes over from this process while it lives; 0 if it does not drive."""
        return self._renewed + self._lease if self.epoch is not None else 0.0

    def still(self) -> bool:
        """Within a transaction: whether this process drives. If it was taken over from, it now knows."""
        if self.epoch is not None and self.epoch != self._row()[0]:
            self.epoch = None
            self._lock.release()
        return self.epoch is not None

    def vacant(self) -> bool:
        """Whether the one that drove is dead, so that a claim would take over. Needs no transaction."""
        if self.epoch is not None:
            return False
        _, lease_until, locked = self._row()
        return lease_until <= self._now() or (bool(locked) and self._lock.free())

    def take(self, worker: str) -> bool:
        """Within a transaction: take over from a dead driver, or the first time; what it held is free to be claimed.

        Returns whether this process drives from here on. Undo with ``forget`` if the transaction fails.
        """
        got = self._lock.acquire()
        epoch, lease_until, locked = self._row()
        if lease_until > self._now() and not (got and locked):
            self._lock.release()
            return False
        self.epoch, self._promised = epoch + 1, self._now()
        self._connection.execute(
            "UPDATE driver SET epoch = ?, worker = ?, lease_until = ?, locked = ?",
            (self.epoch, worker, self._promised + self._lease, got),
        )
        self._connection.execute(
            "UPDATE runs SET held = NULL, ready = 1, takeovers = takeovers + 1 WHERE held IS NOT NULL"
        )
        return True

    def forget(self) -> None:
        """It never drove: the transaction failed in which it took over."""
        self.epoch = None
        self._lock.release()

    def due(self) -> bool:
        """Whether the lease should be renewed now."""
        return self.epoch is not None and not 0 <= self._now() - self._renewed < self._lease / 3

    def renew(self) -> None:
        """Within a transaction, and driving: begin a new lease; take the lock, if a predecessor still had it."""
        self._promised = self._now()
        self._connection.execute(
            "UPDATE driver SET lease_until = ?, locked = ?", (self._promised + self._lease, self._lock.acquire())
        )

    def committed(self) -> None:
        """The transaction was committed, and with it the lease that was begun in it, if there was one."""
        self._renewed = self._promised

    def rolled_back(self) -> None:
        """The transaction was not committed: the lease is what it was before."""
        self._promised = self._renewed

    def resign(self) -> None:
        """Within a transaction, and driving: let whoever comes take over at once."""
        self._connection.execute("UPDATE driver SET lease_until = 0, locked = 0")
        self.forget()

    def _row(self) -> tuple[int, float, int]:
        return self._connection.execute("SELECT epoch, lease_until, locked FROM driver").fetchone()
