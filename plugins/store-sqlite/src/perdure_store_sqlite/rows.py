"""Messages as rows, and back.

What machines are rebuilt from is checked on its way (``Damage``); what people are shown is shown as far as it goes.
"""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from perdure.messages import Delivery, Entry, ErrorInfo, Progress, RequestView, RunView, Start
from perdure_store_sqlite.sums import Column, Damage, check, delivery_sum, entry_sum, start_sum

if TYPE_CHECKING:
    import sqlite3

LARGE: Final = 16 * 1024
"""Bytes above which a payload goes to ``blobs``."""

START_COLUMNS: Final = (
    "run, kind, target, input, at, session, key, parent, path, ancestry, headers, tags, version, due, generation,"
    " on_close"
)
ENTRY_COLUMNS: Final = "kind, path, at, name, fingerprint, value, error, attempt, started, role, source"
DELIVERY_COLUMNS: Final = "kind, key, at, value, error, name"
REQUEST_COLUMNS: Final = (
    "request, runs.run, requests.path, prompt, schema, requests.at, deadline, requests.status, asked"
)
VIEW_COLUMNS: Final = (
    "runs.run, kind, target, runs.status, at, max(updated, coalesce((SELECT j.at FROM journal j WHERE j.run = runs.id"
    " ORDER BY seq DESC LIMIT 1), 0)), input, session, key, parent, path,"
    " (SELECT coalesce(max(seq) + 1, 0) FROM journal j WHERE j.run = runs.id), value, error, wake_at, headers,"
    " tags, version, generation, due, progress, ancestry"
)

_UNREADABLE: Final = {"id": "?", "kind": "workflow", "target": "?", "status": "parked", "created": 0.0, "updated": 0.0}
"""What is shown where a column is damaged that a view cannot be without."""


def named(payload: bytes | None) -> Column:
    """What a payload column holds: the payload, or the name of its blob."""
    return payload if payload is None or len(payload) <= LARGE else sha256(payload).hexdigest()


def large_names(*payloads: bytes | None) -> list[str]:
    """The names of the blobs that these payloads need."""
    return [name for name in map(named, payloads) if isinstance(name, str)]


def keep(connection: sqlite3.Connection, payload: bytes | None) -> Column:
    """The same, and the blob is written."""
    column = named(payload)
    if isinstance(column, str):
        connection.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?)", (column, payload))
    return column


def kept(connection: sqlite3.Connection, column: Column) -> bytes | None:
    """The payload again. Raises ``Damage`` for a blob that is missing or is not what its name says."""
    if not isinstance(column, str):
        return column
    row = connection.execute("SELECT data FROM blobs WHERE digest = ?", (column,)).fetchone()
    if row is None:
        msg = f"the large value {column!r} is missing"
        raise Damage(msg)
    if sha256(row[0]).hexdigest() != column:
        msg = f"the large value {column!r} does not match its checksum"
        raise Damage(msg)
    return row[0]


def start_row(connection: sqlite3.Connection, start: Start) -> tuple[Any, ...]:
    """The values of ``START_COLUMNS``, and their sum."""
    ancestry = json.dumps(start.ancestry) if start.ancestry else "[]"
    headers = json.dumps(start.headers) if start.headers else "{}"
    tags = json.dumps(start.tags) if start.tags else "{}"
    row = (*start[:3], keep(connection, start.input), *start[4:9], ancestry, headers, tags, *start[12:16])
    return (*row, start_sum(row))


