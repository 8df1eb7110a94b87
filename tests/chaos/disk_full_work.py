"""An engine on a disk that fills up, in a process of its own: what it does is printed as one line of JSON.

``python -m tests.chaos.disk_full_work PLACE suffer`` lets runs begin, fills the disk, asks for more, lets the runs go
on, makes room, waits for all; then fills it again under new runs and kills itself. ``… recover`` makes room and waits
for what the dead one had acknowledged. The disk is the file system of ``PLACE``, where that is small; else the process
limits the size of its files.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure import App, Context, Runtime, config, workflow
from perdure.clock import SystemClock
from perdure.errors import StoreUnavailable

if TYPE_CHECKING:
    from perdure.runs import Run

SMALL = 64 * 1024 * 1024  # bytes; a larger file system is not filled
RUNS = 12
REFUSALS = 3
LARGE = 40_000  # characters of a step's result: more than is left in the last page of anything
PATIENCE = 60.0  # seconds for what is to happen by itself
CLOCK = SystemClock()


@dataclass
class Gate:
    """Holds back the second step of each run until there is no room, and counts what was executed."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    held: int = 0
    bodies: Counter[str] = field(default_factory=Counter[str])


GATE = Gate()


async def piece(label: str, part: int) -> str:
    """A step: its result is large."""
    GATE.bodies[f"{label}.{part}"] += 1
    if part == 1:
        GATE.held += 1
        await GATE.open.wait()
    return f"{label}.{part}:".ljust(LARGE, "x")


@workflow
async def grow(ctx: Context, label: str) -> list[str]:
    """Three large steps, one after the other."""
    return [(await ctx.step(piece, label, part)).partition(":")[0] for part in range(3)]


app = App("full", workflows=[grow])


# -- the disk ----------------------------------------------------------------------------------------------------


class Disk:
    """Room that can be taken and given back.

    Args:
        place: Where the store is.
    """

    def __init__(self, place: Path) -> None:
        self._place, self._ballast = place, place / "ballast"
        stat = os.statvfs(place)
        self._small = stat.f_blocks * stat.f_frsize <= SMALL
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    @property
    def kind(self) -> str:
        """How it is filled."""
        return "a full file system" if self._small else "a limit on files"

    def fill(self) -> None:
        """Leave no room."""
        if not self._small:
            log = self._place / "perdure.db-wal"
            size = max(8192, log.stat().st_size)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, self._limits[1]))
            return
        with self._ballast.open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    pass

    def free(self) -> None:
        """Give the room back."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
        self._ballast.unlink(missing_ok=True)


# -- what is done ------------------------------------------------------------------------------------------------


class Said(logging.Handler):
    """What the engine warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@dataclass
class Report:
    """What came of it.

    Attributes:
        kind: How the disk was filled.
        refused: What new work was told while it was full.
        waited: How many runs had not finished while it was full, though their steps could.
        warnings: What was warned of while it was full.
        after: What was warned of from then on, until all had finished.
        results: Of all that was acknowledged, by label.
        bodies: How often each step was executed.
        again: Those that were new when they were asked for once more, under the same key.
    """

    kind: str = ""
    refused: list[str] = field(default_factory=list[str])
    waited: int = 0
    warnings: list[str] = field(default_factory=list[str])
    after: list[str] = field(default_factory=list[str])
    results: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    bodies: dict[str, int] = field(default_factory=dict[str, int])
    again: list[str] = field(default_factory=list[str])

    def say(self) -> None:
        """Print it."""
        click.echo(json.dumps(asdict(self)))


def settings(place: Path) -> config.Settings:
    """The configuration: what cannot be written is tried again soon."""
    return config.Settings(
        data=place,
        plugins=config.PluginSettings(allow=frozenset({"store-sqlite", "engine-embedded", "transport-inprocess"})),
        sections={"engine-embedded": {"pause": 0.02}},
    )


async def suffer(place: Path) -> None:
    """See the module."""
    disk, said = Disk(place), Said()
    logging.getLogger("perdure").addHandler(said)
    report = Report(kind=disk.kind)
    async with Runtime.open(app, settings=settings(place)) as runtime:
        runs = await begin(runtime, "a")
        disk.fill()
        more = await refuse(runtime, report)
        await let_go_on()
        report.waited = [(await run.view()).finished for run in runs.values()].count(False)
        report.warnings = said.lines[:]
        disk.free()
        await collect(runtime, [*runs, *more], report)
        report.after = said.lines[len(report.warnings) :]
        GATE.open.clear()
        await begin(runtime, "b")
        disk.fill()
        await let_go_on()
        report.say()
        os.kill(os.getpid(), signal.SIGKILL)


async def recover(place: Path) -> None:
    """See the module."""
    disk = Disk(place)
    disk.free()
    report = Report(kind=disk.kind)
    GATE.open.set()
    async with Runtime.open(app, settings=settings(place)) as runtime:
        await collect(runtime, [f"{prefix}{n}" for prefix in "ab" for n in range(RUNS)], report)
    report.say()


async def begin(runtime: Runtime, prefix: str) -> dict[str, Run[list[str]]]:
    """Start runs, and wait until each of them is held back in its second step."""
    held = GATE.held + RUNS
    runs = {label: await known(runtime, label) for label in (f"{prefix}{n}" for n in range(RUNS))}
    async with asyncio.timeout(PATIENCE):
        while GATE.held < held:
            await CLOCK.sleep_until(CLOCK.now() + 0.01)
    return runs


async def known(runtime: Runtime, label: str) -> Run[list[str]]:
    """Start a run, or find it; as soon as there is room."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await runtime.start(grow, label, key=label)
            except StoreUnavailable:
                await CLOCK.sleep_until(CLOCK.now() + 0.02)


async def refuse(runtime: Runtime, report: Report) -> list[str]:
    """Ask for more until it is refused a few times; return the labels of what was asked for."""
    labels: list[str] = []
    while len(report.refused) < REFUSALS:
        labels.append(f"more{len(labels)}")
        try:
            await runtime.start(grow, labels[-1], key=labels[-1])
        except StoreUnavailable as error:
            report.refused.append(str(error))
    return labels


async def let_go_on() -> None:
    """Let the steps end and the engine try a few times to record what came of them."""
    GATE.open.set()
    await CLOCK.sleep_until(CLOCK.now() + 1)


async def collect(runtime: Runtime, labels: list[str], report: Report) -> None:
    """Ask for runs again, and wait for them."""
    for label in labels:
        run = await known(runtime, label)
        report.again += [label] if run.new else []
        report.results[label] = await run.result(timeout=PATIENCE)
    report.bodies = dict(GATE.bodies)


def main() -> None:
    """``python -m tests.chaos.disk_full_work PLACE suffer|recover``."""
    place, what = sys.argv[1:]
    asyncio.run({"suffer": suffer, "recover": recover}[what](Path(place)))


if __name__ == "__main__":
    main()
