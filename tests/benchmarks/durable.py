"""Durable steps on SQLite with ``synchronous=FULL``, through the whole engine, beside the disk's own rate."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel
from tests.benchmarks.figures import Figure

from perdure import App, Context, Runtime, workflow
from perdure.config import PluginSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_RUNS: Final = 1000
_STEPS: Final = 10
_ALONE: Final = 1000
_PARKED: Final = 1000
_LEAST_RATE: Final = 10_000
_LEAST_SHARE: Final = 0.5
_PAYLOAD: Final = b"x" * 100


class Answer(BaseModel):
    """What the parked runs wait for."""

    ok: bool


async def nothing(i: int) -> int:
    """A step that returns at once."""
    return i


@workflow
async def steps(ctx: Context, n: int) -> int:
    """Steps, one after the other."""
    for i in range(n):
        await ctx.step(nothing, i)
    return n


@workflow
async def parked(ctx: Context) -> bool:
    """Waits for a person."""
    return (await ctx.ask("Go on?", Answer)).ok


_APP: Final = App("bench", workflows=[steps, parked])
_ONLY: Final = PluginSettings(allow=frozenset({"store-sqlite", "engine-embedded"}))


def figures() -> Iterator[Figure]:
    """See the module; each rate three times, the best one counts, as the machine's other guests come and go."""
    alone = max(
        ((_one_row_commits(), asyncio.run(_rate(1, _ALONE))) for _ in range(3)), key=lambda pair: pair[1] / pair[0]
    )
    many = max(asyncio.run(_rate(_RUNS, _STEPS)) for _ in range(3))
    share = alone[1] / alone[0]
    yield Figure("one-row commits through a writer thread, FULL", f"{alone[0]:,.0f}/s")
    yield Figure("durable steps of one run", f"{alone[1]:,.0f}/s")
    yield Figure("… of that rate", f"{share:.0%}", f"≥ {_LEAST_SHARE:.0%}", share >= _LEAST_SHARE)
    yield Figure(
        f"durable steps, {_RUNS:,} runs at once", f"{many:,.0f}/s", f"≥ {_LEAST_RATE:,}/s", many >= _LEAST_RATE
    )
    tasks, threads = asyncio.run(_parked())
    yield Figure(f"tasks that {_PARKED:,} parked runs cost", str(tasks), "0", tasks == 0)
    yield Figure(f"threads that {_PARKED:,} parked runs cost", str(threads), "0", threads == 0)


def _one_row_commits() -> float:
    """Rows per second: each committed by itself by a thread that hands the result back to a waiting event loop."""
    with tempfile.TemporaryDirectory() as folder:
        jobs: queue.SimpleQueue[Future[None] | None] = queue.SimpleQueue()

        def write() -> None:
            connection = sqlite3.connect(Path(folder) / "raw.db", isolation_level=None)
            connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t (x BLOB)")
            while (job := jobs.get()) is not None:
                connection.execute("INSERT INTO t VALUES (?)", (_PAYLOAD,))
                job.set_result(None)
            connection.close()

        async def commit(n: int) -> None:
            for _ in range(n):
                job: Future[None] = Future()
                jobs.put(job)
                await asyncio.wrap_future(job)

        thread = threading.Thread(target=write)
        thread.start()
        asyncio.run(commit(50))
        began = time.perf_counter()
        asyncio.run(commit(_ALONE))
        took = time.perf_counter() - began
        jobs.put(None)
        thread.join()
        return _ALONE / took


async def _rate(runs: int, each: int) -> float:
    """Steps per second, from the first start to the last result."""
    with tempfile.TemporaryDirectory() as folder:
        async with Runtime.open(_APP, settings=Settings(data=Path(folder), plugins=_ONLY)) as runtime:
            await runtime.call(steps, 5)
            began = time.perf_counter()
            started = await asyncio.gather(*(runtime.start(steps, each) for _ in range(runs)))
            await asyncio.gather(*(run.result() for run in started))
            return runs * each / (time.perf_counter() - began)


async def _parked() -> tuple[int, int]:
    """How many more tasks and threads there are with many parked runs than with none."""
    with tempfile.TemporaryDirectory() as folder:
        async with Runtime.open(_APP, settings=Settings(data=Path(folder), plugins=_ONLY)) as runtime:
            await runtime.call(steps, 5)
            before = len(asyncio.all_tasks()), threading.active_count()
            started = [await runtime.start(parked) for _ in range(_PARKED)]
            for run in started:
                await run.wait(60, until_waiting=True)
            await runtime.call(steps, 5)  # until whatever tidies up has done so
            return len(asyncio.all_tasks()) - before[0], threading.active_count() - before[1]
