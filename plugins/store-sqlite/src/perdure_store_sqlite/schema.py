"""The file: its tables, its versions, how it is opened, and what SQLite's errors mean to the kernel.

Payload columns (``input``, ``value``, ``error``, ``state``, ``entry``) hold ``BLOB``, or, when the payload is
large, as ``TEXT`` the name of a row in ``blobs``: the two storage classes keep a column from needing two.
"""

from __future__ import annotations

import sqlite3
import time
from threading import Event
from typing import TYPE_CHECKING, Any, Final, TypeVar

from perdure.errors import NotEncodable, PerdureError, StoreUnavailable, StoreUnusable
from perdure_store_sqlite.sums import Damage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

APPLICATION_ID: Final = 0x50455244
"""``PERD``: what marks a file as a store of Perdure."""

# The journal is an append-only rowid log with a unique index, on integer run ids: measured five times faster
# than a table clustered by (run, seq). `ready` marks what a claim must look at: something to do, and nobody told. It is
# found among all, or by its target; timers that nobody asks for are marked so, and out of the way of those of others.
# `held` is the driver's epoch under which a run was claimed; `live` is 0 once the status is terminal; `delayed` is 1
# until a start is due (at `wake_at`); `begun` is 1 once it was claimed. Ids of runs are never given twice, because the
# log keeps them beyond their runs. Lists go by (status, at), whatever is asked for: a list of all statuses is merged.
# The indexes on `typeof` find who else refers to a large value. `sum` is the CRC-32 of a row's content: see `sums`.
MIGRATIONS: Final[Sequence[str]] = (
    """
    CREATE TABLE driver (
        one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, worker TEXT NOT NULL,
        lease_until REAL NOT NULL, locked INTEGER NOT NULL
    );
    INSERT INTO driver VALUES (1, 0, '', 0, 0);
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, target TEXT NOT NULL,
        input BLOB NOT NULL, at REAL NOT NULL, session TEXT, key TEXT, parent TEXT, path TEXT,
        ancestry TEXT NOT NULL, headers TEXT NOT NULL, tags TEXT NOT NULL, version INTEGER NOT NULL, due REAL,
        generation INTEGER NOT NULL, on_close TEXT NOT NULL, sum INTEGER NOT NULL,
        status TEXT NOT NULL DEFAULT 'pending', active INTEGER NOT NULL DEFAULT 0, wake_at REAL,
        updated REAL NOT NULL, value BLOB, error BLOB, progress BLOB, unreported INTEGER NOT NULL DEFAULT 0,
        live INTEGER NOT NULL DEFAULT 1, ready INTEGER NOT NULL DEFAULT 0, delayed INTEGER NOT NULL DEFAULT 0,
        begun INTEGER NOT NULL DEFAULT 0, held INTEGER, epoch INTEGER NOT NULL DEFAULT 0,
        takeovers INTEGER NOT NULL DEFAULT 0, rewound INTEGER NOT NULL DEFAULT 0
    );
    CREATE UNIQUE INDEX runs_key ON runs (target, key) WHERE key IS NOT NULL;
    CREATE INDEX runs_queue ON runs (target, session, id) WHERE session IS NOT NULL AND live = 1 AND delayed = 0;
    CREATE INDEX runs_begun ON runs (target, session, id) WHERE session IS NOT NULL AND live = 1 AND begun = 1;
    CREATE INDEX runs_session ON runs (target, session, id) WHERE session IS NOT NULL AND live = 0;
    CREATE INDEX runs_delayed ON runs (wake_at) WHERE delayed = 1;
    CREATE INDEX runs_ready ON runs (id) WHERE ready = 1;
    CREATE INDEX runs_asked ON runs (target, id) WHERE ready = 1;
    CREATE INDEX runs_timer ON runs (wake_at) WHERE wake_at IS NOT NULL AND ready = 0;
    CREATE INDEX runs_held ON runs (held) WHERE held IS NOT NULL;
    CREATE INDEX runs_called ON runs (parent, at) WHERE parent NOT NULL;
    CREATE INDEX runs_children ON runs (parent) WHERE parent NOT NULL AND live = 1;
    CREATE INDEX runs_unreported ON runs (id) WHERE unreported = 1;
    CREATE INDEX runs_target ON runs (target, status, at);
    CREATE INDEX runs_status ON runs (status, at);
    CREATE INDEX runs_ended ON runs (status, updated) WHERE live = 0;
    CREATE INDEX runs_input ON runs (input) WHERE typeof(input) = 'text';
    CREATE INDEX runs_value ON runs (value) WHERE typeof(value) = 'text';
    CREATE INDEX runs_error ON runs (error) WHERE typeof(error) = 'text';
    CREATE TABLE run_tags (
        tag TEXT NOT NULL, value TEXT NOT NULL, at REAL NOT NULL, run INTEGER NOT NULL,
        PRIMARY KEY (tag, value, at, run)
    ) WITHOUT ROWID;
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY, run INTEGER NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, path TEXT NOT NULL,
        at REAL NOT NULL, name TEXT NOT NULL, fingerprint TEXT NOT NULL, value BLOB, error BLOB,
        attempt INTEGER NOT NULL, started REAL NOT NULL, role TEXT NOT NULL, source TEXT NOT NULL,
        sum INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX journal_run ON journal (run, seq);
    CREATE INDEX journal_value ON journal (value) WHERE typeof(value) = 'text';
    CREATE INDEX journal_error ON journal (error) WHERE typeof(error) = 'text';
    CREATE TABLE inbox (
        id INTEGER PRIMARY KEY, run INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, at REAL NOT NULL,
        value BLOB, error BLOB, name TEXT NOT NULL, sum INTEGER NOT NULL, consumed INTEGER NOT NULL DEFAULT 0,
        place INTEGER
    );
    CREATE UNIQUE INDEX inbox_key ON inbox (run, key);
    CREATE INDEX inbox_new ON inbox (run, id) WHERE consumed = 0;
    CREATE INDEX inbox_value ON inbox (value) WHERE typeof(value) = 'text';
    CREATE INDEX inbox_error ON inbox (error) WHERE typeof(error) = 'text';
    CREATE TABLE requests (
        id INTEGER PRIMARY KEY, request TEXT NOT NULL UNIQUE, run INTEGER NOT NULL, path TEXT NOT NULL,
        prompt TEXT NOT NULL, schema TEXT NOT NULL, at REAL NOT NULL, deadline REAL, asked TEXT NOT NULL,
        status TEXT NOT NULL DEFAULT 'open'
    );
    CREATE INDEX requests_run ON requests (run);
    CREATE INDEX requests_open ON requests (run) WHERE status = 'open';
    CREATE INDEX requests_oldest ON requests (id) WHERE status = 'open';
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY, target TEXT NOT NULL, session TEXT NOT NULL, state BLOB, sum INTEGER,
        turn INTEGER, earlier BLOB, earlier_sum INTEGER, UNIQUE (target, session)
    );
    CREATE INDEX sessions_state ON sessions (state) WHERE typeof(state) = 'text';
    CREATE INDEX sessions_earlier ON sessions (earlier) WHERE typeof(earlier) = 'text';
    CREATE TABLE log (
        id INTEGER PRIMARY KEY, session INTEGER NOT NULL, run INTEGER NOT NULL, entry BLOB NOT NULL,
        sum INTEGER NOT NULL
    );
    CREATE INDEX log_session ON log (session);
    CREATE INDEX log_entry ON log (entry) WHERE typeof(entry) = 'text';
    CREATE TABLE blobs (digest TEXT PRIMARY KEY, data BLOB NOT NULL);
    """,
)
"""What leads from each version (``user_version``) of the schema to the next. Only ever appended to."""

