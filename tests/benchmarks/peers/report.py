"""What each program here is called with, what it measures, and the one line that it prints. Standard library only.

    python with_PEER.py FOLDER SETTING SECONDS

The workload is the same for all: a workflow of ten steps, each of which returns a small object, its body trivial;
so many runs at once as the setting says, again and again until the seconds are over. One wave before that is not
counted: connections, caches and compiled statements are there when the clock starts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

STEPS = 10


class Task(NamedTuple):
    """What is to be measured.

    Attributes:
        folder: An empty one, for the peer's files.
        setting: One of the program's own settings, by name.
        seconds: How long, at least.
    """

    folder: Path
    setting: str
    seconds: float


def asked() -> Task:
    """The task, from the command line."""
    folder, setting, seconds = sys.argv[1:]
    return Task(Path(folder), setting, float(seconds))


def small(run: int, number: int) -> dict[str, Any]:
    """What a step returns."""
    return {"run": run, "step": number, "ok": True}


async def measure(task: Task, at_once: int, wave: Callable[[int], Awaitable[Any]], **detail: Any) -> None:
    """Run waves of so many runs at once; print what came of it."""
    await wave(min(at_once, 20))
    runs, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < task.seconds:
        await wave(at_once)
        runs += at_once
    print_line(runs, seconds, at_once=at_once, **detail)


def measure_blocking(task: Task, at_once: int, wave: Callable[[int], object], **detail: Any) -> None:
    """The same for a peer whose interface blocks."""

    async def wave_in_loop(n: int) -> None:
        wave(n)

    asyncio.run(measure(task, at_once, wave_in_loop, **detail))


def print_line(runs: int, seconds: float, **detail: Any) -> None:
    """The one line."""
    print(json.dumps({"runs": runs, "steps": runs * STEPS, "seconds": seconds, "detail": detail}))
