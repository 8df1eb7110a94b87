"""One run at a time: what its steps cost, how soon it begins, whether it slows down as it grows."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks import subject
from tests.benchmarks.disk import WriterThread
from tests.benchmarks.figures import Figure, milliseconds, quantile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.figures import Scale

    from perdure import Run, Runtime

_LEAST_SHARE: Final = 0.6
_LEAST_KEPT: Final = 0.9
_YOUNG: Final = 100
_MOST_TYPICAL: Final = 3.0
_MOST_RARE: Final = 15.0


def sequential(scale: Scale) -> Iterator[Figure]:
    """Steps per second of one run, in turns with one-row commits through a thread: disks have moods."""
    turns, share = (2, 50) if scale.name == "short" else (4 * scale.rounds, 500)
    raw, steps = asyncio.run(_in_turns(turns, share))
    kept = steps / raw
    yield Figure("SQLite FULL: one-row commits through a writer thread", f"{raw:,.0f}/s")
    yield Figure("one run, step after step", f"{steps:,.0f}/s")
    yield Figure("… of the one-row commits", f"{kept:.0%}", f"≥ {_LEAST_SHARE:.0%}", kept >= _LEAST_SHARE)


async def _in_turns(turns: int, share: int) -> tuple[float, float]:
    seconds = [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        async with subject.opened(Path(folder)) as runtime:
            raw = WriterThread()
            await raw.write(50)
            await runtime.call(subject.steps, 50)
            for _ in range(turns):
                for which, work in enumerate((raw.write(share), runtime.call(subject.steps, share))):
                    began = time.perf_counter()
                    await work
                    seconds[which] += time.perf_counter() - began
            raw.end()
    return turns * share / seconds[0], turns * share / seconds[1]


def latency(scale: Scale) -> Iterator[Figure]:
    """From ``start`` to the first line of the first step, on an engine that has nothing else to do."""
    seconds = asyncio.run(_first_steps(scale.samples))
    yield milliseconds("idle engine: start to first step", seconds, 0.5, _MOST_TYPICAL)
    yield milliseconds("idle engine: start to first step", seconds, 0.99, _MOST_RARE)


async def _first_steps(samples: int) -> list[float]:
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        async with subject.opened(Path(folder)) as runtime:
            await runtime.call(subject.steps, 5)
            for token in range(samples):
                # Long enough that the engine is idle, of uneven length so as not to march in step with its looks.
                await runtime.clock.sleep_until(runtime.clock.now() + (10 + token * 37 % 50) / 1000)
                began = time.perf_counter()
                await runtime.call(subject.stamped, token)
                seconds.append((await subject.stamps(token, 1))[0] - began)
    return seconds


def length(scale: Scale) -> Iterator[Figure]:
    """The rate of an old run beside that of young ones, in turns.

    What disturbs a window makes it slower and never faster: so the quicker quarter of each counts.
    """
    windows, size = (2, 20) if scale.name == "short" else (40, 200)
    pairs = asyncio.run(_windows(scale.steps, windows, size))
    old, young = (size / quantile(seconds, 0.25) for seconds in zip(*pairs, strict=True))
    kept = old / young
    yield Figure(f"one run at step {_YOUNG:,}", f"{young:,.0f}/s")
    yield Figure(f"one run at step {scale.steps:,}", f"{old:,.0f}/s")
    yield Figure(f"… of the rate at step {_YOUNG:,}", f"{kept:.2f}", f"≥ {_LEAST_KEPT}", kept >= _LEAST_KEPT)


async def _windows(before: int, windows: int, size: int) -> list[tuple[float, float]]:
    """Seconds of each window of an old run and of a young one, side by side; the engine has nothing else to do."""
    pairs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        async with subject.opened(Path(folder)) as runtime:
            old = await runtime.start(subject.in_windows, before, windows, size)
            for turn in range(windows):
                young = await runtime.start(subject.in_windows, _YOUNG, 1, size)
                order = [(young, _YOUNG), (old, before)] if turn % 2 else [(old, before), (young, _YOUNG)]
                took = {token: await _window(runtime, run, token) for run, token in order}
                pairs.append((took[before], took[_YOUNG]))
    return pairs


async def _window(runtime: Runtime, run: Run[int], token: int) -> float:
    view = await run.wait(600, until_waiting=True)
    await runtime.answer(view.requests[0].id, {"ok": True})
    began, ended = await subject.stamps(token, 2)
    return ended - began