def to_start(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Start:
    """A start from ``START_COLUMNS`` and their sum. Raises ``Damage``."""
    check("what it was started with", row[16], start_sum, row[:16])
    payload = kept(connection, row[3])
    ancestry = () if row[9] == "[]" else tuple(json.loads(row[9]))
    labels: list[dict[str, str]] = [{} if text == "{}" else json.loads(text) for text in row[10:12]]
    fields: tuple[Any, ...] = (*row[:3], payload, *row[4:9], ancestry, *labels, *row[12:16], "join")
    return Start._make(fields)


def delivery_row(connection: sqlite3.Connection, run: int, delivery: Delivery) -> tuple[Any, ...]:
    """The values of ``DELIVERY_COLUMNS``, and their sum."""
    _, kind, key, at, value, error, name = delivery
    row = (kind, key, at, keep(connection, value), keep(connection, error), name)
    return (*row, delivery_sum(run, row))


def to_delivery(connection: sqlite3.Connection, run: str, id: int, row: tuple[Any, ...]) -> Delivery:
    """A delivery from ``DELIVERY_COLUMNS`` and their sum. Raises ``Damage``."""
    check(f"delivery {row[1]!r} in its inbox", row[6], delivery_sum, id, row[:6])
    kind, key, at, value, error, name = row[:6]
    return Delivery(run, kind, key, at, kept(connection, value), kept(connection, error), name)


def large(entry: Entry) -> bool:
    """Whether something of it goes to ``blobs``."""
    value, error = entry.value, entry.error
    return (value is not None and len(value) > LARGE) or (error is not None and len(error) > LARGE)


def entry_row(connection: sqlite3.Connection, entry: Entry) -> tuple[Any, ...]:
    """The values of ``ENTRY_COLUMNS`` for an entry with something large in it; any other is its own row."""
    return (*entry[:5], keep(connection, entry.value), keep(connection, entry.error), *entry[7:])


def to_entry(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Entry:
    """An entry from ``ENTRY_COLUMNS``. Raises ``Damage`` for a large value that is none any more."""
    if isinstance(row[5], str) or isinstance(row[6], str):
        row = (*row[:5], kept(connection, row[5]), kept(connection, row[6]), *row[7:])
    return Entry._make(row)


def checked_entry(connection: sqlite3.Connection, run: int, seq: int, row: tuple[Any, ...]) -> Entry:
    """The entry that should be number ``seq``, from its number, ``ENTRY_COLUMNS`` and their sum. Raises ``Damage``."""
    if row[0] != seq:
        msg = f"entry {seq} of its journal is missing"
        raise Damage(msg)
    check(f"entry {seq} of its journal", row[12], entry_sum, run, seq, row[1:12])
    return to_entry(connection, row[1:12])


def shown_entry(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Entry:
    """The same for people: as far as it is there."""
    try:
        return to_entry(connection, row)
    except Damage as damage:
        return Entry._make((*row[:5], None, _damaged(damage).model_dump_json().encode(), *row[7:]))


def to_request(row: tuple[Any, ...]) -> RequestView:
    """A request's view from ``REQUEST_COLUMNS``."""
    request, run, path, prompt, schema, at, deadline, status, to = row
    return RequestView(
        id=request,
        run=run,
        path=path,
        prompt=prompt,
        answer_schema=json.loads(schema),
        at=at,
        deadline=deadline,
        status=status,
        to=to,
    )


def to_view(
    connection: sqlite3.Connection, row: tuple[Any, ...], requests: tuple[RequestView, ...], *, whole: bool
) -> RunView:
    """A run's view from ``VIEW_COLUMNS``: of what is damaged, as much as can be shown."""
    run, kind, target, status, created, updated, given, session, key, parent, path, seq, value, error, wake = row[:15]
    headers, tags, version, generation, due, progress, ancestry = row[15:]
    fields = {
        "id": run,
        "kind": kind,
        "target": target,
        "status": status,
        "created": created,
        "updated": updated,
        "input": _shown(connection, given) if whole else None,
        "session": session,
        "key": key,
        "parent": parent,
        "path": path,
        "ancestry": _names(ancestry),
        "seq": seq,
        "result": _shown(connection, value) if whole else None,
        "error": _error(connection, error),
        "wake_at": wake,
        "headers": _labels(headers),
        "tags": _labels(tags),
        "version": version,
        "generation": generation,
        "due": due,
        "progress": _progress(progress),
        "requests": requests,
    }
    try:
        return RunView.model_validate(fields)
    except ValidationError as error:
        misfits = {str(item["loc"][0]) for item in error.errors()}
        sound = {name: value for name, value in fields.items() if name not in misfits}
        return RunView.model_validate({**_UNREADABLE, **sound, "error": _damaged(error)})


def _shown(connection: sqlite3.Connection, column: Column) -> Any:
    """What the JSON says; what is none stays ``bytes``, and what is damaged is said to be so."""
    try:
        payload = kept(connection, column)
    except Damage as damage:
        return str(_damaged(damage))
    with suppress(ValueError):
        return None if payload is None else from_json(payload)
    return payload


def _error(connection: sqlite3.Connection, column: Column) -> ErrorInfo | None:
    try:
        payload = kept(connection, column)
        return None if payload is None else ErrorInfo.model_validate_json(payload)
    except (Damage, ValidationError) as damage:
        return _damaged(damage)


def _progress(payload: bytes | None) -> Progress | None:
    with suppress(ValidationError):
        return None if payload is None else Progress.model_validate_json(payload)
    return None


def _labels(text: str) -> dict[str, str]:
    with suppress(ValueError):
        return json.loads(text)
    return {}


def _names(text: str) -> tuple[str, ...]:
    with suppress(ValueError):
        return tuple(json.loads(text))
    return ()


def _damaged(error: Exception) -> ErrorInfo:
    return ErrorInfo(type="perdure.errors.DataCorrupted", message=f"what the store keeps here is damaged: {error}")
