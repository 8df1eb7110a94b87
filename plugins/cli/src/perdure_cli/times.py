"""Times and durations as people type them: ``2h``, ``30d``, ``2026-01-31``, ``2026-01-31T12:00+02:00``."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from typing import Any

_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)")
_LONGEST: Final = timedelta(days=36525)


def duration_of(text: str) -> timedelta | None:
    """``90s``, ``15min``, ``2h``, ``1d12h``, ``4w``; ``None`` for anything else. ``m`` is minutes."""
    bare = text.strip().lower()
    parts = _PART.findall(bare)
    if not parts or _PART.sub("", bare).strip():
        return None
    try:
        found = timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
    except OverflowError:
        return None
    return found if found <= _LONGEST else None


class Span(click.ParamType[timedelta]):
    """A length of time, such as ``2h``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        found = value if isinstance(value, timedelta) else duration_of(value)
        if found is None:
            self.fail(f"{value!r} is no duration: expected such as 90s, 15min, 2h, 1d12h, 4w", param, ctx)
        return found


class Moment(click.ParamType[float]):
    """A point in time, in UTC seconds: a date or time of the local zone, or how long ago it was."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        ago = duration_of(value)
        if ago is not None:
            return time.time() - ago.total_seconds()
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            expected = "a time such as 2026-01-31 or 2026-01-31T09:30, or an age such as 2h or 30d"
            self.fail(f"{value!r} is no time: expected {expected}", param, ctx)


SPAN: Final = Span()
MOMENT: Final = Moment()
