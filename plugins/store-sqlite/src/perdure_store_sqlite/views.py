"""What is read: by machines that are rebuilt, by people, by other processes. On a connection of its own."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeVar

from perdure.errors import StoreUnusable, UnknownName
from perdure.messages import Loaded
from perdure_store_sqlite import rows
from perdure_store_sqlite.schema import meaning, open_reader

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from perdure.messages import AgentId, Entry, RequestView, RunFilter, RunView

T = TypeVar("T")

_ENTRIES: Final = f"SELECT seq, {rows.ENTRY_COLUMNS} FROM journal WHERE run = ? AND seq >= ? ORDER BY seq LIMIT ?"  # noqa: S608 - our own constants
_REQUESTS: Final = f"SELECT {rows.REQUEST_COLUMNS} FROM requests JOIN runs ON runs.id = requests.run"  # noqa: S608 - our own constants
_CALLED: Final = (
    "WITH RECURSIVE called (run) AS (SELECT ? UNION"
    " SELECT runs.run FROM runs JOIN called ON runs.parent = called.run WHERE runs.live = 1 AND runs.parent NOT NULL)"
    " SELECT run FROM called"
)
_VIEWS: Final = f"SELECT {rows.VIEW_COLUMNS} FROM runs"  # noqa: S608 - our own constants


class Views:
    """The reading side. Each method sees one state of the file; one call at a time, from any thread.

    Args:
        path: The file, which the writer has made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._open: sqlite3.Connection | None = None

    def read(self, look: Callable[[Views], T]) -> T:
        """Look at one state of the file.

        Raises:
            StoreUnusable: The file is damaged.
            StoreUnavailable: It cannot be read now.
        """
        with self._lock:
            try:
                if self._open is None:
                    self._open = open_reader(self._path)
                self._open.execute("BEGIN")
                try:
                    return look(self)
                finally:
                    self._open.execute("ROLLBACK")
            except UnknownName:
                raise
            except ValueError as error:  # a column that is no JSON, or does not fit its type
                msg = f"the store's file {str(self._path)!r} is damaged: {error}; restore it from a backup"
                raise StoreUnusable(msg) from error
            except Exception as error:
                raise meaning(error, self._path) from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None

    # -- what can be looked at --------------------------------------------------------------------------------

    def load(self, run: str) -> Loaded:
        """See ``ports.Store.load``."""
        id, target, session = self._row("SELECT id, target, session FROM runs WHERE run = ?", run) or self._unknown(run)
        entries = tuple(self._entries(run, id, 0, -1))
        if session is None:
            return Loaded(entries)
        row = self._row("SELECT id, state FROM sessions WHERE target = ? AND session = ?", target, session)
        if row is None:
            return Loaded(entries)
        log = self._all("SELECT entry FROM log WHERE session = ? AND run <> ? ORDER BY id", row[0], id)
        return Loaded(entries, tuple(self._payload(data) for (data,) in log), rows.kept(self._reader, row[1]))

    def run(self, run: str) -> RunView | None:
        """See ``ports.Query.run``."""
        row = self._row(f"{_VIEWS} WHERE run = ?", run)
        return None if row is None else self._whole(row)

    def runs(self, which: RunFilter, before: str | None, limit: int) -> Sequence[RunView]:
        """See ``ports.Query.runs``."""
        wanted: dict[str, Any] = {}
        target, status, parent = which.target, which.status[0] if which.status else None, which.parent
        if before is not None:
            wanted["id < ?"] = (self._row("SELECT id FROM runs WHERE run = ?", before) or self._unknown(before))[0]
        if target is not None:
            wanted["target = ?"] = target
        if status is not None:
            wanted["status = ?"] = status
        if parent is not None:
            wanted["parent = ?"] = parent
        where = f" WHERE {' AND '.join(wanted)}" if wanted else ""
        found = self._all(f"{_VIEWS}{where} ORDER BY id DESC LIMIT ?", *wanted.values(), limit)
        return [rows.to_view(self._reader, row, (), whole=False) for row in found]

    def journal(self, run: str, after: int, limit: int) -> Sequence[Entry]:
        """See ``ports.Query.journal``."""
        id = (self._row("SELECT id FROM runs WHERE run = ?", run) or self._unknown(run))[0]
        return self._entries(run, id, after, limit)

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

    def _entries(self, run: str, id: int, after: int, limit: int) -> list[Entry]:
        found = self._all(_ENTRIES, id, after, limit)
        for expected, row in enumerate(found, after):
            if row[0] != expected:
                msg = (
                    f"the journal of run {run!r} in {str(self._path)!r} is damaged: entry {expected} is missing;"
                    " restore the file from a backup"
                )
                raise StoreUnusable(msg)
        return [rows.to_entry(self._reader, row[1:]) for row in found]

    def _unknown(self, run: str) -> tuple[Any, ...]:
        raise UnknownName("run", run, hint="it was never accepted here")
