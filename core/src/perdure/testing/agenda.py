"""Who is to be told what: the memory store's lists of runs that have something to do, by who holds them.

A claim looks at these lists only, so that runs that wait, however many, cost it nothing. A list may name a run that has
nothing to do after all; it never lacks one that has. This module does not know what a run is for.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """What one worker holds; of one desk, what nobody holds.

    Attributes:
        held: The runs.
        ready: Those that may have something to do, or to be told of.
    """

    held: dict[str, Run] = field(default_factory=dict[str, "Run"])
    ready: dict[str, Run] = field(default_factory=dict[str, "Run"])
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

    def take(self, now: float) -> Run | None:
        """The next run to look at: first those that are ready, then those whose timer is due."""
        if self.ready:
            return self.ready.pop(next(iter(self.ready)))
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


class Agenda:
    """The desks."""

    def __init__(self) -> None:
        self._desks: dict[str | None, Desk] = {None: Desk()}

    def desk(self, worker: str | None) -> Desk:
        """The desk of a worker; of ``None``, that of the runs which nobody holds."""
        return self._desks.setdefault(worker, Desk())

    def others(self, worker: str) -> list[tuple[str, Desk]]:
        """The desks of all other workers that hold something."""
        desks = self._desks.items()
        return [(name, desk) for name, desk in desks if name is not None and name != worker and desk.held]

    def hand(self, run: Run, worker: str | None) -> None:
        """Give the run to a worker, or to nobody."""
        if run.holder != worker:
            desk = self.desk(run.holder)
            desk.held.pop(run.id, None)
            desk.ready.pop(run.id, None)
            disarm(run)
            run.holder = worker
            if worker is not None:
                self.desk(worker).held[run.id] = run

    def put(self, run: Run) -> None:
        """There may be something new about the run."""
        desk = self.desk(run.holder)
        desk.ready[run.id] = run
        desk.arm(run)

    def arm(self, run: Run) -> None:
        """The run's timer is set, or off."""
        self.desk(run.holder).arm(run)

    def drop(self, run: Run) -> None:
        """There is nothing more to be done about the run."""
        self.hand(run, None)
        self.desk(None).ready.pop(run.id, None)
        disarm(run)
