"""Messages as rows, and back."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from perdure.errors import StoreUnusable
from perdure.messages import Delivery, Entry, ErrorInfo, RequestView, RunView, Start

if TYPE_CHECKING:
    import sqlite3

LARGE: Final = 16 * 1024
"""Bytes above which a payload goes to ``blobs``."""

START_COLUMNS: Final = "run, kind, target, input, at, session, key, parent, path, ancestry, headers"
ENTRY_COLUMNS: Final = "kind, path, at, name, fingerprint, value, error, attempt, started, role, source"
DELIVERY_COLUMNS: Final = "kind, key, at, value, error"
REQUEST_COLUMNS: Final = "request, runs.run, requests.path, prompt, schema, requests.at, deadline, requests.status"
VIEW_COLUMNS: Final = (
    "runs.run, kind, target, runs.status, at, max(updated, coalesce((SELECT j.at FROM journal j WHERE j.run = runs.id"
    " ORDER BY seq DESC LIMIT 1), 0)), input, session, key, parent, path,"
    " (SELECT coalesce(max(seq) + 1, 0) FROM journal j WHERE j.run = runs.id), value, error, wake_at, headers"
)


def keep(connection: sqlite3.Connection, payload: bytes | None) -> bytes | str | None:
    """What a payload column holds: the payload, or the name of its blob, written here."""
    if payload is None or len(payload) <= LARGE:
        return payload
    digest = sha256(payload).hexdigest()
    connection.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?)", (digest, payload))
    return digest


def kept(connection: sqlite3.Connection, column: bytes | str | None) -> bytes | None:
    """The payload again. Raises ``StoreUnusable`` for a blob that is missing."""
    if not isinstance(column, str):
        return column
    row = connection.execute("SELECT data FROM blobs WHERE digest = ?", (column,)).fetchone()
    if row is None:
        msg = f"the store is damaged: the large value {column!r} is missing; restore the file from a backup"
        raise StoreUnusable(msg)
    return row[0]


def start_row(connection: sqlite3.Connection, start: Start) -> tuple[Any, ...]:
    """The values of ``START_COLUMNS``."""
    ancestry = json.dumps(start.ancestry) if start.ancestry else "[]"
    headers = json.dumps(start.headers) if start.headers else "{}"
    return (*start[:3], keep(connection, start.input), *start[4:9], ancestry, headers)


def to_start(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Start:
    """A start from ``START_COLUMNS``."""
    payload = kept(connection, row[3])
    return Start(*row[:3], payload, *row[4:9], tuple(json.loads(row[9])), json.loads(row[10]))


def to_delivery(connection: sqlite3.Connection, run: str, row: tuple[Any, ...]) -> Delivery:
    """A delivery from ``DELIVERY_COLUMNS``."""
    kind, key, at, value, error = row
    return Delivery(run, kind, key, at, kept(connection, value), kept(connection, error))


def large(entry: Entry) -> bool:
    """Whether something of it goes to ``blobs``."""
    value, error = entry.value, entry.error
    return (value is not None and len(value) > LARGE) or (error is not None and len(error) > LARGE)


def entry_row(connection: sqlite3.Connection, entry: Entry) -> tuple[Any, ...]:
    """The values of ``ENTRY_COLUMNS`` for an entry with something large in it; any other is its own row."""
    return (*entry[:5], keep(connection, entry.value), keep(connection, entry.error), *entry[7:])


def to_entry(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Entry:
    """An entry from ``ENTRY_COLUMNS``."""
    if isinstance(row[5], str) or isinstance(row[6], str):
        row = (*row[:5], kept(connection, row[5]), kept(connection, row[6]), *row[7:])
    return Entry._make(row)


def to_request(row: tuple[Any, ...]) -> RequestView:
    """A request's view from ``REQUEST_COLUMNS``."""
    request, run, path, prompt, schema, at, deadline, status = row
    return RequestView(
        id=request,
        run=run,
        path=path,
        prompt=prompt,
        answer_schema=json.loads(schema),
        at=at,
        deadline=deadline,
        status=status,
    )


def to_view(
    connection: sqlite3.Connection, row: tuple[Any, ...], requests: tuple[RequestView, ...], *, whole: bool
) -> RunView:
    """A run's view from ``VIEW_COLUMNS``."""
    run, kind, target, status, created, updated, given, session, key, parent, path, seq, value, error, wake, heads = row
    return RunView(
        id=run,
        kind=kind,
        target=target,
        status=status,
        created=created,
        updated=updated,
        input=_decoded(kept(connection, given)) if whole else None,
        session=session,
        key=key,
        parent=parent,
        path=path,
        seq=seq,
        result=_decoded(kept(connection, value)) if whole else None,
        error=_error(kept(connection, error)),
        wake_at=wake,
        headers=json.loads(heads),
        requests=requests,
    )


def _decoded(payload: bytes | None) -> Any:
    """What the JSON says; what a codec made unreadable stays ``bytes``, for the engine to decode."""
    if payload is None:
        return None
    try:
        return from_json(payload)
    except ValueError:
        return payload


def _error(payload: bytes | None) -> ErrorInfo | None:
    if payload is None:
        return None
    try:
        return ErrorInfo.model_validate_json(payload)
    except ValidationError:
        return ErrorInfo(type="unreadable", message="the error is stored in a form that only the engine's codecs read")
