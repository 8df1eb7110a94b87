"""Where the time goes: a profile of one of ours."""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks import subject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from perdure import Runtime

_RUNS: Final = 1000
_STEPS: Final = 10
_ALONE: Final = 5000
_LINES: Final = 40


async def _many(runtime: Runtime) -> None:
    for _ in range(3):
        started = await asyncio.gather(*(runtime.start(subject.steps, _STEPS) for _ in range(_RUNS)))
        await asyncio.gather(*(run.result() for run in started))


async def _alone(runtime: Runtime) -> None:
    await runtime.call(subject.steps, _ALONE)


SUBJECTS: Final[dict[str, Callable[[Runtime], Awaitable[None]]]] = {"many": _many, "alone": _alone}
"""1,000 runs at once, three times; one run of many steps."""


def show(name: str) -> None:
    """Print where the event loop's thread spends its time; the store's writer has a thread of its own."""

    async def profiled() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with subject.opened(Path(folder)) as runtime:
                await runtime.call(subject.steps, 50)
                with profile:
                    await SUBJECTS[name](runtime)

    profile = cProfile.Profile()
    asyncio.run(profiled())
    pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(_LINES)
