"""The time of the real world, as the ``Clock`` port; tests have ``perdure.testing.ManualClock``."""

from __future__ import annotations

import asyncio
import time

_LONGEST_SLEEP = 60.0  # seconds; bounds how late a timer is after the machine slept or its clock was set


class SystemClock:
    """UTC from the operating system."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    async def sleep_until(self, when: float) -> None:
        """Return at ``when`` or later; looks again at least once a minute, for clocks that are set."""
        while (left := when - time.time()) > 0:  # noqa: ASYNC110 - nothing tells of a clock that was set
            await asyncio.sleep(min(left, _LONGEST_SLEEP))  # noqa: TID251 - this is the clock
