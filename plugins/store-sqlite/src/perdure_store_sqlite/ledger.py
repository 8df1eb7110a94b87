"""What the store's calls write, within the writer's transaction.

Each method decides by reads, before it writes anything, whether it refuses: so a refusal harms none of the
calls that share its transaction. An error of SQLite's is another matter: then the writer rolls everything back,
calls ``restore`` and tries each call in a transaction of its own.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from perdure.errors import CommitConflict, LeaseLost
from perdure.messages import HALTED, TERMINAL
from perdure_store_sqlite import erasing, rows, statements as sql
from perdure_store_sqlite.held import Held, Holding, quiet
from perdure_store_sqlite.intake import Intake
from perdure_store_sqlite.sums import said_sum
from perdure_store_sqlite.upkeep import Upkeep

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from perdure.messages import Accepted, Claim, Commit, Delivery, Reported, RunFilter, Start
    from perdure_store_sqlite.driver import Driver

_NO_CLAIMS: Final[tuple[Claim, ...]] = ()


class Ledger:
    """The calls, one after the other, on the writer's connection.

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
        self._holding = Holding(connection, driver, left, targets)
        self.holds = self._holding.holds
        self._use(connection)
        self.loud = self.grew = False
        """Whether something changed that others may wait for; whether a journal merely grew. The writer's to reset."""

    def _use(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._intake = Intake(connection, self._holding)
        self._upkeep = Upkeep(connection, self._holding, self._intake)

    # -- transactions -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A transaction has begun."""
        self._holding.begin()

    def flush(self) -> None:
        """Write what was put off to be written together."""
        self.grew = self._holding.flush() or self.grew

    def done(self) -> None:
        """The transaction was committed."""
        self._holding.done()

    def restore(self, connection: sqlite3.Connection) -> None:
        """The transaction was rolled back, or nobody knows; go on from what the file says, through this connection."""
        self._use(connection)
        self._holding.restore(connection)

    # -- accept and claim -------------------------------------------------------------------------------------

    def accept(
        self, items: Sequence[Start | Delivery | Reported], worker: str | None, now: float
    ) -> tuple[Sequence[Accepted], Sequence[Claim]]:
        """See ``ports.Store.accept``."""
        touched: dict[str, int] = {}
        accepted = self._intake.accept(items, now, touched, worker)
        self.loud = self.loud or any(item.new for item in accepted)
        return accepted, self._holding.woken(touched, worker, now)

    def claim(self, worker: str, now: float, limit: int) -> tuple[Sequence[Claim], float | None]:
        """See ``ports.Store.claim``; nothing for a process that does not drive."""
        return self._holding.claim(worker, now, limit)

    def leave(self, worker: str, *, last: bool) -> None:
        """See ``ports.Store.leave``; ``last`` gives up driving too."""
        self._holding.leave(worker)
        if last:
            self._holding.resign()
        self.loud = True

    def untell(self, runs: Iterable[str]) -> None:
        """The one who was to be told of these claims has gone: a later ``claim`` tells them again."""
        self._holding.untell(runs)
        self.loud = True

    # -- commit -----------------------------------------------------------------------------------------------

    def commit(self, commit: Commit, worker: str) -> Sequence[Claim]:
        """See ``ports.Store.commit``."""
        held = self._holding.get(commit.run)
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
        self._holding.append(held, commit.entries)
        return _NO_CLAIMS

    def _commit_whole(self, commit: Commit, held: Held) -> Sequence[Claim]:
        self._check_closes(commit)
        self._holding.remember(commit.run)
        self.loud = True
        touched: dict[str, int] = {}
        self._holding.append(held, commit.entries)
        if commit.consumed:
            self._connection.executemany(
                "UPDATE inbox SET consumed = 1, place = ? WHERE run = ? AND key = ?",
                [(place, held.id, key) for key, place in commit.consumed],
            )
        if commit.asks or commit.starts:
            held.alone = False
        if commit.log or commit.state is not None:
            self._converse(commit, held)
        if commit.asks or commit.closes:
            self._ask(commit, held)
        if commit.again is not None:
            self._begin_anew(commit.again, held)
        for start in commit.starts:
            self._intake.start(start, touched, commit.at, held.worker)
        for delivery in commit.deliveries:
            self._intake.pass_on(delivery, touched, commit.at)
        self._settle(commit, held, touched)
        return self._holding.woken(touched, held.worker, commit.at)

    def _check_closes(self, commit: Commit) -> None:
        for request in commit.closes:
            row = self._one("SELECT status FROM requests WHERE request = ?", request)
            if row is not None and row[0] == "answered":
                msg = f"request {request!r}, which run {commit.run!r} withdraws, was answered meanwhile: reload the run"
                raise CommitConflict(msg)

    def _converse(self, commit: Commit, held: Held) -> None:
        place = held.start.target, held.start.session
        self._connection.execute("INSERT OR IGNORE INTO sessions (target, session) VALUES (?, ?)", place)
        row = self._one(sql.SESSION, *place)
        assert row is not None  # noqa: S101 - inserted above
        session, turn, *large = row
        log = [(session, held.id, kept, said_sum(session, held.id, kept)) for kept in map(self._keep, commit.log)]
        self._connection.executemany("INSERT INTO log (session, run, entry, sum) VALUES (?, ?, ?, ?)", log)
        if commit.state is None:
            return
        state = self._keep(commit.state)
        sum_ = said_sum(session, 0, state)
        if turn == held.id:
            self._connection.execute("UPDATE sessions SET state = ?, sum = ? WHERE id = ?", (state, sum_, session))
        else:
            self._connection.execute(sql.NEXT_STATE, (state, sum_, held.id, session))
        erasing.sweep(self._connection, [name for name in large if name is not None])

    def _ask(self, commit: Commit, held: Held) -> None:
        asks = [(r.id, held.id, r.path, r.prompt, json.dumps(r.schema), r.at, r.deadline, r.to) for r in commit.asks]
        self._connection.executemany(sql.ASK, asks)
        self._connection.executemany(
            "UPDATE requests SET status = 'closed' WHERE request = ? AND status = 'open'",
            [(request,) for request in commit.closes],
        )

    def _begin_anew(self, start: Start, held: Held) -> None:
        """The run goes on under its id with an empty journal."""
        self._holding.flush()
        erasing.clear(self._connection, held.id)
        old = held.start
        held.start = old._replace(input=start.input, version=start.version, generation=start.generation)
        row = rows.start_row(self._connection, held.start)
        self._connection.execute(sql.BEGIN_ANEW, (row[3], row[12], row[14], row[16], held.id))
        erasing.sweep(self._connection, rows.large_names(old.input))
        held.seq = 0

    def _settle(self, commit: Commit, held: Held, touched: dict[str, int]) -> None:
        """Finish, release or keep the run, as its new status says."""
        finished, halted = commit.status in TERMINAL, commit.status in HALTED
        keeps = commit.active and not finished and not halted
        wake_at = None if finished or halted or commit.again is not None else commit.wake_at
        takeovers = 0 if commit.entries or commit.again is not None else held.takeovers
        changes = (commit.status, keeps, wake_at, commit.at, self._keep(commit.value), self._keep(commit.error))
        place = (self._holding.epoch if keeps else None, not finished, takeovers, keeps, held.id)
        self._connection.execute(sql.UPDATE, (*changes, commit.unreported, commit.progress, *place))
        if keeps:
            held.takeovers, held.wake_at, held.told_due, held.rewound = takeovers, wake_at, False, False
            held.quiet = quiet(commit.status, keeps, wake_at, takeovers)
            return
        self._holding.release(commit.run)
        if not finished:
            touched[commit.run] = held.id
            return
        if not held.alone:
            self._connection.execute(sql.CLOSE_REQUESTS, (held.id,))
            self._intake.close_children(commit.run, commit.at, touched)
        if held.start.session is not None:
            self._intake.become_due(held.start, commit.at)
            following = self._one(sql.NEXT_TURN, held.start.target, held.start.session)
            touched.update([following] if following else ())

    # -- upkeep -----------------------------------------------------------------------------------------------

    def rewind(self, run: str, seq: int, at: float) -> None:
        """See ``ports.Upkeep.rewind``."""
        self._upkeep.rewind(run, seq, at)
        self.loud = True

    def fork(self, run: str, seq: int, start: Start, now: float) -> Accepted:
        """See ``ports.Upkeep.fork``."""
        touched: dict[str, int] = {}
        accepted = self._upkeep.fork(run, seq, start, now, touched)
        self.loud = self.loud or accepted.new
        self._holding.woken(touched, None, now)
        return accepted

    def purge(self, which: RunFilter, ids: Sequence[int]) -> int:
        """See ``ports.Upkeep.purge``: of these runs, as many as one transaction should take."""
        gone = self._upkeep.purge(which, ids)
        self.loud = self.loud or gone > 0
        return gone

    # -- what these are made of -------------------------------------------------------------------------------

    def _keep(self, payload: bytes | None) -> bytes | str | None:
        return rows.keep(self._connection, payload)

    def _one(self, sql: str, *parameters: Any) -> tuple[Any, ...] | None:
        return self._connection.execute(sql, parameters).fetchone()
