"""What is accepted: starts, deliveries, reports.

Each call decides by reads, before it writes anything, whether it refuses: so a refusal harms none of the calls that
share its transaction.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from perdure.errors import RequestClosed, UnknownName
from perdure.messages import HALTED, Accepted, Delivery, Start
from perdure_store_sqlite import erasing, rows, statements as sql

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from perdure.messages import Reported
    from perdure_store_sqlite.held import Holding

_WAKING: Final = frozenset({"resume", "cancel", "terminate"})
"""What sets a halted run going: anything else would only make it fail, and halt, again."""
_ENDING: Final = frozenset({"cancel", "terminate"})
"""What does not wait until a run is due."""
_CLOSED: Final = b'"the run that started it has finished"'


class Intake:
    """What is accepted, on the writer's connection.

    Args:
        connection: The writer's, in a transaction whenever a method is called.
        holding: What this process holds.
    """

    def __init__(self, connection: sqlite3.Connection, holding: Holding) -> None:
        self._connection, self._holding = connection, holding

    def accept(
        self, items: Sequence[Start | Delivery | Reported], now: float, touched: dict[str, int], worker: str | None
    ) -> Sequence[Accepted]:
        """See ``ports.Store.accept``; ``touched`` gets the runs that may have been given something to do."""
        ids = self._check(items)
        return [
            self._start(item, ids, touched, now, worker)
            if isinstance(item, Start)
            else self._take(item, ids, touched, now)
            for item in items
        ]

    # -- what is refused --------------------------------------------------------------------------------------

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
                ids[item.run] = self.id_of(item.run)
            if isinstance(item, Delivery) and item.kind == "answer":
                self._check_answer(item, ids.get(item.run), answers)
        return ids

    def id_of(self, run: str) -> int:
        """A run's number in the file. Raises ``UnknownName``."""
        held = self._holding.get(run)
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
            repeated = given is not None and given[0] == rows.named(answer.value)
        if not repeated and not (first and row[0] == "open"):
            msg = f"request {answer.key!r} is {row[0]} already: it takes one answer, while it is open"
            raise RequestClosed(msg)
        answers[answer.key] = answer.value

    def _start(
        self, item: Start, ids: dict[str, int], touched: dict[str, int], now: float, worker: str | None
    ) -> Accepted:
        accepted, id = self.start(item, touched, now, worker)
        ids[accepted.run] = id
        return accepted

    def _take(self, item: Delivery | Reported, ids: dict[str, int], touched: dict[str, int], now: float) -> Accepted:
        id = ids.get(item.run)
        if id is None:  # its start, beside it, was a repeated one
            return Accepted(item.run, new=False)
        if isinstance(item, Delivery):
            return Accepted(item.run, self._deliver(item, id, touched, now))
        done = self._connection.execute("UPDATE runs SET unreported = 0 WHERE id = ? AND unreported = 1", (id,))
        return Accepted(item.run, done.rowcount > 0)

    # -- starts -----------------------------------------------------------------------------------------------

    def start(
        self, start: Start, touched: dict[str, int], now: float, worker: str | None = None, *, epoch: int = 0
    ) -> tuple[Accepted, int]:
        """Take a start; return what is said of it, and the run's number.

        A new run that is to begin now is the worker's from the beginning. Not a turn, which stands in a queue.
        """
        row = rows.start_row(self._connection, start)
        delayed = start.due is not None and start.due > now
        at_once = start.session is None and not delayed and epoch == 0
        driver = self._holding.driver_for(worker, start.target) if at_once else None
        mine = driver is not None
        place = (start.at, start.due if delayed else None, delayed, epoch + mine, driver, mine)
        cursor = self._connection.execute(sql.INSERT_RUN, (*row, *place))
        id = cursor.lastrowid
        if cursor.rowcount <= 0 or id is None:
            return self._again(start, row, touched, now)
        if start.tags:
            tags = [(tag, value, start.at, id) for tag, value in start.tags.items()]
            self._connection.executemany("INSERT INTO run_tags (tag, value, at, run) VALUES (?, ?, ?, ?)", tags)
        if start.session is not None:
            self.become_due(start, now)
        elif mine and worker is not None:
            self._holding.hold_new(start, id, worker)
        touched[start.run] = id
        return Accepted(start.run, new=True), id

    def become_due(self, turn: Start, now: float) -> None:
        """Turns of this session that waited until now stand in its queue."""
        self._connection.execute(sql.TURN_BECOMES_DUE, (now, turn.target, turn.session))

    def _again(self, start: Start, row: tuple[Any, ...], touched: dict[str, int], now: float) -> tuple[Accepted, int]:
        """A start that is there already, by its key or its id: the first one, or its place for a new one."""
        first = self._one("SELECT run, id FROM runs WHERE target = ? AND key = ?", start.target, start.key)
        if first is None:
            row_of_id = self._one("SELECT id, live, status FROM runs WHERE run = ?", start.run)
            assert row_of_id is not None  # noqa: S101 - what the insert collided with
            id, live, status = row_of_id
            if not live and (start.reuse == "restart" or (start.reuse == "restart_failed" and status != "completed")):
                return self._restart(start, id, touched, now)
            first = start.run, id
            if not live and start.path is not None:
                self._reply_again(start, id, touched, now)
        if isinstance(row[3], str):
            erasing.sweep(self._connection, [row[3]])
        return Accepted(first[0], new=False), first[1]

    def _reply_again(self, start: Start, id: int, touched: dict[str, int], now: float) -> None:
        """Whoever called a run that has finished, and calls it again, is told again what became of it."""
        row = self._one("SELECT parent, path, value, error FROM runs WHERE id = ?", id)
        if row is not None and row[:2] == (start.parent, start.path):
            value, error = (rows.kept(self._connection, column) for column in row[2:])
            self.pass_on(Delivery(row[0], "reply", row[1], start.at, value, error), touched, now)

    def _restart(self, start: Start, id: int, touched: dict[str, int], now: float) -> tuple[Accepted, int]:
        """The finished run goes, and a new one takes its name; what an old claim of it commits is refused."""
        before = self._one("SELECT generation, epoch FROM runs WHERE id = ?", id)
        assert before is not None  # noqa: S101 - it was just found
        self._holding.flush()
        erasing.forget(self._connection, id)
        return self.start(start._replace(generation=before[0] + 1), touched, now, epoch=before[1] + 1)

    # -- deliveries -------------------------------------------------------------------------------------------

    def pass_on(self, delivery: Delivery, touched: dict[str, int], now: float) -> None:
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
        self._deliver(delivery, row[0], touched, now)

    def close_children(self, parent: str, at: float, touched: dict[str, int]) -> None:
        """A run has finished: those that it started and that go on are called off as they say, once."""
        for id, run, kind in self._connection.execute(sql.CHILDREN, (parent,)).fetchall():
            self._deliver(Delivery(run, kind, kind, at, _CLOSED), id, touched, at)

    def _deliver(self, delivery: Delivery, id: int, touched: dict[str, int], now: float) -> bool:
        halted = False
        if self._holding.get(delivery.run) is None:
            row = self._one("SELECT status FROM runs WHERE id = ? AND live = 1", id)
            if row is None:
                return False
            halted = row[0] in HALTED
        if delivery.kind == "resume" and not halted:
            return False
        row = rows.delivery_row(self._connection, id, delivery)
        if self._connection.execute(sql.INSERT_DELIVERY, (id, *row)).rowcount <= 0:
            return False
        self._holding.fresh.pop(delivery.run, None)
        self._connection.execute(sql.HEARD, (delivery.at, id))
        if delivery.kind == "answer":
            self._connection.execute("UPDATE requests SET status = 'answered' WHERE request = ?", (delivery.key,))
        if halted and delivery.kind in _WAKING:
            due = now if delivery.kind == "resume" else inf
            self._connection.execute(sql.WAKE_HALTED, {"now": due, "id": id})
        elif delivery.kind in _ENDING:
            self._connection.execute(sql.HURRY, (id,))
        touched[delivery.run] = id
        return True

    def _one(self, sql: str, *parameters: Any) -> tuple[Any, ...] | None:
        return self._connection.execute(sql, parameters).fetchone()
