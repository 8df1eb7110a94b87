"""Deadlines of many waits with one sleeper, through the ``Clock`` port."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.ports import Clock


class Deadlines:
    """Ends waits that take too long.

    Args:
        clock: The time that deadlines are given in.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, asyncio.Future[Any], Callable[[], Exception | None]]] = []
        self._order = count()
        self._sleeper: asyncio.Task[None] | None = None
        self._until = 0.0
        self._trimmed = 1000

    def watch(self, future: asyncio.Future[Any], when: float, error: Callable[[], Exception | None]) -> None:
        """End the wait for this future at that time (UTC seconds), unless it is done before.

        ``error`` is asked then; if it says ``None``, the wait goes on.
        """
        if len(self._heap) >= self._trimmed:
            self._heap = [each for each in self._heap if not each[2].done()]
            heapq.heapify(self._heap)
            self._trimmed = max(1000, 2 * len(self._heap))
        heapq.heappush(self._heap, (when, next(self._order), future, error))
        if self._sleeper is None or when < self._until:
            if self._sleeper is not None:
                self._sleeper.cancel()
            self._until = when
            self._sleeper = asyncio.create_task(self._sleep())

    async def stop(self) -> None:
        """Watch no more."""
        self._heap.clear()
        if self._sleeper is not None:
            self._sleeper.cancel()
            await asyncio.wait({self._sleeper})
            self._sleeper = None

    async def _sleep(self) -> None:
        while self._heap:
            when, _, future, _ = self._heap[0]
            if not future.done() and when > self._clock.now():
                self._until = when
                await self._clock.sleep_until(when)
                continue
            _, _, future, error = heapq.heappop(self._heap)
            if not future.done() and (ended := error()) is not None:
                future.set_exception(ended)
        self._sleeper = None
