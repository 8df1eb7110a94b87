"""Perdure with its SQLite store, as it comes: WAL, synchronous FULL, one writer thread. ``1000`` runs at once."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

from report import STEPS, asked, measure, small

from perdure import App, Context, Runtime, workflow
from perdure.config import PluginSettings, Settings


async def step(run: int, number: int) -> dict[str, Any]:
    """One of ten."""
    return small(run, number)


@workflow
async def steps(ctx: Context, run: int) -> int:
    """Ten, one after the other."""
    for number in range(STEPS):
        await ctx.step(step, run, number)
    return STEPS


async def main() -> None:
    """Measure."""
    task = asked()
    only = PluginSettings(allow=frozenset({"store-sqlite", "engine-embedded"}))
    settings = Settings(data=task.folder, plugins=only)
    async with Runtime.open(App("bench", workflows=[steps]), settings=settings) as runtime:

        async def wave(n: int) -> None:
            started = await asyncio.gather(*(runtime.start(steps, run) for run in range(n)))
            await asyncio.gather(*(run.result() for run in started))

        await measure(task, int(task.setting), wave, version=version("perdure"))


if __name__ == "__main__":
    asyncio.run(main())
