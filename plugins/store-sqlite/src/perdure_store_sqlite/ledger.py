"""What the store's calls write, within the writer's transaction.

Each method decides by reads, before it writes anything, whether it refuses: so a refusal harms none of the
calls that share its transaction. An error of SQLite's is another matter: then the writer rolls everything back,
calls ``restore`` and tries each call in a transaction of its own.

This process alone drives what it holds, so the length of a journal, epoch and status are kept in memory. A
commit that changes none of them is one row, inserted together with all others of the transaction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from perdure.errors import CommitConflict, LeaseLost, RequestClosed, UnknownName
from perdure.messages import TERMINAL, Accepted, Claim, Commit, Delivery, Reported, Start
from perdure_store_sqlite import rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

    from perdure_store_sqlite.driver import Driver

_NOTHING: Final = ((), (), (), (), (), (), None)
"""``consumed`` to ``state`` of a commit that only appends entries."""

_NO_CLAIMS: Final[tuple[Claim, ...]] = ()

APPEND: Final = f"INSERT INTO journal (run, seq, {rows.ENTRY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - our own constants
_INSERT_RUN: Final = (
    f"INSERT INTO runs ({rows.START_COLUMNS}, updated, ready, held, epoch)"  # noqa: S608 - our own constants
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_FIRST: Final = (
    "(session IS NULL OR NOT EXISTS (SELECT 1 FROM runs AS before WHERE before.target = runs.target"
    " AND before.session = runs.session AND before.live = 1 AND before.id < runs.id))"
)
_WORK: Final = (
    "status <> 'parked' AND (status = 'pending' OR active OR wake_at <= ?"
    " OR EXISTS (SELECT 1 FROM inbox WHERE inbox.run = runs.id AND consumed = 0))"
)
# A parked run is woken by resume and cancel alone: anything else would only make it fail, and park, again.
_UNPARK: Final = "UPDATE runs SET status = 'pending', error = NULL WHERE id = ? AND status = 'parked'"
_CLAIMABLE: Final = f"SELECT id FROM runs WHERE id = ? AND live = 1 AND held IS NULL AND {_FIRST} AND {_WORK}"  # noqa: S608 - our own constants
_UNTOLD: Final = f"SELECT id, run FROM runs WHERE ready = 1 AND live = 1 AND {_FIRST} ORDER BY id"  # noqa: S608 - our own constants
_DUE: Final = "SELECT id, run FROM runs WHERE wake_at <= ? ORDER BY wake_at"
_HOLD: Final = (
    f"SELECT {rows.START_COLUMNS}, status, active, wake_at, epoch, takeovers,"  # noqa: S608 - our own constants
    " (SELECT coalesce(max(seq) + 1, 0) FROM journal WHERE journal.run = runs.id) FROM runs WHERE id = ?"
)
_INBOX: Final = f"SELECT {rows.DELIVERY_COLUMNS} FROM inbox WHERE run = ? AND consumed = 0 ORDER BY id"  # noqa: S608 - our own constants
_UPDATE: Final = (
    "UPDATE runs SET status = ?, active = ?, wake_at = ?, updated = ?, value = ?, error = ?, unreported = ?,"
    " held = ?, live = ?, takeovers = ?, ready = CASE WHEN ? THEN ready ELSE 0 END WHERE id = ?"
)


@dataclass(slots=True)
class _Held:
    """A run that a worker of this process holds.

    ``quiet`` is what a commit carries after its entries when nothing but the journal changes.
    """

    id: int
    start: Start
    worker: str
    epoch: int
    seq: int
    takeovers: int
    quiet: tuple[Any, ...]
    wake_at: float | None
    told_due: bool = False

    def due(self, now: float) -> bool:
        return self.wake_at is not None and self.wake_at <= now


def _quiet(status: str, active: object, wake_at: float | None, takeovers: int) -> tuple[Any, ...]:
    """See ``_Held``; empty, so that no commit is quiet, while the row is not active or has takeovers to forget."""
    return (*_NOTHING, status, True, wake_at, None, None, False) if active and not takeovers else ()


class Ledger:
    """The calls, one after the other, on the writer's connection.

    Args:
        connection: The writer's, in a transaction whenever a method is called.
        driver: Whether and under which epoch this process drives.
        alive: Whether a worker of this process is.
    """

    def __init__(self, connection: sqlite3.Connection, driver: Driver, alive: Callable[[str], bool]) -> None:
        self._connection, self._driver, self._alive = connection, driver, alive
        self._held: dict[str, _Held] = {}
        self._before: dict[str, _Held | None] = {}
        self._rows: list[tuple[Any, ...]] = []
        self.loud = self.grew = False
        """Whether something changed that others may wait for; whether a journal merely grew. The writer's to reset."""

    # -- transactions -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A transaction has begun: if another process took over, everything held is lost."""
        if not self._driver.still():
            self._held.clear()

    def flush(self) -> None:
        """Write what was put off to be written together."""
        if self._rows:
            self._connection.executemany(APPEND, self._rows)
            self._rows.clear()
            self.grew = True

    def done(self) -> None:
        """The transaction was committed."""
        self._before.clear()

    def restore(self) -> None:
        """The transaction was rolled back: know again what the file says."""
        self._rows.clear()
        for run, held in self._before.items():
            if held is None:
                self._held.pop(run, None)
            else:
                self._held[run] = held
        self._before.clear()
        for held in self._held.values():
            held.seq = self._length(held.id)

    # -- accept -----------------------------------------------------------------------------------------------

    def accept(
        self, items: Sequence[Start | Delivery | Reported], worker: str | None, now: float
    ) -> tuple[Sequence[Accepted], Sequence[Claim]]:
        """See ``ports.Store.accept``."""
        ids = self._check(items)
        touched: dict[str, int] = {}
        accepted = [self._take(item, ids, touched) for item in items]
        self.loud = self.loud or any(item.new for item in accepted)
        return accepted, self._woken(touched, worker, now)

    def _check(self, items: Iterable[Start | Delivery | Reported]) -> dict[str, int]:
        """Refuse before anything is written; return the ids of the runs that were there before."""
        ids: dict[str, int] = {}
        started: set[str] = set()
        answers: dict[str, bytes | None] = {}
        for item in items:
            if isinstance(item, Start):
                started.add(item.run)
                continue
            if item.run not in started and item.run not in ids:
                ids[item.run] = self._id(item.run)
            if isinstance(item, Delivery) and item.kind == "answer":
                self._check_answer(item, ids.get(item.run), answers)
        return ids

    def _id(self, run: str) -> int:
        held = self._held.get(run)
        if held is not None:
            return held.id
        row = self._one("SELECT id FROM runs WHERE run = ?", run)
        if row is None:
            raise UnknownName("run", run, hint="it was never accepted here")
        return row[0]

    def _check_answer(self, answer: Delivery, id: int | None, answers: dict[str, bytes | None]) -> None:
        row = self._one("SELECT status FROM requests WHERE request = ? AND run = ?", answer.key, id)
        if row is None:
            raise UnknownName("request", answer.key, hint=f"run {answer.run!r} asked no such question")
        if answer.key in answers:
            repeated, first = answers[answer.key] == answer.value, False
        else:
            given = self._one("SELECT value FROM inbox WHERE run = ? AND key = ?", id, answer.key)
            first = given is None
            repeated = given is not None and rows.kept(self._connection, given[0]) == answer.value
        if not repeated and not (first and row[0] == "open"):
            msg = f"request {answer.key!r} is {row[0]} already: it takes one answer, while it is open"
            raise RequestClosed(msg)
        answers[answer.key] = answer.value

    def _take(self, item: Start | Delivery | Reported, ids: dict[str, int], touched: dict[str, int]) -> Accepted:
        if isinstance(item, Start):
            return self._take_start(item, ids, touched)
        id = ids.get(item.run)
        if id is None:  # its start, beside it, was a repeated one
            return Accepted(item.run, new=False)
        if isinstance(item, Delivery):
            return Accepted(item.run, self._take_delivery(item, id, touched))
        done = self._connection.execute("UPDATE runs SET unreported = 0 WHERE id = ? AND unreported = 1", (id,))
        return Accepted(item.run, done.rowcount > 0)

    def _take_start(self, start: Start, ids: dict[str, int], touched: dict[str, int]) -> Accepted:
        row = rows.start_row(self._connection, start)
        cursor = self._connection.execute(_INSERT_RUN, (*row, start.at, 0, None, 0))
        if cursor.rowcount > 0 and cursor.lastrowid is not None:
            ids[start.run] = touched[start.run] = cursor.lastrowid
            return Accepted(start.run, new=True)
        first = self._one("SELECT run, id FROM runs WHERE target = ? AND key = ?", start.target, start.key)
        first = first or self._one("SELECT run, id FROM runs WHERE run = ?", start.run)
        assert first is not None  # noqa: S101 - what the insert collided with
        ids[first[0]] = first[1]
        return Accepted(first[0], new=False)

    def _take_delivery(self, delivery: Delivery, id: int, touched: dict[str, int]) -> bool:
        if delivery.run not in self._held and self._one("SELECT 1 FROM runs WHERE id = ? AND live = 1", id) is None:
            return False
        if delivery.kind == "resume" and self._one("SELECT 1 FROM runs WHERE id = ? AND status = 'parked'", id) is None:
            return False
        payloads = rows.keep(self._connection, delivery.value), rows.keep(self._connection, delivery.error)
        cursor = self._connection.execute(
            "INSERT INTO inbox (run, kind, key, at, value, error) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (id, delivery.kind, delivery.key, delivery.at, *payloads),
        )
        if cursor.rowcount <= 0:
            return False
        if delivery.kind == "answer":
            self._connection.execute("UPDATE requests SET status = 'answered' WHERE request = ?", (delivery.key,))
        if delivery.kind in {"resume", "cancel"}:
            self._connection.execute(_UNPARK, (id,))
        touched[delivery.run] = id
        return True

    # -- claim ------------------------------------------------------------------------------------------------

    def claim(self, worker: str, now: float, limit: int) -> tuple[Sequence[Claim], float | None]:
        """See ``ports.Store.claim``; nothing for a process that does not drive."""
        if self._driver.epoch is None:
            return (), None
        self._orphan(worker)
        untold = (row for row in self._connection.execute(_UNTOLD) if self._free_for(row[1], worker))
        claims = [self._hold(run, id, worker, now) for id, run in list(islice(untold, limit))]
        due = (row for row in self._connection.execute(_DUE, (now,)) if self._waits(row[1], worker))
        timers = list(islice(due, limit - len(claims) + 1))
        claims += [self._hold(run, id, worker, now) for id, run in timers[: limit - len(claims)]]
        if len(timers) > limit - len(claims) and len(claims) == limit:
            return claims, now
        later = self._one("SELECT min(wake_at) FROM runs WHERE wake_at > ?", now)
        return claims, later[0] if later else None

    def _orphan(self, worker: str) -> None:
        """Let go of what dead workers of this process hold; it counts as their runs' doing."""
        held = {run: item for run, item in self._held.items() if item.worker != worker}
        dead = {name for name in {item.worker for item in held.values()} if not self._alive(name)}
        for run in [run for run, item in held.items() if item.worker in dead]:
            self._let_go(run, takeovers=1)

    def _let_go(self, run: str, *, takeovers: int) -> None:
        held = self._held[run]
        self._remember(run)
        del self._held[run]
        self._connection.execute(
            "UPDATE runs SET held = NULL, ready = 1, takeovers = takeovers + ? WHERE id = ?", (takeovers, held.id)
        )

    def _free_for(self, run: str, worker: str) -> bool:
        held = self._held.get(run)
        return held is None or held.worker == worker

    def _waits(self, run: str, worker: str) -> bool:
        """Whether this worker is to be told that the run's timer is due."""
        held = self._held.get(run)
        return held is None or (held.worker == worker and not held.told_due)

    def _hold(self, run: str, id: int, worker: str, now: float) -> Claim:
        """Take the run, or hand out again what the worker holds already."""
        held = self._held.get(run)
        self._remember(run)
        if held is None:
            self.flush()  # its last entries may be among what was put off, and the length is read below
            self._connection.execute(
                "UPDATE runs SET held = ?, epoch = epoch + 1, ready = 0 WHERE id = ?", (self._driver.epoch, id)
            )
            *start, status, active, wake_at, epoch, takeovers, seq = self._connection.execute(_HOLD, (id,)).fetchone()
            quiet = _quiet(status, active, wake_at, takeovers)
            known = rows.to_start(self._connection, tuple(start))
            held = self._held[run] = _Held(id, known, worker, epoch, seq, takeovers, quiet, wake_at)
        else:
            self._connection.execute("UPDATE runs SET ready = 0 WHERE id = ? AND ready = 1", (id,))
        held.told_due = held.due(now)
        return Claim(held.start, held.epoch, held.seq, self._inbox(run, id), held.takeovers)

    def _inbox(self, run: str, id: int) -> tuple[Delivery, ...]:
        found = self._connection.execute(_INBOX, (id,)).fetchall()
        return tuple(rows.to_delivery(self._connection, run, row) for row in found)

    def _woken(self, touched: dict[str, int], worker: str | None, now: float) -> Sequence[Claim]:
        return [claim for run, id in touched.items() if (claim := self._offer(run, id, worker, now)) is not None]

    def _offer(self, run: str, id: int, worker: str | None, now: float) -> Claim | None:
        """Claim the run for the worker if it has something to do and nobody else has it; else mark it for others."""
        held = self._held.get(run)
        if held is not None and held.worker != worker and not self._alive(held.worker):
            self._let_go(run, takeovers=1)
            held = None
        if held is None and self._one(_CLAIMABLE, id, now) is None:
            self._mark(id, "held IS NOT NULL")
            return None
        if worker is None or self._driver.epoch is None or (held is not None and held.worker != worker):
            self._mark(id, "live = 1")
            return None
        return self._hold(run, id, worker, now)

    def _mark(self, id: int, where: str) -> None:
        self._connection.execute(f"UPDATE runs SET ready = 1 WHERE id = ? AND ready = 0 AND {where}", (id,))  # noqa: S608 - our own constants

    # -- commit -----------------------------------------------------------------------------------------------

    def commit(self, commit: Commit, worker: str) -> Sequence[Claim]:
        """See ``ports.Store.commit``."""
        held = self._held.get(commit.run)
        if held is None or held.epoch != commit.epoch or held.worker != worker:
            msg = (
                f"worker {worker!r} does not hold run {commit.run!r} under epoch {commit.epoch}: drop it, another does"
            )
            raise LeaseLost(msg)
        if held.seq != commit.seq:
            msg = (
                f"the journal of run {commit.run!r} has {held.seq} entries, the commit expected {commit.seq}: reload it"
            )
            raise CommitConflict(msg)
        if commit[5:] != held.quiet:
            return self._commit_whole(commit, held)
        self._append(commit, held)
        return _NO_CLAIMS

    def _append(self, commit: Commit, held: _Held) -> None:
        seq = held.seq
        for entry in commit.entries:
            row = rows.entry_row(self._connection, entry) if rows.large(entry) else entry
            self._rows.append((held.id, seq, *row))
            seq += 1
        held.seq = seq

    def _commit_whole(self, commit: Commit, held: _Held) -> Sequence[Claim]:
        self._check_closes(commit)
        self._remember(commit.run)
        self.loud = True
        touched: dict[str, int] = {}
        self._append(commit, held)
        self._connection.executemany(
            "UPDATE inbox SET consumed = 1 WHERE run = ? AND key = ?", [(held.id, key) for key, _ in commit.consumed]
        )
        if commit.log or commit.state is not None:
            self._converse(commit, held)
        self._ask(commit, held)
        for start in commit.starts:
            self._take_start(start, {}, touched)
        for delivery in commit.deliveries:
            self._pass_on(delivery, touched)
        self._settle(commit, held, touched)
        return self._woken(touched, held.worker, commit.at)

    def _check_closes(self, commit: Commit) -> None:
        for request in commit.closes:
            row = self._one("SELECT status FROM requests WHERE request = ?", request)
            if row is not None and row[0] == "answered":
                msg = f"request {request!r}, which run {commit.run!r} withdraws, was answered meanwhile: reload the run"
                raise CommitConflict(msg)

    def _converse(self, commit: Commit, held: _Held) -> None:
        place = held.start.target, held.start.session
        self._connection.execute("INSERT OR IGNORE INTO sessions (target, session) VALUES (?, ?)", place)
        row = self._one("SELECT id FROM sessions WHERE target = ? AND session = ?", *place)
        assert row is not None  # noqa: S101 - inserted above
        log = [(row[0], held.id, rows.keep(self._connection, data)) for data in commit.log]
        self._connection.executemany("INSERT INTO log (session, run, entry) VALUES (?, ?, ?)", log)
        if commit.state is not None:
            state = rows.keep(self._connection, commit.state)
            self._connection.execute("UPDATE sessions SET state = ? WHERE id = ?", (state, row[0]))

    def _ask(self, commit: Commit, held: _Held) -> None:
        self._connection.executemany(
            "UPDATE requests SET status = 'closed' WHERE request = ? AND status = 'open'",
            [(request,) for request in commit.closes],
        )
        self._connection.executemany(
            "INSERT OR IGNORE INTO requests (request, run, path, prompt, schema, at, deadline)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(r.id, held.id, r.path, r.prompt, json.dumps(r.schema), r.at, r.deadline) for r in commit.asks],
        )

    def _pass_on(self, delivery: Delivery, touched: dict[str, int]) -> None:
        """A delivery from run to run: to one that is gone, or an answer that came too late, it is dropped."""
        row = self._one("SELECT id FROM runs WHERE run = ? AND live = 1", delivery.run)
        if row is None:
            return
        if delivery.kind == "answer":
            asked = self._one(
                "SELECT 1 FROM requests WHERE request = ? AND run = ? AND status = 'open'", delivery.key, row[0]
            )
            if asked is None:
                return
        self._take_delivery(delivery, row[0], touched)

    def _settle(self, commit: Commit, held: _Held, touched: dict[str, int]) -> None:
        """Finish, release or keep the run, as its new status says."""
        finished = commit.status in TERMINAL
        keeps = commit.active and not finished
        wake_at = None if finished or commit.status == "parked" else commit.wake_at
        takeovers = 0 if commit.entries else held.takeovers
        payloads = rows.keep(self._connection, commit.value), rows.keep(self._connection, commit.error)
        changes = (commit.status, keeps, wake_at, commit.at, *payloads, commit.unreported)
        place = (self._driver.epoch if keeps else None, not finished, takeovers, keeps, held.id)
        self._connection.execute(_UPDATE, (*changes, *place))
        if keeps:
            held.takeovers, held.wake_at, held.told_due = takeovers, wake_at, False
            held.quiet = _quiet(commit.status, keeps, wake_at, takeovers)
            return
        del self._held[commit.run]
        if not finished:
            touched[commit.run] = held.id
            return
        self._connection.execute("UPDATE requests SET status = 'closed' WHERE run = ? AND status = 'open'", (held.id,))
        if held.start.session is not None:
            sql = "SELECT run, id FROM runs WHERE target = ? AND session = ? AND live = 1 ORDER BY id LIMIT 1"
            following = self._one(sql, held.start.target, held.start.session)
            touched.update([following] if following else ())

    # -- leaving ----------------------------------------------------------------------------------------------

    def leave(self, worker: str, *, last: bool) -> None:
        """See ``ports.Store.leave``; ``last`` gives up driving too."""
        for run in [run for run, held in self._held.items() if held.worker == worker]:
            self._let_go(run, takeovers=0)
        if last and self._driver.epoch is not None:
            self._driver.resign()
            self._held.clear()
        self.loud = True

    def untell(self, runs: Iterable[str]) -> None:
        """The one who was to be told of these claims has gone: a later ``claim`` tells them again."""
        for held in [self._held[run] for run in runs if run in self._held]:
            held.told_due = False
            self._mark(held.id, "live = 1")
        self.loud = True

    # -- what these are made of -------------------------------------------------------------------------------

    def _one(self, sql: str, *parameters: Any) -> tuple[Any, ...] | None:
        return self._connection.execute(sql, parameters).fetchone()

    def _length(self, id: int) -> int:
        row = self._one("SELECT coalesce(max(seq) + 1, 0) FROM journal WHERE run = ?", id)
        return row[0] if row else 0

    def _remember(self, run: str) -> None:
        if run not in self._before:
            held = self._held.get(run)
            self._before[run] = held and replace(held)
