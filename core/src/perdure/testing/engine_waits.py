"""Waits of the engine's conformance kit: each looks until what it waits for is so, and gives up after a while."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from perdure.runs import Run
    from perdure.testing.harness import Harness


async def until_recorded(h: Harness, run: Run[Any], count: int) -> None:
    """Until the journal has so many entries."""

    async def recorded() -> bool:
        return len(await h.runtime.query.journal(run.id)) >= count

    await eventually(recorded, f"the journal of {run} did not reach {count} entries")


async def until_status(h: Harness, run: Run[Any], status: str) -> None:
    """Until the run has that status."""

    async def stands() -> bool:
        return (await h.view(run)).status == status

    await eventually(stands, f"{run} did not become {status}")


async def eventually(condition: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    """Until a condition holds that must be asked for; ``otherwise`` is the failure's text."""
    for _ in range(2000):
        if await condition():
            return
        await _tick()
    raise AssertionError(otherwise)


async def _tick() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_later(0.002, future.set_result, None)
    await future


async def until(condition: Callable[[], object]) -> None:
    """Until a condition holds."""
    for _ in range(5000):
        if condition():
            return
        await _tick()
    msg = "the condition did not come true"
    raise AssertionError(msg)
