"""What the programs here that send messages between processes have in common. Standard library only.

    python hosted_with_PEER.py host | serve ADDRESS | ask ADDRESS SECONDS

``host`` prints its address, ``serve`` a line when it is ready; both end with their standard input. ``ask`` measures and
prints the one line. Rates are by the clock: three processes take turns, and their waits are what is measured.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

from messages import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TEXT = "x" * 100


async def measured(
    seconds: float,
    send: Callable[[], Awaitable[Any]],
    publish: Callable[[], Awaitable[Any]],
    count: Callable[[], Awaitable[int]],
) -> dict[str, float]:
    """Requests one after the other and a thousand at once, and publications until they have been handled."""

    async def one_by_one() -> int:
        for _ in range(50):
            await send()
        return 50

    async def at_once() -> int:
        await asyncio.gather(*(send() for _ in range(AT_ONCE)))
        return AT_ONCE

    async def published() -> int:
        wanted = await count() + AT_ONCE
        await asyncio.gather(*(publish() for _ in range(AT_ONCE)))
        while await count() < wanted:
            pass
        return AT_ONCE

    waves = {"sequential": one_by_one, "at_once": at_once, "publish": published}
    return {name: await rate(seconds, wave) for name, wave in waves.items()}


async def rate(seconds: float, wave: Callable[[], Awaitable[int]]) -> float:
    """How many per second, over waves that say how many they were. One before is not counted."""
    await wave()
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        done += await wave()
    return done / passed


async def asked_to_end(line: str) -> None:
    """Print a line, and wait for the end of the standard input."""
    print(line, flush=True)
    await asyncio.to_thread(sys.stdin.read)
