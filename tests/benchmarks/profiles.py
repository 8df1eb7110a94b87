"""Where the time goes: samples of one of ours, by thread.

Samples and no trace: tracing makes what is called often look dear, and since Python 3.12 cProfile mixes the threads
up. A sample is due every millisecond of the process's own processor time, so that other guests of the machine do not
count; it is taken when the event loop's thread comes to it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks import subject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import FrameType

    from perdure import Runtime

_RUNS: Final = 1000
_STEPS: Final = 10
_WAVES: Final = 5
_ALONE: Final = 10_000
_LINES: Final = 25
_EVERY: Final = 0.001  # seconds


async def _many(runtime: Runtime) -> None:
    for _ in range(_WAVES):
        started = await asyncio.gather(*(runtime.start(subject.steps, _STEPS) for _ in range(_RUNS)))
        await asyncio.gather(*(run.result() for run in started))


async def _alone(runtime: Runtime) -> None:
    await runtime.call(subject.steps, _ALONE)


SUBJECTS: Final[dict[str, Callable[[Runtime], Awaitable[None]]]] = {"many": _many, "alone": _alone}
"""1,000 runs at once, again and again; one run of many steps."""


class Sampler:
    """Counts, by thread, in which function it is, and in which it is somewhere below."""

    def __init__(self) -> None:
        self.own: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.whole: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def __enter__(self) -> None:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, _EVERY, _EVERY)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _sample(self, _: int, interrupted: FrameType | None) -> None:
        frames = sys._current_frames()  # noqa: SLF001 - there is no other way to see the other threads
        for thread in threading.enumerate():
            frame = interrupted if thread is threading.main_thread() else frames.get(thread.ident or 0)
            names = list(_names(frame))
            if names:
                self.own[thread.name][names[0]] += 1
                self.whole[thread.name].update(set(names))


def _names(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_qualname}"
        frame = frame.f_back


def show(name: str) -> None:
    """Print in which functions each thread spends its time: itself, and with all that it calls."""
    sampler = Sampler()

    async def profiled() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with subject.opened(Path(folder)) as runtime:
                await runtime.call(subject.steps, 50)
                with sampler:
                    await SUBJECTS[name](runtime)

    asyncio.run(profiled())
    for thread, own in sampler.own.items():
        print(f"\n{thread}: {own.total():,} samples")
        print(f"{'itself':>8}  {'':60}  {'whole':>8}")
        left = own.most_common(_LINES)
        right = sampler.whole[thread].most_common(_LINES)
        for (one, count), (other, all_) in zip(left, right, strict=False):
            print(f"{count / own.total():8.1%}  {one:60.60}  {all_ / own.total():8.1%}  {other:60.60}")
