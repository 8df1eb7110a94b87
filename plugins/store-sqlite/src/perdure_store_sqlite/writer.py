"""The one thread that writes: it takes whatever waits into one transaction, and hands the results back at once.

There is no timer in this: the transaction that is being made durable is the time in which the next one gathers.
While nothing waits, the thread renews the lease, looks for what other processes wrote, and tidies the log.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from perdure.errors import (
    CommitConflict,
    DataCorrupted,
    LeaseLost,
    PerdureError,
    RequestClosed,
    RunActive,
    StoreUnavailable,
    StoreUnusable,
    UnknownName,
)
from perdure.messages import Commit
from perdure_store_sqlite.driver import Driver, ProcessLock
from perdure_store_sqlite.ledger import Ledger
from perdure_store_sqlite.queues import gathered
from perdure_store_sqlite.schema import APPLICATION_ID, is_full, is_io, meaning, open_writer, patiently

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from perdure.messages import Delivery, Reported, RunFilter, Start

_LOOK: Final = 0.02
"""Seconds between two looks at what other processes wrote, while somebody waits for it and things move."""
_IDLE_LOOK: Final = 0.25
"""The same, after nothing has moved for a while."""
_COURTESY: Final = 0.002
"""Seconds of writing after which the driver looks whether another process wants to write."""
_PAUSE: Final = 0.03
"""Seconds that the driver waits for the other process at most."""
_MOMENT: Final = 0.001
_GIVEN_BACK: Final = 500
"""Pages that are given back to the disk in one idle moment."""
_TIDY: Final = 500
"""Transactions after which the log is moved into the database in the next idle moment."""

_REFUSALS: Final = (CommitConflict, LeaseLost, RequestClosed, UnknownName, RunActive, DataCorrupted)


class Accept(NamedTuple):
    """``Store.accept``."""

    items: Sequence[Start | Delivery | Reported]
    worker: str | None
    now: float


class Take(NamedTuple):
    """``Store.claim``."""

    worker: str
    now: float
    limit: int


class Leave(NamedTuple):
    """``Store.leave``."""

    worker: str
    last: bool


class Untell(NamedTuple):
    """Whoever asked for these claims is gone."""

    runs: tuple[str, ...]


class Rewind(NamedTuple):
    """``Upkeep.rewind``."""

    run: str
    seq: int
    at: float


class Fork(NamedTuple):
    """``Upkeep.fork``."""

    run: str
    seq: int
    start: Start
    now: float


class Purge(NamedTuple):
    """``Upkeep.purge`` of some of these runs."""

    which: RunFilter
    ids: tuple[int, ...]


class Nudge(NamedTuple):
    """Nothing to write: be open, look about."""


Call = Commit | Accept | Take | Leave | Untell | Rewind | Fork | Purge | Nudge


class Job(NamedTuple):
    """A call, on whose behalf, and where its outcome goes."""

    call: Call
    worker: str
    future: asyncio.Future[Any]


class Outcome(NamedTuple):
    """What became of a job; exactly one of result and error counts."""

    job: Job
    result: Any = None
    error: Exception | None = None


class Deliver(Protocol):
    """Takes outcomes to the event loop, and whether to wake those who wait for a change."""

    def __call__(self, outcomes: list[Outcome], *, tell: bool = False) -> None: ...


@dataclass(eq=False)
class Shared:
    """What the event loop and the writer's thread both see; each field is written by one side only.

    Attributes:
        ticks: By the loop: when each worker last said that it is alive.
        targets: By the loop: what each worker has asked for last; who has asked for nothing is given nothing.
        waiters: By the loop: whether anybody waits for a change.
        deliver: By the loop, once.
        transactions: By the thread: how many were committed.
        leased_until: By the thread: before then no other process takes over; 0 while this one does not drive.
    """

    deliver: Deliver
    ticks: dict[str, float] = field(default_factory=dict[str, float])
    targets: dict[str, frozenset[str] | None] = field(default_factory=dict[str, "frozenset[str] | None"])
    waiters: bool = False
    transactions: int = 0
    leased_until: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the file is written; see ``SqliteStore``."""

    path: Path
    synchronous: str
    lease: float
    busy_timeout: float
    now: Callable[[], float]


