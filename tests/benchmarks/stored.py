"""A million runs on disk: how soon an engine is ready, lists a page, goes on with one of them.

    python -m tests.benchmarks.stored FOLDER RUNS SAMPLES

In a process of its own, as after a restart, over a file that the system does not hold in its cache any more.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import children, subject
from tests.benchmarks.copies import WAITING, Copies, born, run_id, tags
from tests.benchmarks.figures import Figure, milliseconds, quantile
from tests.benchmarks.parked import answered_to_running

from perdure.messages import RunFilter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.figures import Scale

    from perdure import Runtime

_MOST_READY: Final = 5.0
_MOST_RARE: Final = 50.0
_PAGE: Final = 50


def figures(scale: Scale) -> Iterator[Figure]:
    """See the module."""
    said = f"{scale.stored:,} runs on disk"
    made = Copies(scale.cache, scale.stored)
    size = sum(path.stat().st_size for path in made.folder.iterdir())
    how = f"made in {made.seconds:.0f} s" if made.seconds else "kept from before"
    yield Figure(f"{said}: the file ({how})", f"{size / 1e6:,.0f} MB")
    found = children.ours("stored", str(made.folder), str(scale.stored), str(scale.samples))
    ready = found["ready"]
    yield Figure(f"{said}: start to first result", f"{ready:.2f} s", f"≤ {_MOST_READY:g} s", ready <= _MOST_READY)
    pages: dict[str, list[float]] = found["pages"]
    slowest = max(pages, key=lambda name: quantile(pages[name], 0.99))
    yield milliseconds(f"{said}: a page, the slowest kind ({slowest})", pages[slowest], 0.99, _MOST_RARE)
    yield Figure(f"{said}: answered to running, p50", f"{quantile(found['seconds'], 0.5) * 1000:.1f} ms")
    yield milliseconds(f"{said}: answered to running", found["seconds"], 0.99, _MOST_RARE)


async def measure(folder: Path, count: int, samples: int) -> dict[str, Any]:
    """All of it, in seconds."""
    _forget(folder)
    began = time.perf_counter()
    async with subject.opened(folder) as runtime:
        await runtime.call(subject.stamped, -1)
        ready = time.perf_counter() - began
        pages = await _pages(runtime, count, max(10, samples // 10))
        seconds = [await _resumed(runtime, count) for _ in range(samples)]
    return {"ready": ready, "pages": pages, "seconds": seconds}


def _forget(folder: Path) -> None:
    """Have the system drop the file from its cache, where it does such things."""
    if hasattr(os, "posix_fadvise"):
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def _pages(runtime: Runtime, count: int, samples: int) -> dict[str, list[float]]:
    """Seconds of each page, by the kind of list: from its beginning, or from anywhere on."""
    target = runtime.catalog.target(subject.parked)
    first, last = born(0, count), born(count, count)
    kinds: dict[str, tuple[RunFilter, bool]] = {
        "newest": (RunFilter(), False),
        "all": (RunFilter(), True),
        "completed": (RunFilter(status=("completed",)), True),
        "waiting": (RunFilter(status=("waiting",)), False),
        "failed: none": (RunFilter(status=("failed",)), False),
        "of a workflow": (RunFilter(target=target), True),
        "of a workflow, failed: none": (RunFilter(target=target, status=("failed",)), False),
        "with a tag": (RunFilter(tags=tags(7)), True),
        "with a tag that none has": (RunFilter(tags={"shelf": "none"}), False),
        "with a tag, waiting": (RunFilter(tags=tags(1), status=("waiting",)), False),
        "of a time": (RunFilter(since=first + (last - first) * 0.4, until=first + (last - first) * 0.5), False),
    }
    pages: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(samples):
        for kind, (which, anywhere) in kinds.items():
            before = run_id(random.randrange(count)) if anywhere else None  # noqa: S311 - a sample
            began = time.perf_counter()
            await runtime.query.runs(which, before=before, limit=_PAGE)
            pages[kind].append(time.perf_counter() - began)
    return pages


async def _resumed(runtime: Runtime, count: int) -> float:
    while True:
        run = run_id(random.randrange(count // WAITING) * WAITING + 1)  # noqa: S311 - a sample
        view = await runtime.view(run)
        if view.requests:  # or it was answered in a measurement before
            return await answered_to_running(runtime, run, view.requests[0].id)


def main() -> None:
    """Do as the command line says."""
    folder, count, samples = sys.argv[1:]
    print(json.dumps(asyncio.run(measure(Path(folder), int(count), int(samples)))))


if __name__ == "__main__":
    main()
