"""Ten thousand runs that wait for somebody: what they cost, and how soon they move again.

    python -m tests.benchmarks.parked park|revive FOLDER N

In processes of their own, as memory is a process's: one parks them, another opens the file again, as after a
restart, and answers some.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import children, memory, subject
from tests.benchmarks.figures import Figure, milliseconds, quantile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.figures import Scale

    from perdure import Run, Runtime

_TOGETHER: Final = 250
_MOST_BYTES: Final = 10_000_000
_MOST_READY: Final = 2.0
_MOST_RARE: Final = 200.0


def figures(scale: Scale) -> Iterator[Figure]:
    """See the module."""
    said = f"{scale.parked:,} parked runs"
    with tempfile.TemporaryDirectory() as folder:
        live = children.ours("parked", "park", folder, str(scale.parked))
        again = children.ours("parked", "revive", folder, str(scale.samples))
    with tempfile.TemporaryDirectory() as folder:
        traced = children.ours("parked", "trace", folder, str(scale.parked))
    yield Figure(f"{said}: tasks", str(live["tasks"]), "0", live["tasks"] == 0)
    yield Figure(f"{said}: threads", str(live["threads"]), "0", live["threads"] == 0)
    yield _bytes(f"{said}: memory, over the engine when it was empty (RSS)", live["resident"])
    yield Figure(f"{said}: … over one that had just been opened", f"{(live['fresh'] or 0) / 1e6:.1f} MB")
    if again["resident"] is not None and live["opened"] is not None:
        yield _bytes(f"{said}: memory, after a restart (RSS)", again["resident"] - live["opened"])
    yield Figure(f"{said}: of it in Python's objects, where they were parked", f"{traced['traced'] / 1e6:.1f} MB")
    kept = again["waiting"]
    yield Figure(f"{said}: still there after a restart", f"{kept:,}", f"{scale.parked:,}", kept == scale.parked)
    ready = again["ready"]
    yield Figure(f"{said}: restart to first result", f"{ready:.2f} s", f"≤ {_MOST_READY:g} s", ready <= _MOST_READY)
    yield Figure(f"{said}: answered to running, p50", f"{quantile(again['seconds'], 0.5) * 1000:.1f} ms")
    yield milliseconds(f"{said}: answered to running", again["seconds"], 0.99, _MOST_RARE)


def _bytes(what: str, count: int | None) -> Figure:
    if count is None:
        return Figure(what, "not told by this system")
    return Figure(what, f"{count / 1e6:.1f} MB", f"≤ {_MOST_BYTES / 1e6:g} MB", count <= _MOST_BYTES)


async def park(folder: Path, count: int) -> dict[str, Any]:
    """What so many parked runs cost in the engine that parked them, over the same engine with none.

    Before that it has worked: what is loaded when it is first used, and the caches of SQLite, no run is to blame for.
    """
    async with subject.opened(folder) as runtime:
        await _settle(runtime)
        fresh = memory.resident()
        for run in await _park(runtime, range(-min(count, _TOGETHER), 0)):
            await runtime.answer((await run.view()).requests[0].id, {"ok": True})
            await run.result(600)
        subject.STAMPS.clear()
        await _settle(runtime)
        empty, traced = memory.resident(), memory.traced()
        tasks, threads = await _tasks(runtime), threading.active_count()
        for first in range(0, count, _TOGETHER):
            await _park(runtime, range(first, min(first + _TOGETHER, count)))
        await _settle(runtime)
        resident = memory.resident()
        return {
            "tasks": await _tasks(runtime) - tasks,
            "threads": threading.active_count() - threads,
            "opened": fresh,
            "resident": None if resident is None or empty is None else resident - empty,
            "fresh": None if resident is None or fresh is None else resident - fresh,
            "traced": memory.traced() - traced,
        }


async def _park(runtime: Runtime, tokens: range) -> list[Run[bool]]:
    started = await asyncio.gather(*(runtime.start(subject.parked, token) for token in tokens))
    await asyncio.gather(*(run.wait(600, until_waiting=True) for run in started))
    return started


async def _tasks(runtime: Runtime) -> int:
    """How many there are while the engine rests: it has some more whenever it looks about."""
    counts: list[int] = []
    for _ in range(20):
        counts.append(len(asyncio.all_tasks()))
        await runtime.clock.sleep_until(runtime.clock.now() + 0.02)
    return min(counts)


async def _settle(runtime: Runtime) -> None:
    """Until whatever tidies up has done so."""
    await runtime.call(subject.steps, 1)
    await runtime.clock.sleep_until(runtime.clock.now() + 0.2)


async def revive(folder: Path, samples: int) -> dict[str, Any]:
    """How soon an engine over what is there is ready, and how soon single answered runs move."""
    began = time.perf_counter()
    async with subject.opened(folder) as runtime:
        await runtime.call(subject.stamped, -1)
        ready = time.perf_counter() - began
        await _settle(runtime)
        resident = memory.resident()
        requests = await runtime.query.requests(limit=1_000_000)
        seconds = [
            await answered_to_running(runtime, request.run, request.id)
            for request in random.sample(requests, min(samples, len(requests)))
        ]
    return {"ready": ready, "resident": resident, "waiting": len(requests), "seconds": seconds}


async def answered_to_running(runtime: Runtime, run: str, request: str) -> float:
    """Seconds from the answer to the next step's first line; returns when the run has ended."""
    token = int((await runtime.view(run)).input["token"])
    began = time.perf_counter()
    await runtime.answer(request, {"ok": True})
    (ran,) = await subject.stamps(token, 1)
    await runtime.handle(run).result(600)
    return ran - began


def main() -> None:
    """Do as the command line says."""
    what, folder, count = sys.argv[1:]
    if what == "trace":
        tracemalloc.start()
    work = revive if what == "revive" else park
    print(json.dumps(asyncio.run(work(Path(folder), int(count)))))


if __name__ == "__main__":
    main()
