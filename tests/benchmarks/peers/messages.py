"""What the messaging programs here are called with, what they measure, and the one line that they print.

    python messages_with_PEER.py SECONDS

Standard library only. One agent answers a small dataclass with another; a hundred agents get what is published. Rates
are of requests and of deliveries, per second of processor time: both sides are one busy thread, and what else the
machine does is not theirs.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MANY = 100
AT_ONCE = 1000


@dataclass
class Ping:
    """Asked."""

    number: int


@dataclass
class Pong:
    """Answered."""

    number: int


@dataclass
class News:
    """Published."""

    number: int


class Counted:
    """What was delivered."""

    def __init__(self) -> None:
        self.count = 0
        self._wanted = 0
        self._there = asyncio.Event()

    def one(self) -> None:
        """One more."""
        self.count += 1
        if self.count >= self._wanted:
            self._there.set()

    async def reaches(self, wanted: int) -> None:
        """Wait until so many were."""
        self._wanted = wanted
        if self.count < wanted:
            self._there.clear()
            await self._there.wait()


async def rate(seconds: float, wave: Callable[[], Awaitable[int]]) -> float:
    """How many per second, over waves that say how many they were. One before is not counted."""
    await wave()
    done, began = 0, time.process_time()
    while (passed := time.process_time() - began) < seconds:
        done += await wave()
    return done / passed


async def requests(seconds: float, send: Callable[[], Awaitable[Any]]) -> dict[str, float]:
    """One after the other, and a thousand at once."""

    async def one_by_one() -> int:
        for _ in range(200):
            await send()
        return 200

    async def at_once() -> int:
        await asyncio.gather(*(send() for _ in range(AT_ONCE)))
        return AT_ONCE

    return {"sequential": await rate(seconds, one_by_one), "at_once": await rate(seconds, at_once)}


async def publications(seconds: float, publish: Callable[[], Awaitable[Any]], seen: Counted, subscribers: int) -> float:
    """Deliveries per second."""
    times = max(1, 1000 // subscribers)

    async def wave() -> int:
        wanted = seen.count + times * subscribers
        for _ in range(times):
            await publish()
        await seen.reaches(wanted)
        return times * subscribers

    return await rate(seconds, wave)


def seconds_asked() -> float:
    """For how long to measure each, from the command line."""
    return float(sys.argv[1])


def print_line(**measured: Any) -> None:
    """The one line."""
    print(json.dumps(measured))
