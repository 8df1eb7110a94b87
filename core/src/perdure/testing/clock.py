"""A clock that moves when it is told to, so that a test of three days takes no time."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import Final


class ManualClock:
    """The ``Clock`` port over a time of the test's own.

    Args:
        start: Where it begins: UTC, in seconds since the epoch.
    """

    START: Final = 1_750_000_000.0

    def __init__(self, start: float = START) -> None:
        self._now = start
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """The time that was set last."""
        return self._now

    async def sleep_until(self, when: float) -> None:
        """Return once the clock was moved to ``when`` or later; at once if it stands there already."""
        if when <= self._now:
            return
        sleeper = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (when, next(self._order), sleeper))
        await sleeper

    def advance(self, seconds: float) -> None:
        """Move forward and wake, earliest first, everyone whose time has come. Raises ``ValueError`` below 0."""
        if seconds < 0:
            msg = f"advance({seconds!r}) would go back: use set() for a machine whose clock is put back"
            raise ValueError(msg)
        self.set(self._now + seconds)

    def set(self, when: float) -> None:
        """Put the clock to ``when``, backwards too, as an administrator may; wake whose time has come."""
        self._now = when
        while self._sleepers and (self._sleepers[0][0] <= when or self._sleepers[0][2].done()):
            _, _, sleeper = heapq.heappop(self._sleepers)
            if not sleeper.done():
                sleeper.set_result(None)

    @property
    def next_wake(self) -> float | None:
        """When the earliest sleeper wants to be woken, or ``None`` where nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None
