"""What the programs here that send messages between processes have in common. Standard library only.

    python hosted_with_PEER.py host | serve ADDRESS | ask ADDRESS SECONDS | join ADDRESS COUNT

``host`` prints its address, ``serve`` a line when it is ready, ``join`` one when so many idle workers are there; these
end with their standard input. ``ask`` measures and prints the one line. Rates are by the clock: three processes take
turns, and their waits are what is measured.
"""

from __future__ import annotations

import asyncio
import gc
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

    _settle()
    waves = {"sequential": one_by_one, "at_once": at_once, "publish": published}
    found = {name: await rate(seconds, wave) for name, wave in waves.items()}
    took = sorted(await at_rate(found["at_once"] / 2, seconds, send))
    return {**found, "p99": took[int(0.99 * len(took))]}


async def rate(seconds: float, wave: Callable[[], Awaitable[int]]) -> float:
    """How many per second, over waves that say how many they were. One before is not counted."""
    await wave()
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        done += await wave()
    return done / passed


async def at_rate(rate: float, seconds: float, send: Callable[[], Awaitable[Any]]) -> list[float]:
    """So many requests per second, whatever becomes of those before; how long each took, from when it was due."""
    took: list[float] = []

    async def one(due: float) -> None:
        await send()
        took.append(time.perf_counter() - due)

    sent: list[asyncio.Task[None]] = []
    began = time.perf_counter()
    for number in range(max(1, int(rate * seconds))):
        due = began + number / rate
        if (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)  # noqa: TID251 - a load that comes by the clock
        sent.append(asyncio.create_task(one(due)))
    await asyncio.gather(*sent)
    return took


async def asked_to_end(line: str) -> None:
    """Print a line, and wait for the end of the standard input."""
    _settle()
    print(line, flush=True)
    await asyncio.to_thread(sys.stdin.read)


def _settle() -> None:
    """What stands by now is not collected, as in the commands of a host and a worker."""
    gc.collect()
    gc.freeze()
