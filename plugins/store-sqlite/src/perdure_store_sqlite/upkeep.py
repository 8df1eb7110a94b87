"""What operators do to runs that have finished: rewind, fork, purge. Within the writer's transaction.

As in the ledger, each refuses before it writes anything.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

from perdure.errors import DataCorrupted, RunActive
from perdure_store_sqlite import erasing, listing, statements as sql
from perdure_store_sqlite.schema import is_damage
from perdure_store_sqlite.sums import Damage, check, entry_sum

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from perdure.messages import Accepted, RunFilter, Start
    from perdure_store_sqlite.held import Holding
    from perdure_store_sqlite.intake import Intake

MANY: Final = 10_000
"""Rows of journals and inboxes after which a purge lets others write."""


class Upkeep:
    """The calls of ``ports.Upkeep``, on the writer's connection.

    Args:
        connection: The writer's, in a transaction whenever a method is called.
        holding: What this process holds.
        intake: What takes a fork's start.
    """

    def __init__(self, connection: sqlite3.Connection, holding: Holding, intake: Intake) -> None:
        self._connection, self._holding, self._intake = connection, holding, intake

    def rewind(self, run: str, seq: int, at: float) -> None:
        """See ``ports.Upkeep.rewind``."""
        id = self._intake.id_of(run)
        row = self._connection.execute("SELECT live, status, target, session FROM runs WHERE id = ?", (id,)).fetchone()
        live, status, target, session = row
        if live:
            msg = f"run {run!r} has not finished, it is {status}: only a finished run is rewound; cancel it first"
            raise RunActive(msg)
        if session is not None:
            self._check_last(run, id, target, session)
        self._holding.flush()
        seq = max(seq, 0)
        names = erasing.drop(self._connection, "journal", "run = ? AND seq >= ?", id, seq)
        ended_it = "run = ? AND place >= ? AND (kind = 'cancel' OR error IS NOT NULL)"
        names |= erasing.drop(self._connection, "inbox", ended_it, id, seq)
        self._connection.execute(sql.GIVE_BACK, (id, seq))
        if session is not None:
            names |= self._unsay(id, target, session)
        names |= {name for name in self._connection.execute(sql.OUTCOME, (id,)).fetchone() if name is not None}
        self._connection.execute(sql.REWIND, (at, id))
        erasing.sweep(self._connection, names)

    def _check_last(self, run: str, id: int, target: str, session: str) -> None:
        """What a turn said and remembered can be taken back while nobody has built on it."""
        place = {"id": id, "target": target, "session": session}
        if any(self._connection.execute(later, place).fetchone() for later in sql.LATER_TURNS):
            msg = (
                f"run {run!r} is a turn of session '{target}/{session}', in which a later turn has begun: it cannot be"
                " rewound; send the message again"
            )
            raise RunActive(msg)

    def _unsay(self, id: int, target: str, session: str) -> set[str]:
        """The session is as it was before this turn."""
        row = self._connection.execute(sql.SESSION, (target, session)).fetchone()
        if row is None:
            return set()
        place, turn, state, _ = row
        names = erasing.drop(self._connection, "log", "session = ? AND run = ?", place, id)
        if turn == id:
            self._connection.execute(sql.STATE_BEFORE, (place,))
            names.update([state] if state is not None else ())
        return names

    def fork(self, run: str, seq: int, start: Start, now: float, touched: dict[str, int]) -> Accepted:
        """See ``ports.Upkeep.fork``."""
        source = self._intake.id_of(run)
        self._holding.flush()
        try:
            for _ in self._copied(source, source, seq):
                pass
        except (Damage, sqlite3.DatabaseError) as error:
            if not is_damage(error):
                raise
            msg = f"run {run!r} is damaged: {error}; fork it from an earlier entry, or restore the file from a backup"
            raise DataCorrupted(msg) from error
        accepted, id = self._intake.start(start, touched, now)
        if accepted.new:
            self._connection.executemany(sql.APPEND, self._copied(source, id, seq))
        return accepted

    def _copied(self, source: int, target: int, seq: int) -> Iterator[tuple[Any, ...]]:
        """The first entries of a journal, as rows of another."""
        found = self._connection.execute(sql.FIRST_ENTRIES, (source, seq))
        for place, row in enumerate(found):
            if row[0] != place:
                msg = f"entry {place} of its journal is missing"
                raise Damage(msg)
            check(f"entry {place} of its journal", row[12], entry_sum, source, place, row[1:12])
            yield (target, *row[:12], entry_sum(target, place, row[1:12]))

    def purge(self, which: RunFilter, ids: Iterable[int]) -> int:
        """Forget those of these runs that still fit, whole; not all if they are large. Returns how many went."""
        self._holding.flush()
        gone, before = 0, self._connection.total_changes
        for id in ids:
            if listing.is_ended(self._connection, which, id):
                erasing.forget(self._connection, id)
                gone += 1
            if self._connection.total_changes - before > MANY:
                break
        return gone
