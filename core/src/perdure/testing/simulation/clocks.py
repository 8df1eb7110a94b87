"""The time of a simulated world: one wall clock for all its processes, that may be put forward and back."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from perdure.testing.simulation.loop import SimulatedLoop

_GRAIN: Final = 1e-6
"""Seconds; a time in seconds since the epoch has no finer ones."""


class WallClock:
    """The ``Clock`` port over a loop's virtual time.

    Args:
        loop: Whose time goes by.
        start: UTC at its beginning, in seconds since the epoch.
    """

    START: Final = 1_750_000_000.0

    def __init__(self, loop: SimulatedLoop, start: float = START) -> None:
        self._loop = loop
        self._offset = start
        self._latest = start
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._alarm: asyncio.TimerHandle | None = None

    def now(self) -> float:
        """UTC, in seconds since the epoch."""
        return self._loop.time() + self._offset

    async def sleep_until(self, when: float) -> None:
        """Return once the clock shows ``when`` or later."""
        if when > self.now():
            sleeper = self._loop.create_future()
            heappush(self._sleepers, (when, next(self._order), sleeper))
            self._set_alarm()
            await sleeper

    def has_been(self, when: float) -> bool:
        """Whether it has shown that time, or a later one."""
        return max(self._latest, self.now()) >= when

    def jump(self, seconds: float) -> None:
        """Put it forward, or back if below 0."""
        self._latest = max(self._latest, self.now())
        self._offset += seconds
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._sleepers and self._sleepers[0][2].done():
            heappop(self._sleepers)
        if self._sleepers:
            when = max(self._sleepers[0][0] - self._offset, self._loop.time() + _GRAIN)
            # Outside: a process that is stopped must not stop the time of the others.
            self._alarm = self._loop.call_at(when, self._ring, context=self._loop.outside.context)

    def _ring(self) -> None:
        self._alarm = None
        now = self.now()
        while self._sleepers and self._sleepers[0][0] <= now:
            _, _, sleeper = heappop(self._sleepers)
            if not sleeper.done():
                sleeper.set_result(None)
        self._set_alarm()


class ProcessClock:
    """The wall clock as one process reads it; remembers what it was shown.

    Attributes:
        shown: Every time that it read.
    """

    def __init__(self, wall: WallClock) -> None:
        self.shown: set[float] = set()
        self._wall = wall

    def now(self) -> float:
        """UTC, in seconds since the epoch."""
        now = self._wall.now()
        self.shown.add(now)
        return now

    async def sleep_until(self, when: float) -> None:
        """As of the wall clock."""
        await self._wall.sleep_until(when)
