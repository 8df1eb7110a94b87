"""Who is to be told what: the memory store's lists of runs that have something to do, by who holds them.

A claim looks at these lists only, so that runs that wait, however many, cost it nothing. What nobody holds lies on one
desk for each target, so that targets which it does not ask for cost it nothing, too. A list may name a run that has
nothing to do after all; it never lacks one that has. This module does not know what a run is for.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from perdure.testing.records import Run

_FEW: Final = 64
"""Alarms that are not worth tidying."""


@dataclass(slots=True, eq=False)
class _Alarm:
    """A timer on a desk; ``run`` is gone once it does not count any more."""

    when: float
    desk: Desk
    run: Run | None


@dataclass(eq=False)
class Desk:
    """What one worker holds; or what nobody holds, of one target.

    Attributes:
        held: The runs that a worker holds.
        ready: Those that may have something to do, or to be told of; and which came first, of all on all desks.
    """

    held: dict[str, Run] = field(default_factory=dict[str, "Run"])
    ready: dict[str, tuple[int, Run]] = field(default_factory=dict[str, "tuple[int, Run]"])
    _alarms: list[tuple[float, int, _Alarm]] = field(default_factory=list[tuple[float, int, _Alarm]])
    _stale: int = 0
    _order: Iterator[int] = field(default_factory=count)

    @property
    def alarms(self) -> int:
        """How many alarms it keeps, those included that do not count any more."""
        return len(self._alarms)

    def arm(self, run: Run) -> None:
        """Its timer is to be heard on this desk, and on no other."""
        alarm: _Alarm | None = run.alarm
        if alarm is not None and alarm.desk is self and alarm.when == run.wake_at:
            return
        disarm(run)
        if run.wake_at is not None:
            run.alarm = _Alarm(run.wake_at, self, run)
            heapq.heappush(self._alarms, (run.wake_at, next(self._order), run.alarm))

    def tidy(self) -> None:
        """One more alarm does not count: throw them out, when they are many."""
        self._stale += 1
        if self._stale > _FEW and self._stale * 2 > len(self._alarms):
            self._alarms = [item for item in self._alarms if item[2].run is not None]
            heapq.heapify(self._alarms)
            self._stale = 0

    def next_due(self) -> float | None:
        """When the next timer is due (UTC seconds)."""
        while self._alarms and self._alarms[0][2].run is None:
            heapq.heappop(self._alarms)
            self._stale -= 1
        return self._alarms[0][0] if self._alarms else None

    def first(self) -> tuple[bool, float] | None:
        """By what its next run to look at is compared with those of others: the ready ones, then the timers."""
        if self.ready:
            return False, next(iter(self.ready.values()))[0]
        when = self.next_due()
        return None if when is None else (True, when)

    def take(self, now: float) -> Run | None:
        """The next run to look at: first those that are ready, then those whose timer is due."""
        if self.ready:
            return self.ready.pop(next(iter(self.ready)))[1]
        when = self.next_due()
        if when is None or when > now:
            return None
        run = heapq.heappop(self._alarms)[2].run
        if run is not None:
            run.alarm = None
        return run


def disarm(run: Run) -> None:
    """Its timer is not to be heard."""
    alarm: _Alarm | None = run.alarm
    if alarm is not None:
        alarm.run = run.alarm = None
        alarm.desk.tidy()


def take(desks: Sequence[Desk], now: float) -> Run | None:
    """The next run to look at on any of these desks."""
    firsts = [(first, desk) for desk in desks if (first := desk.first()) is not None]
    return min(firsts, key=itemgetter(0))[1].take(now) if firsts else None


class Agenda:
    """The desks."""

    def __init__(self) -> None:
        self._desks: dict[str, Desk] = {}
        self._free: dict[str, Desk] = {}
        self._order = count()

    def desk(self, worker: str) -> Desk:
        """The desk of a worker."""
        return self._desks.setdefault(worker, Desk())

    def free(self, targets: frozenset[str] | None) -> list[Desk]:
        """The desks of the runs that nobody holds: of these targets, or all."""
        return [desk for target, desk in self._free.items() if targets is None or target in targets]

    def others(self, worker: str) -> list[tuple[str, Desk]]:
        """The desks of all other workers that hold something."""
        return [(name, desk) for name, desk in self._desks.items() if name != worker and desk.held]

    def hand(self, run: Run, worker: str | None) -> None:
        """Give the run to a worker, or to nobody."""
        if run.holder != worker:
            desk = self._of(run)
            desk.held.pop(run.id, None)
            desk.ready.pop(run.id, None)
            disarm(run)
            run.holder = worker
            if worker is not None:
                self.desk(worker).held[run.id] = run

    def put(self, run: Run) -> None:
        """There may be something new about the run."""
        desk = self._of(run)
        desk.ready.setdefault(run.id, (next(self._order), run))
        desk.arm(run)

    def arm(self, run: Run) -> None:
        """The run's timer is set, or off."""
        self._of(run).arm(run)

    def drop(self, run: Run) -> None:
        """There is nothing more to be done about the run."""
        self.hand(run, None)
        self._of(run).ready.pop(run.id, None)
        disarm(run)

    def _of(self, run: Run) -> Desk:
        """Where the run lies."""
        return self._free.setdefault(run.start.target, Desk()) if run.holder is None else self.desk(run.holder)
