"""How what is no longer needed leaves the file: journals, inboxes, whole runs, and the large values only they had."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

_REFERRING: Final = (
    ("journal", "value"),
    ("journal", "error"),
    ("inbox", "value"),
    ("inbox", "error"),
    ("runs", "input"),
    ("runs", "value"),
    ("runs", "error"),
    ("log", "entry"),
    ("sessions", "state"),
    ("sessions", "earlier"),
)
"""Every column that may hold the name of a large value, each with an index of those that do."""

# ruff: noqa: S608 - all of it is made of our own constants

_SWEEP: Final = "DELETE FROM blobs WHERE digest = :name" + "".join(
    f" AND NOT EXISTS (SELECT 1 FROM {table} WHERE {column} = :name AND typeof({column}) = 'text')"
    for table, column in _REFERRING
)

_REPLIES: Final = "consumed = 1 AND kind IN ('reply', 'answer')"


def drop(connection: sqlite3.Connection, table: str, where: str, *parameters: Any) -> set[str]:
    """Delete rows of ``journal``, ``inbox``, ``log`` or ``runs``; return the large values that they referred to."""
    names: set[str] = set()
    for column in [column for each, column in _REFERRING if each == table]:
        large = f"SELECT DISTINCT {column} FROM {table} WHERE {where} AND typeof({column}) = 'text'"
        names.update(name for (name,) in connection.execute(large, parameters))
    connection.execute(f"DELETE FROM {table} WHERE {where}", parameters)
    return names


def sweep(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    """Delete those of these large values that nobody refers to any more."""
    connection.executemany(_SWEEP, [{"name": name} for name in names])


def clear(connection: sqlite3.Connection, id: int) -> None:
    """A run begins anew under its id: its journal goes, and what its calls and questions brought.

    Events are kept in mind, so that a repeated one is known.
    """
    names = drop(connection, "journal", "run = ?", id) | drop(connection, "inbox", f"run = ? AND {_REPLIES}", id)
    connection.execute("UPDATE inbox SET place = -1 WHERE run = ? AND consumed = 1", (id,))
    connection.execute("UPDATE requests SET status = 'closed' WHERE run = ? AND status = 'open'", (id,))
    sweep(connection, names)


def forget(connection: sqlite3.Connection, id: int) -> None:
    """A run goes whole, but for what it said in its session."""
    tags, at = connection.execute("SELECT tags, at FROM runs WHERE id = ?", (id,)).fetchone()
    try:
        labels: list[tuple[str, str]] = list(json.loads(tags).items())
    except (ValueError, AttributeError):  # damaged: look at all there are
        connection.execute("DELETE FROM run_tags WHERE run = ?", (id,))
    else:
        places = [(tag, value, at, id) for tag, value in labels]
        connection.executemany("DELETE FROM run_tags WHERE tag = ? AND value = ? AND at = ? AND run = ?", places)
    names = drop(connection, "journal", "run = ?", id) | drop(connection, "inbox", "run = ?", id)
    connection.execute("DELETE FROM requests WHERE run = ?", (id,))
    sweep(connection, names | drop(connection, "runs", "id = ?", id))