_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_NO_STORE: Final = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_READONLY})
_PAUSE: Final = 0.001


def is_busy(error: Exception) -> bool:
    """Whether SQLite says that another connection is in the way."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


def is_io(error: Exception) -> bool:
    """Whether the system could not read or write."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR


def is_full(error: Exception) -> bool:
    """Whether there was no room: then the end of a transaction, which makes it one, was not written."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def is_damage(error: Exception) -> bool:
    """Whether it says that something in the file is not as it was written."""
    return isinstance(error, Damage) or getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT


def patiently(act: Callable[[], T], seconds: float) -> T:
    """Do something as soon as no other connection is in the way; after so many seconds its error stands.

    SQLite's own waiting grows to 100 ms between two looks, in which a busy owner of the file is never seen idle.
    """
    until = time.monotonic() + seconds
    nobody = Event()
    while True:
        try:
            return act()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > until:
                raise
        nobody.wait(_PAUSE)


def meaning(error: Exception, path: Path) -> Exception:
    """What the kernel calls an error of SQLite's; what is none of SQLite's stays as it is."""
    if isinstance(error, PerdureError):
        return error
    if isinstance(error, UnicodeEncodeError):
        return NotEncodable(f"text with a lone surrogate cannot be stored: {error}; send valid Unicode")
    if not isinstance(error, sqlite3.Error | OSError):
        return error
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_STORE:
        return StoreUnusable(
            f"the store's file {str(path)!r} cannot be used: {error}; expected a writable, undamaged database of"
            " Perdure: check its permissions, restore it from a backup, or set another path"
        )
    return StoreUnavailable(f"the store's file {str(path)!r} cannot be written now: {error}; free the disk, try again")


def open_writer(path: Path, *, synchronous: str, patience: float) -> sqlite3.Connection:
    """Open the file for writing; make or migrate it where needed.

    Raises:
        StoreUnusable: No database, another application's, a newer version's, read-only, or no place to make one.
        StoreUnavailable: Locked for longer than ``patience`` seconds, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = _connect(path)
    except (OSError, sqlite3.Error) as error:
        raise _unopenable(path, error) from error
    try:
        patiently(lambda: _check_identity(connection, path), patience)
        patiently(lambda: _set_up(connection, path, synchronous), patience)
        patiently(lambda: migrate(connection), patience)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN:
            raise _unopenable(path, error) from error
        if isinstance(error, sqlite3.Error):
            raise meaning(error, path) from error
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open the file, which is there, for reading."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    # Each connection belongs to one thread at a time; closing it may be another one's part.
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256)


