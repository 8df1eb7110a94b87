"""Timers by the ten thousand: each fires once, never early, and soon.

    python -m tests.benchmarks.timers RUNS SECONDS

The clock is the real one. That many runs sleep until moments spread evenly over so many seconds, which begin when
all of them are asleep.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import children, subject
from tests.benchmarks.figures import Figure, quantile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.figures import Scale

    from perdure import Runtime

_TOGETHER: Final = 500
_MARGIN: Final = 2.5  # as those that are asleep already cost something, and other guests of the machine come
_GRAIN: Final = 0.001  # of the two clocks against each other
_REST: Final = 1.0  # seconds
_MOST_LATE: Final = 60.0


def figures(scale: Scale) -> Iterator[Figure]:
    """See the module."""
    said = f"{scale.timers:,} timers due within {scale.minute:g} s"
    found = children.ours("timers", str(scale.timers), str(scale.minute))
    yield Figure(f"{said}: put to sleep", f"{found['rate']:,.0f}/s")
    once = found["once"]
    yield Figure(f"{said}: fired once", f"{once:,}", f"{scale.timers:,}", once == scale.timers)
    yield Figure(f"{said}: fired early", f"{found['early']:,}", "0", found["early"] == 0)
    late: list[float] = found["late"]
    worst = max(late, default=float("inf"))
    yield Figure(f"{said}: late by, p50", f"{quantile(late, 0.5):.2f} s")
    yield Figure(f"{said}: late by, at most", f"{worst:.2f} s", f"≤ {_MOST_LATE:g} s", worst <= _MOST_LATE)


async def measure(count: int, spread: float) -> dict[str, Any]:
    """How many fired once and early, how late each was in seconds, and how many are put to sleep per second."""
    with tempfile.TemporaryDirectory() as folder:
        async with subject.opened(Path(folder)) as runtime:
            now = runtime.clock.now
            tried = min(count, _TOGETHER)
            rate = tried / await _put_to_sleep(runtime, [now() + 3600] * tried, first_token=count)
            due = now() + count / rate * _MARGIN + 1
            whens = [due + spread * number / count for number in range(count)]
            took = await _put_to_sleep(runtime, whens)
            async with asyncio.timeout(due + spread + 2 * _MOST_LATE - now()):
                while len(subject.STAMPS) < count:
                    await runtime.clock.sleep_until(max(whens[-1], now() + 0.1))
            await runtime.clock.sleep_until(now() + _REST)  # a timer that fires twice would show
    offset = time.time() - time.perf_counter()
    late = [min(subject.STAMPS[token]) + offset - when for token, when in enumerate(whens)]
    return {
        "rate": count / took,
        "once": sum(len(subject.STAMPS[token]) == 1 for token in range(count)),
        "early": sum(seconds < -_GRAIN for seconds in late),
        "late": late,
    }


async def _put_to_sleep(runtime: Runtime, whens: list[float], *, first_token: int = 0) -> float:
    """Start a run for each moment; seconds that this took."""
    began = time.perf_counter()
    for first in range(0, len(whens), _TOGETHER):
        batch = enumerate(whens[first : first + _TOGETHER], first_token + first)
        await asyncio.gather(*(runtime.start(subject.sleeper, token, when) for token, when in batch))
    return time.perf_counter() - began


def main() -> None:
    """Do as the command line says."""
    count, spread = sys.argv[1:]
    print(json.dumps(asyncio.run(measure(int(count), float(spread)))))


if __name__ == "__main__":
    main()
