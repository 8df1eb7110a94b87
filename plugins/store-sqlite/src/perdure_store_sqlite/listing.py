"""Which runs a filter means, newest first or, for those that have finished, oldest first: never by a look at all runs.

Each list goes along an index that is in the order of the answer: those of one parent, of one tag, or of one status
(and target) after the other, merged. Where several would do, the one with fewer rows is taken, counted up to a bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from perdure.messages import TERMINAL, Status

if TYPE_CHECKING:
    import sqlite3

    from perdure.messages import RunFilter

# ruff: noqa: S608 - all of it is made of our own constants

_ALL: Final[tuple[str, ...]] = get_args(Status)
_MANY: Final = 2_000
"""Rows beyond which one index is as good as another."""
_WRITTEN: Final = (
    "max(updated, coalesce((SELECT j.at FROM journal AS j WHERE j.run = runs.id ORDER BY j.seq DESC LIMIT 1), 0))"
)
_ENDED: Final = "live = 0 AND NOT EXISTS (SELECT 1 FROM runs AS p WHERE p.run = runs.parent AND p.live = 1)"
_HAS_TAG: Final = (
    "EXISTS (SELECT 1 FROM run_tags AS h WHERE h.tag = ? AND h.value = ? AND h.at = runs.at AND h.run = runs.id)"
)


class Terms(NamedTuple):
    """A condition and its parameters."""

    sql: str
    parameters: tuple[Any, ...] = ()

    def __add__(self, other: object) -> Terms:
        if not isinstance(other, Terms):
            return NotImplemented
        return Terms(f"{self.sql} AND {other.sql}", (*self.parameters, *other.parameters))


class Way(NamedTuple):
    """A way through the runs: where it leads, and the columns by which its index is ordered."""

    source: str
    terms: Terms
    at: str = "runs.at"
    id: str = "runs.id"


def newest(connection: sqlite3.Connection, which: RunFilter, before: tuple[float, int] | None, limit: int) -> list[int]:
    """The numbers of the runs of one page."""
    meant = _meant(which)
    found: list[tuple[float, int]] = []
    for way in _choose(connection, which, which.status or _ALL):
        terms = way.terms + _between(which, before, way) + meant
        sql = f"SELECT {way.at}, {way.id} FROM {way.source} WHERE {terms.sql} ORDER BY 1 DESC, 2 DESC LIMIT ?"
        found += connection.execute(sql, (*terms.parameters, limit)).fetchall()
    return [id for _, id in sorted(found, reverse=True)[: max(limit, 0)]]


def ended(connection: sqlite3.Connection, which: RunFilter, limit: int) -> list[int]:
    """The numbers of finished runs that may be forgotten."""
    meant = Terms(_ENDED) + _meant(which)
    statuses = sorted(TERMINAL.intersection(which.status or _ALL))
    found: list[int] = []
    for way in _choose(connection, which, statuses, ended=True):
        terms = way.terms + _between(which, None, way) + meant
        sql = f"SELECT runs.id FROM {way.source} WHERE {terms.sql} LIMIT ?"
        found += [id for (id,) in connection.execute(sql, (*terms.parameters, limit - len(found)))]
        if len(found) >= limit:
            break
    return found


def is_ended(connection: sqlite3.Connection, which: RunFilter, id: int) -> bool:
    """Whether this run is one of those."""
    way = Way("runs", Terms("runs.id = ?", (id,)))
    terms = way.terms + _between(which, None, way) + Terms(_ENDED) + _meant(which)
    return connection.execute(f"SELECT 1 FROM runs WHERE {terms.sql}", terms.parameters).fetchone() is not None


def _choose(
    connection: sqlite3.Connection, which: RunFilter, statuses: tuple[str, ...] | list[str], *, ended: bool = False
) -> list[Way]:
    if which.parent is not None:
        return [Way("runs INDEXED BY runs_called", Terms("runs.parent = ?", (which.parent,)))]
    by_status = [_by_status(which, status, ended=ended) for status in statuses]
    by_tag = [_by_tag(tag, value) for tag, value in which.tags.items()]
    if not by_tag:
        return by_status
    narrow = which.target is not None or bool(which.status)
    choices = [[way] for way in by_tag] + ([by_status] if narrow else [])
    if len(choices) == 1:
        return choices[0]
    return min(choices, key=lambda ways: sum(_count(connection, which, way) for way in ways))


def _by_status(which: RunFilter, status: str, *, ended: bool) -> Way:
    terms = Terms("runs.status = ?", (status,))
    if which.target is not None:
        return Way("runs INDEXED BY runs_target", Terms("runs.target = ?", (which.target,)) + terms)
    if ended and which.idle_since is not None:
        idle = Terms("runs.live = 0 AND runs.updated < ?", (which.idle_since,))
        return Way("runs INDEXED BY runs_ended", terms + idle)
    return Way("runs INDEXED BY runs_status", terms)


def _by_tag(tag: str, value: str) -> Way:
    terms = Terms("t.tag = ? AND t.value = ?", (tag, value))
    return Way("run_tags AS t CROSS JOIN runs ON runs.id = t.run", terms, "t.at", "t.run")


def _count(connection: sqlite3.Connection, which: RunFilter, way: Way) -> int:
    terms = way.terms + _between(which, None, way)
    source = "run_tags AS t" if way.at == "t.at" else way.source
    sql = f"SELECT count(*) FROM (SELECT 1 FROM {source} WHERE {terms.sql} LIMIT {_MANY})"
    return connection.execute(sql, terms.parameters).fetchone()[0]


def _between(which: RunFilter, before: tuple[float, int] | None, way: Way) -> Terms:
    terms = Terms("1")
    if which.since is not None:
        terms += Terms(f"{way.at} >= ?", (which.since,))
    if which.until is not None:
        terms += Terms(f"{way.at} < ?", (which.until,))
    if which.idle_since is not None:  # nothing is written about a run before it is accepted
        terms += Terms(f"{way.at} < ?", (which.idle_since,))
    if before is not None:
        at, id = before
        terms += Terms(f"{way.at} <= ? AND ({way.at} < ? OR {way.id} < ?)", (at, at, id))
    return terms


def _meant(which: RunFilter) -> Terms:
    """What no way sees to by itself."""
    terms = Terms("1")
    if which.target is not None:
        terms += Terms("runs.target = ?", (which.target,))
    if which.parent is not None:
        terms += Terms("runs.parent = ?", (which.parent,))
    if which.status:
        terms += Terms(f"runs.status IN ({', '.join('?' * len(which.status))})", which.status)
    for tag, value in which.tags.items():
        terms += Terms(_HAS_TAG, (tag, value))
    if which.idle_since is not None:
        terms += Terms(f"{_WRITTEN} < ?", (which.idle_since,))
    return terms