def _unopenable(path: Path, error: Exception) -> StoreUnusable:
    return StoreUnusable(
        f"the store's file {str(path)!r} cannot be opened or made: {error}; expected a file in a folder that this user"
        " may write: check the permissions, or set another path"
    )


def _check_identity(connection: sqlite3.Connection, path: Path) -> None:
    """Before anything is written: is this ours, and do we know its version?"""
    # One snapshot: between two of these reads another process may have made the file's tables.
    connection.execute("BEGIN")
    try:
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        owner, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    finally:
        connection.execute("ROLLBACK")
    if owner != APPLICATION_ID and (owner or tables):
        msg = f"{str(path)!r} is a database of another application: expected one of Perdure; set another path"
        raise StoreUnusable(msg)
    if version > len(MIGRATIONS):
        msg = (
            f"{str(path)!r} has schema version {version}, this release knows up to {len(MIGRATIONS)}:"
            " upgrade perdure-store-sqlite, or set another path"
        )
        raise StoreUnusable(msg)


def _set_up(connection: sqlite3.Connection, path: Path, synchronous: str) -> None:
    # Of a new file only, and before anything is in it; what a purge frees is given back to the disk when it is idle.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        msg = f"{str(path)!r} lies on a file system without shared memory (journal mode {mode!r}): use a local disk"
        raise StoreUnusable(msg)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    # 32 MiB of log before a commit has to move it into the database; the writer does it earlier, when it is idle.
    connection.execute("PRAGMA wal_autocheckpoint = 8192")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA temp_store = MEMORY")
    # Of what a dead process left in the log, some may be in the system's memory alone, if its last fsync failed: in the
    # database it is safe, and what is written from here on does not stand behind it.
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def migrate(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring the schema to the newest version, in one transaction; proves on the way that the file can be written."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _pragma(connection, "user_version")
        for script in migrations[version:]:
            for statement in script.split(";"):
                connection.execute(statement)
        if version < len(migrations):
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]
