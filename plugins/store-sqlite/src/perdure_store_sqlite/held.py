"""What this process holds, in the file and in memory: who may be given which run, and how its journal grows.

This process alone drives what it holds, so the length of a journal, epoch and status are kept in memory. A commit
that changes none of them is one row, inserted together with all others of the transaction.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from heapq import merge
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from perdure.messages import Claim, ErrorInfo
from perdure_store_sqlite import rows, statements as sql
from perdure_store_sqlite.schema import is_damage
from perdure_store_sqlite.sums import Damage, entry_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from perdure.messages import Delivery, Entry, Start
    from perdure_store_sqlite.driver import Driver

_NOTHING: Final = ((), (), (), (), (), (), None)
"""``consumed`` to ``state`` of a commit that only appends entries."""
_NOBODY: Final[frozenset[str]] = frozenset()
_FEW: Final = 64
"""Timers of targets that are not asked for, which a claim looks at again and again."""
_MANY: Final = 2_000
"""The same, which one transaction gets out of the way."""


@dataclass(slots=True)
class Held:
    """A run that a worker of this process holds.

    ``quiet`` is what a commit carries after its entries when nothing but the journal changes; ``alone`` is one that is
    known to have neither requests nor children.
    """

    id: int
    start: Start
    worker: str
    epoch: int
    seq: int
    takeovers: int
    quiet: tuple[Any, ...]
    wake_at: float | None
    rewound: bool = False
    told_due: bool = False
    alone: bool = False

    def due(self, now: float) -> bool:
        """Whether its timer is."""
        return self.wake_at is not None and self.wake_at <= now


def quiet(status: str, active: object, wake_at: float | None, takeovers: int) -> tuple[Any, ...]:
    """See ``Held``; empty, so that no commit is quiet, while the row is not active or has takeovers to forget."""
    if not active or takeovers:
        return ()
    return _still(status) if wake_at is None else _until(status, wake_at)


def _until(status: str, wake_at: float | None) -> tuple[Any, ...]:
    return (*_NOTHING, status, True, wake_at, None, None, False, None, None)


@cache
def _still(status: str) -> tuple[Any, ...]:
    return _until(status, None)


class Holding:
    """The runs that are held, and the entries that wait to be written together.

    Args:
        connection: The writer's, in a transaction whenever a method is called.
        driver: Whether and under which epoch this process drives.
        left: For how many seconds more a worker of this process counts as alive; none, if it is dead.
        targets: What each worker has asked for last; who has asked for nothing is given nothing.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        driver: Driver,
        left: Callable[[str], float],
        targets: Mapping[str, frozenset[str] | None],
    ) -> None:
        self._connection, self._driver, self._left, self._targets = connection, driver, left, targets
        self._held: dict[str, Held] = {}
        self._before: dict[str, Held | None] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._strays: set[str] = set()
        self.fresh: dict[str, Claim] = {}
        """Claims on runs that the call has just taken in for its worker, and knows all about."""
        self.get = self._held.get
        """A run that is held, by its id, or ``None``."""

    def holds(self, run: str, epoch: int, worker: str) -> bool:
        """Whether the worker holds the run under that epoch, as far as this process knows; from any thread."""
        held = self._held.get(run)
        return held is not None and (held.epoch, held.worker) == (epoch, worker)

    @property
    def epoch(self) -> int | None:
        """Under which this process drives."""
        return self._driver.epoch

    # -- transactions -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A transaction has begun: if another process took over, everything held is lost."""
        if not self._driver.still():
            self._held.clear()
        if self._strays:
            self._connection.executemany(sql.LET_STRAY, [(run, self._driver.epoch) for run in self._strays])

    def append(self, held: Held, entries: Iterable[Entry]) -> None:
        """Put entries off, to be written together with all others of the transaction."""
        id, seq = held.id, held.seq
        for entry in entries:
            row = rows.entry_row(self._connection, entry) if rows.large(entry) else entry
            self._rows.append((id, seq, *row, entry_sum(id, seq, row)))
            seq += 1
        held.seq = seq

    def flush(self) -> bool:
        """Write what was put off; return whether anything was."""
        if not self._rows:
            return False
        first = 0
        for count, statement in sql.APPENDS:
            while len(self._rows) - first >= count:
                some = self._rows[first : first + count]
                self._connection.execute(statement, tuple(chain.from_iterable(some)))
                first += count
        self._rows.clear()
        return True

    def done(self) -> None:
        """The transaction was committed."""
        self._before.clear()
        self._strays.clear()

    def restore(self, connection: sqlite3.Connection) -> None:
        """The transaction was rolled back, or nobody knows: know again what the file says, through this connection.

        If it was written after all, what it claimed is held and nobody was told: the next one lets go of that.
        """
        self._connection = connection
        self._strays.update(run for run, held in self._before.items() if held is None)
        self._rows.clear()
        self.fresh.clear()
        known, still = self._held | self._before, dict[str, Held]()
        for run, held in known.items():
            row = held and connection.execute(sql.STANDS, (held.id, run, self._driver.epoch)).fetchone()
            if held and row:
                status, active, held.wake_at, held.epoch, held.takeovers, held.seq = row
                held.quiet = quiet(status, active, held.wake_at, held.takeovers)
                still[run] = held
        self._before.clear()
        self._held.clear()
        self._held.update(still)

    def remember(self, run: str) -> None:
        """Before what is known of a run is changed: what to know again if the transaction fails."""
        if run not in self._before:
            held = self._held.get(run)
            self._before[run] = held and replace(held)

    # -- claims -----------------------------------------------------------------------------------------------

    def claim(self, worker: str, now: float, limit: int) -> tuple[Sequence[Claim], float | None]:
        """See ``ports.Store.claim``; nothing for a process that does not drive."""
        if self._driver.epoch is None:
            return (), None
        targets = self._targets.get(worker, _NOBODY)
        lease = self._orphan(worker, targets, now)
        self._connection.execute(sql.BECOME_DUE, (now, limit))
        news = self._hold_all(self._news(worker, now), worker, now)
        claims = self._hold_all(self._untold(targets, limit), worker, now)
        room = limit - len(claims)
        timers, more = self._due(targets, now, room)
        claims = news + claims + self._hold_all(timers, worker, now)
        if more or self._connection.execute(sql.LATE, (now,)).fetchone():
            return claims, now
        return claims, min((when for when in (self._later(targets, now), lease) if when is not None), default=None)

    def woken(self, touched: dict[str, int], worker: str | None, now: float) -> Sequence[Claim]:
        """Claims on those of these runs that have something to do and that the worker may have."""
        claims = [self._offer(run, id, worker, now) for run, id in touched.items()]
        self.fresh.clear()
        return [claim for claim in claims if claim is not None]

    def driver_for(self, worker: str | None, target: str) -> int | None:
        """The epoch under which a new run of that target is the worker's from the beginning, if it may have it."""
        return self._driver.epoch if worker is not None and self._takes(worker, target) else None

    def hold_new(self, start: Start, id: int, worker: str) -> None:
        """A run that was inserted as the worker's own."""
        self.remember(start.run)
        start = start._replace(reuse="join")
        self._held[start.run] = Held(
            id, start, worker, 1, 0, 0, quiet("pending", active=False, wake_at=None, takeovers=0), None, alone=True
        )
        self.fresh[start.run] = Claim(start, 1, 0)

    def release(self, run: str) -> None:
        """The worker gave it up in a commit, which has written so."""
        del self._held[run]

    def leave(self, worker: str) -> None:
        """Let go of all that a worker holds."""
        for run in [run for run, held in self._held.items() if held.worker == worker]:
            self._let_go(run, takeovers=0)

    def resign(self) -> None:
        """Drive no more."""
        if self._driver.epoch is not None:
            self._driver.resign()
            self._held.clear()

    def untell(self, runs: Iterable[str]) -> None:
        """The one who was to be told of these claims has gone: a later ``claim`` tells them again."""
        for held in [self._held[run] for run in runs if run in self._held]:
            held.told_due = False
            self._mark(held.id, "live = 1")

    def _orphan(self, worker: str, targets: frozenset[str] | None, now: float) -> float | None:
        """Let go of what dead workers of this process hold; it counts as their runs' doing. When the next one may die.

        What the one who asks does not take stays as it is: whoever held it may live again.
        """
        others = {run: item for run, item in self._held.items() if item.worker != worker}
        wanted = {run: item for run, item in others.items() if targets is None or item.start.target in targets}
        left = {name: self._left(name) for name in {item.worker for item in wanted.values()}}
        for run in [run for run, item in wanted.items() if left[item.worker] <= 0]:
            self._let_go(run, takeovers=1)
        return min((now + seconds for seconds in left.values() if seconds > 0), default=None)

    def _let_go(self, run: str, *, takeovers: int) -> None:
        held = self._held[run]
        self.remember(run)
        del self._held[run]
        self._connection.execute(sql.LET_GO, (takeovers, held.id))

    def _news(self, worker: str, now: float) -> list[tuple[int, str]]:
        """The runs that the worker holds and that were delivered to, or came due."""
        ready = self._connection.execute(sql.NEWS, (self._driver.epoch,)).fetchall()
        news = {run: id for id, run in ready if run in self._held and self._held[run].worker == worker}
        for run, held in self._held.items():
            if held.worker == worker and held.due(now) and not held.told_due:
                news[run] = held.id
        return [(id, run) for run, id in news.items()]

    def _untold(self, targets: frozenset[str] | None, limit: int) -> list[tuple[int, str]]:
        """Runs that have something to do, the oldest first: of all, or of each target, merged."""
        if targets is None:
            rows = self._connection.execute(sql.UNTOLD)
        else:
            rows = merge(*(self._connection.execute(sql.UNTOLD_OF, (target,)) for target in targets))
        return list(islice((row for row in rows if row[1] not in self._held), limit))

    def _due(self, targets: frozenset[str] | None, now: float, room: int) -> tuple[list[tuple[int, str]], bool]:
        """So many runs whose timer is due, and whether there may be more. Those of other targets are put aside."""
        found: list[tuple[int, str]] = []
        others: list[tuple[int, str]] = []
        more = False
        for id, run, target in self._connection.execute(sql.DUE, (now,)):
            if run in self._held:
                continue
            wanted = targets is None or target in targets
            more = len(found) == room if wanted else len(others) == _MANY
            if more:
                break
            (found if wanted else others).append((id, run))
        if len(others) > _FEW:
            self._connection.executemany(sql.RING, [(id,) for id, _ in others])
        return found, more

    def _later(self, targets: frozenset[str] | None, now: float) -> float | None:
        """When the next timer is due; or some time before, if many come before it that the worker does not take."""
        if targets is None:
            return self._connection.execute(sql.LATER, (now,)).fetchone()[0]
        timers = self._connection.execute(sql.NEXT, (now, _FEW)).fetchall()
        wanted = [when for when, target in timers if target in targets]
        return next(iter(wanted), timers[-1][0] if len(timers) == _FEW else None)

    def _takes(self, worker: str, target: str) -> bool:
        targets = self._targets.get(worker, _NOBODY)
        return targets is None or target in targets

    def _offer(self, run: str, id: int, worker: str | None, now: float) -> Claim | None:
        """Claim the run for the worker if it has something to do and nobody else has it; else mark it for others."""
        held = self._held.get(run)
        if held is not None and held.worker != worker and self._left(held.worker) <= 0:
            self._let_go(run, takeovers=1)
            held = None
        if run in self.fresh:
            return self.fresh[run]
        if held is None:
            found = self._connection.execute(sql.CLAIMABLE, (id, now)).fetchone()
            if found is None:
                self._mark(id, "held IS NOT NULL")
                return None
            if worker is not None and not self._takes(worker, found[0]):
                worker = None
        if worker is None or self._driver.epoch is None or (held is not None and held.worker != worker):
            self._mark(id, "live = 1")
            return None
        return self._hold(run, id, worker, now)

    def _mark(self, id: int, where: str) -> None:
        self._connection.execute(f"UPDATE runs SET ready = 1 WHERE id = ? AND ready = 0 AND {where}", (id,))  # noqa: S608 - our own constants

    def _hold_all(self, found: list[tuple[int, str]], worker: str, now: float) -> list[Claim]:
        claims = [self._hold(run, id, worker, now) for id, run in found]
        return [claim for claim in claims if claim is not None]

    def _hold(self, run: str, id: int, worker: str, now: float) -> Claim | None:
        """Take the run, or hand out again what the worker holds already. What is damaged is set aside, for nobody."""
        held = self._held.get(run)
        self.remember(run)
        try:
            inbox = self._inbox(run, id)
            if held is None:
                held = self._take(run, id, worker)
        except (Damage, sqlite3.DatabaseError) as error:
            if not is_damage(error):
                raise
            self._set_aside(run, id, str(error))
            return None
        self._connection.execute("UPDATE runs SET ready = 0 WHERE id = ? AND ready = 1", (id,))
        held.told_due = held.due(now)
        return Claim(held.start, held.epoch, held.seq, inbox, held.takeovers, held.rewound)

    def _take(self, run: str, id: int, worker: str) -> Held:
        self.flush()  # its last entries may be among what was put off, and the length is read below
        row = self._connection.execute(sql.HELD, (id,)).fetchone()
        status, active, wake_at, epoch, takeovers, seq, rewound = row[17:]
        start = rows.to_start(self._connection, row[:17])
        self._connection.execute(sql.HOLD, (self._driver.epoch, id))
        state = quiet(status, active, wake_at, takeovers)
        held = self._held[run] = Held(
            id, start, worker, epoch + 1, seq, takeovers, state, wake_at, rewound=bool(rewound)
        )
        return held

    def _inbox(self, run: str, id: int) -> tuple[Delivery, ...]:
        found = self._connection.execute(sql.INBOX, (id,)).fetchall()
        return tuple(rows.to_delivery(self._connection, run, id, row) for row in found)

    def _set_aside(self, run: str, id: int, damage: str) -> None:
        """Nobody can go on with it; the others are unharmed. A resumption looks again, a cancellation ends it."""
        error = ErrorInfo(
            type="perdure.errors.DataCorrupted",
            message=f"run {run!r} is damaged: {damage}; restore the store's file from a backup, or start it anew",
        )
        self._held.pop(run, None)
        ended = False
        with suppress(sqlite3.DatabaseError):  # the damage may be here
            ended = self._connection.execute(sql.IS_ENDED, (id,)).fetchone() is not None
        place = ("terminated" if ended else "parked", error.model_dump_json().encode(), not ended, id)
        self._connection.execute(sql.SET_ASIDE, place)
