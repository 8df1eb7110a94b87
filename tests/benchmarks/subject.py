"""What is measured: an app, how it is opened, and what its steps leave behind for those who hold the watch."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from perdure import App, Context, Runtime, workflow
from perdure.config import PluginSettings, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from perdure.ports import DurableStore

STAMPS: Final[defaultdict[int, list[float]]] = defaultdict(list)
"""When the step ``stamp`` ran, by its token, on the process's own clock."""
_awaited: dict[int, tuple[int, asyncio.Future[None]]] = {}


class Answer(BaseModel):
    """What the parked runs wait for."""

    ok: bool


async def small(run: int, number: int) -> dict[str, Any]:
    """A step that returns a small object at once."""
    return {"run": run, "step": number, "ok": True}


async def stamp(token: int) -> None:
    """A step that says when it ran."""
    STAMPS[token].append(time.perf_counter())
    count, told = _awaited.get(token, (0, None))
    if told is not None and not told.done() and len(STAMPS[token]) >= count:
        told.set_result(None)


async def stamps(token: int, count: int) -> list[float]:
    """Take a token's stamps, as soon as there are so many. Raises ``TimeoutError`` if they do not come."""
    if len(STAMPS[token]) < count:
        _awaited[token] = count, asyncio.get_running_loop().create_future()
        await asyncio.wait_for(_awaited[token][1], 120)
        del _awaited[token]
    return STAMPS.pop(token)


@workflow
async def steps(ctx: Context, n: int) -> int:
    """Steps, one after the other."""
    for number in range(n):
        await ctx.step(small, 0, number)
    return n


@workflow
async def stamped(ctx: Context, token: int) -> int:
    """One step, which says when it ran."""
    await ctx.step(stamp, token)
    return token


@workflow
async def parked(ctx: Context, token: int) -> bool:
    """A step; waits for a person; a step, which says when it ran."""
    await ctx.step(small, 0, 0)
    answer = await ctx.ask("Go on?", Answer)
    await ctx.step(stamp, token)
    return answer.ok


@workflow
async def sleeper(ctx: Context, token: int, when: float) -> int:
    """Sleeps until then; a step, which says when it ran."""
    await ctx.sleep_until(datetime.fromtimestamp(when, UTC))
    await ctx.step(stamp, token)
    return token


@workflow
async def in_windows(ctx: Context, before: int, windows: int, size: int) -> int:
    """Steps; then so many windows of steps, each of which waits to be let go and is stamped at both ends."""
    for number in range(before):
        await ctx.step(small, 0, number)
    for _ in range(windows):
        await ctx.ask("Go on?", Answer)
        await ctx.step(stamp, before)
        for number in range(size):
            await ctx.step(small, 0, number)
        await ctx.step(stamp, before)
    return windows


APP: Final = App("bench", workflows=[steps, stamped, parked, sleeper, in_windows])
_ONLY: Final = PluginSettings(allow=frozenset({"store-sqlite", "engine-embedded"}))


@asynccontextmanager
async def opened(folder: Path, store: DurableStore | None = None) -> AsyncGenerator[Runtime]:
    """The app over SQLite in that folder, nothing else: ``synchronous`` is FULL unless somebody says otherwise."""
    async with Runtime.open(APP, settings=Settings(data=folder, plugins=_ONLY), store=store) as runtime:
        yield runtime