class Writer:
    """The thread and all that is its own: the connection, the right to drive, the ledger.

    Args:
        options: How to write.
        shared: What it has in common with the event loop.
    """

    def __init__(self, options: Options, shared: Shared) -> None:
        self._options, self._shared = options, shared
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._nobody = Event()
        self._courteous_at = self._look_at = self._told_at = 0.0
        self._look_every = _LOOK
        self._seen = self._tidied = 0
        self._silent = self._claims = False
        self._broken = self._ghost = self._freed = False
        self.put = self._jobs.put
        """Give it a job; ``None`` ends the thread once all before it is done."""

    def holds(self, run: str, epoch: int, worker: str, at: float) -> bool:
        """Whether it is certain, whatever other processes do, that the worker holds that run. For the event loop."""
        return at < self._shared.leased_until and self._ledger.holds(run, epoch, worker)

    def start(self) -> Thread:
        """Begin; the file is opened when the first job comes."""
        thread = Thread(target=self._work, name=f"perdure-sqlite {self._options.path.name}", daemon=True)
        thread.start()
        return thread

    # -- the thread -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        batch = gathered(self._jobs)
        while batch is not None:
            try:
                self._open()
                break
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to those who wait
                refusal = meaning(error, self._options.path)
                self._shared.deliver([Outcome(job, error=refusal) for job in batch])
            batch = gathered(self._jobs)
        else:
            return
        try:
            while batch is not None:
                if batch:
                    self._ledger.loud = self._ledger.grew = False
                    outcomes = self._write(batch)
                    self._shared.deliver(outcomes, tell=self._tells())
                try:
                    self._be_courteous()
                    self._look_about(idle=not batch)
                except Exception as error:  # noqa: BLE001 - nobody waits for this; what failed is tried again
                    self._broken = self._broken or is_io(error)
                batch = gathered(self._jobs, timeout=self._patience())
        finally:
            self._close()

    def _open(self) -> None:
        options = self._options
        connection = open_writer(options.path, synchronous=options.synchronous, patience=options.busy_timeout)
        self._connection = connection
        self._driving = ProcessLock(options.path.with_name(f"{options.path.name}-driver"))
        self._waiting = ProcessLock(options.path.with_name(f"{options.path.name}-queue"))
        self._driver = Driver(connection, self._driving, lease=options.lease, now=options.now)
        self._ledger = Ledger(connection, self._driver, self._left, self._shared.targets)
        self._seen = self._data_version()

    def _close(self) -> None:
        # The lock last: whoever sees it fall finds the file free.
        self._connection.close()
        self._waiting.close()
        self._driving.close()

    # -- transactions -----------------------------------------------------------------------------------------

    def _write(self, batch: list[Job], *, again: bool = False, unsure: bool = False) -> list[Outcome]:
        """All in one transaction; if SQLite fails, each in one of its own, and who fails again is told so.

        ``unsure`` is that an earlier try may have left something that a recovery would take for written.
        """
        try:
            self._mend()
            unsure = False
            self._drive(batch)
            if not self._needs_transaction(batch):
                return [Outcome(job, ((), None)) for job in batch]
            self._begin()
        except Exception as error:  # noqa: BLE001 - what it means is said to each job
            # What was tried before this call, and refused, may be this very call.
            return self._refuse(batch, error, unsure=unsure or self._ghost)
        try:
            return self._transact(batch)
        except Exception as error:  # noqa: BLE001 - as above
            unsure = self._ghost
            if again or (len(batch) == 1 and not unsure):
                return self._refuse(batch, error, unsure=unsure)
        return [outcome for job in batch for outcome in self._write([job], again=True, unsure=unsure)]

    def _refuse(self, batch: list[Job], error: Exception, *, unsure: bool) -> list[Outcome]:
        refusal = meaning(error, self._options.path)
        if unsure:
            with suppress(PerdureError, sqlite3.Error):
                self._mend()
        if unsure and self._ghost:
            refusal = StoreUnavailable(
                f"{refusal}; whether this was written is not known: look, or do it again under the same ids"
            )
        return [Outcome(job, error=refusal) for job in batch]

    def _needs_transaction(self, batch: list[Job]) -> bool:
        """Whether there is anything in it besides looks, and what only the driver can do."""
        drives = self._driver.epoch is not None
        return any(type(job.call) is not Nudge and (drives or type(job.call) not in {Take, Leave}) for job in batch)

    def _drive(self, batch: list[Job]) -> None:
        """Become the driver, if somebody wants claims and the one before is dead."""
        worker = next((job.worker for job in batch if type(job.call) is Take), None)
        if worker is None:
            return
        self._claims = True
        if not self._driver.vacant():
            return
        self._begin()
        try:
            self._driver.take(worker)
            self._commit()
        except BaseException:
            self._driver.forget()
            self._roll_back()
            raise

    def _transact(self, batch: list[Job]) -> list[Outcome]:
        ledger = self._ledger
        before = ledger.loud, ledger.grew
        try:
            ledger.begin()
            outcomes = [self._do(job) for job in batch]
            ledger.flush()
            if self._driver.due() and self._ticking():
                self._driver.renew()
            self._commit()
        except BaseException:
            ledger.loud, ledger.grew = before  # nothing changed: whoever waits for that would look in vain
            self._roll_back()
            raise
        ledger.done()
        return outcomes

    def _do(self, job: Job) -> Outcome:
        call = job.call
        try:
            if type(call) is Commit:
                return Outcome(job, self._ledger.commit(call, job.worker))
            return Outcome(job, self._do_other(call))
        except _REFUSALS as refusal:
            return Outcome(job, error=refusal)

    def _do_other(self, call: Call) -> Any:
        ledger, result = self._ledger, None
        match call:
            case Accept(items, worker, now):
                result = ledger.accept(items, worker, now)
            case Take(worker, now, limit):
                result = ledger.claim(worker, now, limit)
            case Leave(worker, last):
                ledger.leave(worker, last=last)
            case Untell(runs):
                ledger.untell(runs)
            case Rewind(run, seq, at):
                ledger.rewind(run, seq, at)
            case Fork(run, seq, start, now):
                result = ledger.fork(run, seq, start, now)
            case Purge(which, ids):
                result = ledger.purge(which, ids)
                self._freed = True
            case _:
                pass
        return result

    def _begin(self) -> None:
        if self._driver.epoch is None:
            self._announce()
        try:
            patiently(lambda: self._connection.execute("BEGIN IMMEDIATE"), self._options.busy_timeout)
        except BaseException:
            self._waiting.release()
            raise

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            # What the system could not make durable may stand behind the log's end, whole: see `_mend`.
            self._broken = self._ghost = not is_full(error)
            raise
        self._ghost = False
        self._waiting.release()
        self._shared.transactions += 1
        self._driver.committed()
        self._shared.leased_until = self._driver.leased_until

    def _roll_back(self) -> None:
        """Nothing of the transaction happened; what cannot be taken back now is before the next one: see `_mend`."""
        self._waiting.release()
        self._driver.rolled_back()
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._ledger.restore(self._connection)
        except sqlite3.Error:
            self._broken = True

    def _mend(self) -> None:
        """Once something could not be written or taken back: make sure that it is not there, and what is.

        A recovery would take a ghost for written. So another transaction is written over it, before anything else and
        on the same connection, which knows where the log ends. One that is opened anew may find the ghost, in the
        system's memory and not on the disk, and go on behind it: then a power cut takes all that follows.
        """
        if not self._broken:
            return
        if not self._options.path.is_file():
            msg = f"the store's file {str(self._options.path)!r} is gone: put it back, or begin with another path"
            raise StoreUnusable(msg)
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._begin()
        try:
            # SQLite writes no page that stays as it was; of this one, the change counter does not.
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._connection.execute("COMMIT")
            self._ghost = False
            self._ledger.restore(self._connection)
            self._broken = False
        finally:
            self._waiting.release()

    # -- beside other processes -------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Stand in the queue of those who do not drive. Where it does not move (its head is stopped), go past it."""
        until = time.monotonic() + self._options.busy_timeout
        while not self._waiting.acquire() and time.monotonic() < until:
            self._nobody.wait(_MOMENT)

    def _be_courteous(self) -> None:
        """While driving: let a process in that stands in the queue; SQLite by itself would let it starve."""
        if self._driver.epoch is None or (now := time.monotonic()) < self._courteous_at:
            return
        until = now + _PAUSE
        while not self._waiting.free():
            if time.monotonic() > until:  # it does not move: look again much later
                self._courteous_at = until + 10 * _PAUSE
                return
            self._nobody.wait(_MOMENT)
        self._courteous_at = time.monotonic() + _COURTESY

    def _left(self, worker: str) -> float:
        """For how many seconds more a worker counts as alive."""
        ticked = self._shared.ticks.get(worker)
        return 0.0 if ticked is None else self._options.lease - (self._options.now() - ticked)

    def _ticking(self) -> bool:
        return any(self._left(worker) > 0 for worker in tuple(self._shared.ticks))

    # -- between transactions ---------------------------------------------------------------------------------

    def _patience(self) -> float:
        """Seconds until there is something to look after, if no job comes."""
        if self._silent or self._freed:
            return _LOOK
        pause = self._options.lease / 3
        return min(pause, self._look_every) if self._shared.waiters else pause

    def _tells(self) -> bool:
        """Whether to wake those who wait for a change. A journal that merely grew wakes them now and then."""
        if not self._ledger.loud and not self._ledger.grew:
            return False
        now = time.monotonic()
        self._look_every = _LOOK
        if not self._ledger.loud and now - self._told_at < _LOOK:
            self._silent = True
            return False
        self._silent, self._told_at = False, now
        return True

    def _look_about(self, *, idle: bool) -> None:
        if idle:
            self._look_after_lease()
            self._tidy()
        tell = idle and self._silent
        now = time.monotonic()
        if self._shared.waiters and now >= self._look_at:
            seen, self._seen = self._seen, self._data_version()
            moved = seen != self._seen or (self._claims and self._driver.vacant())
            self._look_every = _LOOK if moved else min(self._look_every * 1.5, _IDLE_LOOK)
            self._look_at = now + (0 if idle else _LOOK)
            tell = tell or moved
        if tell:
            self._silent, self._told_at = False, now
            self._shared.deliver([], tell=True)

    def _look_after_lease(self) -> None:
        if self._driver.due() and self._ticking():
            self._mend()
            self._begin()
            self._transact([])

    def _tidy(self) -> None:
        """Move the log into the database while nobody waits for it."""
        if self._shared.transactions - self._tidied > _TIDY:
            self._tidied = self._shared.transactions
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        elif self._freed:
            self._give_back()

    def _give_back(self) -> None:
        """What was purged leaves free pages: let the file shrink by some of them."""
        self._freed = False
        self._mend()
        self._begin()
        try:
            self._connection.execute(f"PRAGMA incremental_vacuum({_GIVEN_BACK})").fetchall()
            self._commit()
        except BaseException:
            self._roll_back()
            raise
        self._freed = self._connection.execute("PRAGMA freelist_count").fetchone()[0] > 0

    def _data_version(self) -> int:
        return self._connection.execute("PRAGMA data_version").fetchone()[0]
