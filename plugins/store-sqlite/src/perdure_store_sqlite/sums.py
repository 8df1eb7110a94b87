"""Checksums: the CRC-32 of a row's content, by which a damaged row is known before anybody acts on it.

A large value stands in its row as its name, the SHA-256 by which it is checked itself. The run's and the row's number
are part of the sum, so that a sound row in the wrong place is damage too.
"""

from __future__ import annotations

import struct
from math import nan
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from perdure.errors import DataCorrupted

if TYPE_CHECKING:
    from collections.abc import Callable

_ENTRY: Final = struct.Struct("<qqddqB").pack
_START: Final = struct.Struct("<dqdq").pack
_INBOX: Final = struct.Struct("<qdB").pack
_PLACE: Final = struct.Struct("<qq").pack

_NO_ERROR: Final = 2

Column = bytes | str | None
"""Of a payload: itself, its name among the large ones, or nothing."""


class Damage(DataCorrupted):
    """What is kept is not what was written; the message says which part."""


def entry_sum(run: int, seq: int, row: tuple[Any, ...]) -> int:
    """Of a journal's row, from its ``ENTRY_COLUMNS``."""
    kind, path, at, name, fingerprint, value, error, attempt, started, role, source = row
    text = f"{kind}\0{path}\0{name}\0{fingerprint}\0{role}\0{source}\0".encode()
    if error is None and type(value) is bytes:  # nearly always: one pass over the whole is twice as fast
        return crc32(b"".join((_ENTRY(run, seq, at, started, attempt, _NO_ERROR), text, value)))
    nothing = (value is None) + _NO_ERROR * (error is None)
    return _with(error, _with(value, crc32(_ENTRY(run, seq, at, started, attempt, nothing) + text)))


def start_sum(row: tuple[Any, ...]) -> int:
    """Of what a run was started with, from its ``START_COLUMNS``."""
    texts = [*row[:3], *row[5:12], row[15]]
    total = crc32("\0".join(["\1" if text is None else text for text in texts]).encode())
    total = crc32(_START(row[4], row[12], nan if row[13] is None else row[13], row[14]), total)
    return _with(row[3], total)


def delivery_sum(run: int, row: tuple[Any, ...]) -> int:
    """Of an inbox's row, from its ``DELIVERY_COLUMNS``."""
    kind, key, at, value, error, name = row
    total = crc32(_INBOX(run, at, (value is None) + 2 * (error is None)))
    return _with(error, _with(value, crc32(f"{kind}\0{key}\0{name}".encode(), total)))


def said_sum(session: int, run: int, column: Column) -> int:
    """Of an entry of a session's conversation, which is said in a run; or, with no run, of the session's state."""
    return _with(column, crc32(_PLACE(session, run)))


def check(what: str, kept: int, compute: Callable[..., int], *row: Any) -> None:
    """Raises ``Damage`` if a row does not match what was kept; ``what`` names it."""
    try:
        if compute(*row) == kept:
            return
    except (TypeError, ValueError, AttributeError, struct.error):
        pass  # a column is not even of its type
    msg = f"{what} does not match its checksum"
    raise Damage(msg)


def _with(column: Column, total: int) -> int:
    if column is None:
        return total
    return crc32(column.encode() if isinstance(column, str) else column, total)
