"""What is read: by machines that are rebuilt, by people, by other processes. On a connection of its own."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

from perdure.errors import DataCorrupted, NewerJournal, PerdureError, StoreUnusable, UnknownName
from perdure.messages import EntryKind, Loaded
from perdure_store_sqlite import listing, rows
from perdure_store_sqlite.schema import is_damage, meaning, open_reader
from perdure_store_sqlite.sums import Damage, check, said_sum, start_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from perdure.messages import AgentId, Entry, RequestView, RunFilter, RunView

T = TypeVar("T")

_KINDS: Final = frozenset(get_args(EntryKind))
_ENTRIES: Final = f"SELECT seq, {rows.ENTRY_COLUMNS}, sum FROM journal WHERE run = ? AND seq >= ? ORDER BY seq LIMIT ?"  # noqa: S608 - our own constants
_REQUESTS: Final = f"SELECT {rows.REQUEST_COLUMNS} FROM requests JOIN runs ON runs.id = requests.run"  # noqa: S608 - our own constants
_CALLED: Final = (
    "WITH RECURSIVE called (run) AS (SELECT ? UNION"
    " SELECT runs.run FROM called"
    " CROSS JOIN runs INDEXED BY runs_children ON runs.parent = called.run WHERE runs.live = 1)"
    " SELECT run FROM called"
)
_VIEW: Final = rows.VIEW_COLUMNS
_VIEWS: Final = f"SELECT {_VIEW} FROM runs"  # noqa: S608 - our own constants


class Views:
    """The reading side. Each method sees one state of the file; one call at a time, from any thread.

    Args:
        path: The file, which the writer has made.
        connection: To read through at first; by default one is opened.
    """

    def __init__(self, path: Path, *, connection: sqlite3.Connection | None = None) -> None:
        self._path = path
        self._open = connection

    def read(self, look: Callable[[Views], T]) -> T:
        """Look at one state of the file.

        Raises:
            StoreUnusable: The file is damaged.
            StoreUnavailable: It cannot be read now.
        """
        try:
            return self._look(look)
        except (DataCorrupted, StoreUnusable) as error:
            if not isinstance(error.__cause__, sqlite3.DatabaseError):
                raise
            # SQLite says the same of a page that the system could not read just now.
            self.close()
            return self._look(look)

    def _look(self, look: Callable[[Views], T]) -> T:
        try:
            if self._open is None:
                self._open = open_reader(self._path)
            self._open.execute("BEGIN")
            try:
                return look(self)
            finally:
                self._open.execute("ROLLBACK")
        except PerdureError:
            raise
        except (Damage, ValueError) as error:  # a column that is no JSON, or does not fit its type
            msg = f"the store's file {str(self._path)!r} is damaged: {error}; restore it from a backup"
            raise StoreUnusable(msg) from error
        except Exception as error:
            self.close()  # what failed is not gone on with
            raise meaning(error, self._path) from error

    def close(self) -> None:
        """Let go of the file; the next look opens it anew."""
        with suppress(sqlite3.Error):
            if self._open is not None:
                self._open.close()
        self._open = None

    # -- what can be looked at --------------------------------------------------------------------------------

    def load(self, run: str) -> Loaded:
        """See ``ports.Store.load``."""
        id = self._id(run)
        try:
            return self._load(id)
        except (Damage, sqlite3.DatabaseError) as error:
            if not is_damage(error):
                raise
            msg = (
                f"run {run!r} in {str(self._path)!r} is damaged: {error}; others are unharmed: restore the file from a"
                " backup, or start the run anew"
            )
            raise DataCorrupted(msg) from error

    def _load(self, id: int) -> Loaded:
        start = self._row(f"SELECT {rows.START_COLUMNS}, sum FROM runs WHERE id = ?", id)  # noqa: S608 - our own constants
        assert start is not None  # noqa: S101 - it was just found
        check("what it was started with", start[16], start_sum, start[:16])
        entries = tuple(
            rows.checked_entry(self._reader, id, seq, row) for seq, row in enumerate(self._all(_ENTRIES, id, 0, -1))
        )
        if not _KINDS.issuperset({entry.kind for entry in entries}):
            unknown = next(entry for entry in entries if entry.kind not in _KINDS)
            msg = (
                f"the journal of run {start[0]!r} holds an entry of kind {unknown.kind!r} at {unknown.path!r}, which"
                f" this release does not know (it knows {', '.join(sorted(_KINDS))}): upgrade perdure, and it goes on"
            )
            raise NewerJournal(msg)
        if start[5] is None:
            return Loaded(entries)
        row = self._row("SELECT id, state, sum FROM sessions WHERE target = ? AND session = ?", start[2], start[5])
        if row is None:
            return Loaded(entries)
        session, state, sum_ = row
        if sum_ is not None:
            check("its session's state", sum_, said_sum, session, 0, state)
        said = self._all("SELECT run, entry, sum FROM log WHERE session = ? AND run <> ? ORDER BY id", session, id)
        for turn, data, sum_ in said:
            check("its session's conversation", sum_, said_sum, session, turn, data)
        return Loaded(entries, tuple(self._payload(data) for _, data, _ in said), rows.kept(self._reader, state))

    def run(self, run: str) -> RunView | None:
        """See ``ports.Query.run``."""
        row = self._row(f"{_VIEWS} WHERE run = ?", run)
        return None if row is None else self._whole(row)

    def runs(self, which: RunFilter, before: str | None, limit: int) -> Sequence[RunView]:
        """See ``ports.Query.runs``."""
        place = None
        if before is not None:
            place = self._row("SELECT at, id FROM runs WHERE run = ?", before) or self._unknown(before)
        ids = listing.newest(self._reader, which, place, limit)
        if not ids:
            return []
        found = self._all(f"SELECT id, {_VIEW} FROM runs WHERE id IN ({', '.join('?' * len(ids))})", *ids)  # noqa: S608 - our own constants
        views = {row[0]: rows.to_view(self._reader, row[1:], (), whole=False) for row in found}
        return [views[id] for id in ids]

    def ended(self, which: RunFilter, limit: int) -> list[int]:
        """The numbers of finished runs that may be forgotten."""
        return listing.ended(self._reader, which, limit)

    def journal(self, run: str, after: int, limit: int) -> Sequence[Entry]:
        """See ``ports.Query.journal``; of what is damaged, as much as can be shown."""
        return [rows.shown_entry(self._reader, row[1:12]) for row in self._all(_ENTRIES, self._id(run), after, limit)]

    def requests(self, run: str | None, limit: int) -> Sequence[RequestView]:
        """See ``ports.Query.requests``."""
        of = f" AND runs.run IN ({_CALLED})" if run is not None else ""
        named = (run,) if run is not None else ()
        where = f" WHERE requests.status = 'open'{of} ORDER BY requests.id LIMIT ?"
        return [rows.to_request(row) for row in self._all(_REQUESTS + where, *named, limit)]

    def request(self, request: str) -> RequestView | None:
        """See ``ports.Query.request``."""
        row = self._row(f"{_REQUESTS} WHERE request = ?", request)
        return None if row is None else rows.to_request(row)

    def log(self, session: AgentId) -> Sequence[bytes]:
        """See ``ports.Query.log``."""
        row = self._row("SELECT id FROM sessions WHERE target = ? AND session = ?", *session)
        found = self._all("SELECT entry FROM log WHERE session = ? ORDER BY id", row[0]) if row else []
        return [self._payload(data) for (data,) in found]

    def unreported(self, limit: int) -> Sequence[RunView]:
        """See ``ports.Query.unreported``."""
        found = self._all(f"{_VIEWS} WHERE unreported = 1 ORDER BY id LIMIT ?", limit)
        return [self._whole(row) for row in found]

    # -- what these are made of -------------------------------------------------------------------------------

    @property
    def _reader(self) -> sqlite3.Connection:
        assert self._open is not None  # noqa: S101 - `read` opened it
        return self._open

    def _row(self, sql: str, *parameters: Any) -> tuple[Any, ...] | None:
        return self._reader.execute(sql, parameters).fetchone()

    def _all(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._reader.execute(sql, parameters).fetchall()

    def _whole(self, row: tuple[Any, ...]) -> RunView:
        return rows.to_view(self._reader, row, tuple(self.requests(row[0], -1)), whole=True)

    def _payload(self, column: bytes | str) -> bytes:
        return rows.kept(self._reader, column) or b""

    def _id(self, run: str) -> int:
        return (self._row("SELECT id FROM runs WHERE run = ?", run) or self._unknown(run))[0]

    def _unknown(self, run: str) -> tuple[Any, ...]:
        raise UnknownName("run", run, hint="it was never accepted here")
