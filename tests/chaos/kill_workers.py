"""Kill workers without mercy while they share a file and its work; then hold what is left against the promises.

``uv run python -m tests.chaos.kill_workers --kills 10000``

Several workers stand on one SQLite file: one drives, the others wait to. Each dies by its own hand at a chosen moment
(in a step's body, in a transaction, in a replay …), or by the commander's at a random one, and another one is hired at
once. The commander starts runs all the time. Nothing here waits for a clock: a worker is killed when so many lines
were testified since it was up, so that kills come as fast as the work does.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from perdure import Runtime

from . import mill
from .crew import Crew, open_crew
from .inspection import Findings, inspect, struck
from .load import Load
from .testimony import Line, lines_of
from .verdicts import show_problems
from .worker import settings

OUTSTANDING = 24  # runs that are open at a time
PATIENCE = 60.0  # seconds in which something must move

_AIMED = 0.6  # the share of workers that die by their own hand
LINES = (
    300  # that are testified until a worker is killed, at most; and one that was aimed and did not strike, thrice that
)
_NEAR = 20  # the same, of those that need not be up
_EARLY = 0.05  # the share of these
_MOMENTS = {
    "before step": 20,
    "mid-step": 20,
    "after step": 20,
    "transaction": 20,
    "commit": 30,
    "after commit": 30,
    "replay": 10,
    "takeover": 1,
    "opening": 1,
}
"""When a worker may die by its own hand, and by how many of these at most it lives through before."""


@dataclass
class Tally:
    """What it all came to."""

    kills: Counter[tuple[str, bool]] = field(default_factory=Counter)
    starts: int = 0
    twice: int = 0
    refused: int = 0
    findings: Findings = field(default_factory=Findings)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def killed(self) -> int:
        """How many were killed."""
        return sum(self.kills.values())


class Commander:
    """Keeps so many workers, and kills them.

    Args:
        crew: The workers.
        load: The work.
        dice: Chance.
        lines: That are testified until a worker is killed, at most.
    """

    def __init__(self, crew: Crew, load: Load, dice: random.Random, lines: int = LINES) -> None:
        self._crew, self._load, self._dice, self._lines = crew, load, dice, lines
        self._fuses: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._moved, self._quiet = time.monotonic(), False
        self.problems: list[str] = []
        crew.listeners.append(load.hear)

    @property
    def killed(self) -> int:
        """How many have died by SIGKILL."""
        return sum(hand.code == -signal.SIGKILL for hand in self._crew.hands.values())

    async def reign(self, workers: int, kills: int, until: float) -> None:
        """Kill so many, or until that time; then let those that are left finish the work."""
        while self.killed < kills and time.monotonic() < until and not self.problems:
            await self._go_on(workers, mercy=False)
        for hand in self._crew.alive:
            self._crew.kill(hand)
        while not self.problems:
            await self._go_on(workers, mercy=True)
            if len(self._load.open) <= 2 * OUTSTANDING:
                await self._load.look()
            if not self._load.open:
                break

    async def _go_on(self, workers: int, *, mercy: bool) -> None:
        crew, load = self._crew, self._load
        self._hire(workers, mercy=mercy)
        if mercy or self._quiet or len(load.open) < OUTSTANDING:
            await load.top_up(len(load.open) if mercy else OUTSTANDING)  # with mercy, nothing but answers
        known, dead = crew.count, self.killed
        self._quiet = not await crew.until(lambda: crew.count > known or self.killed > dead, 1.0)
        if not self._quiet:
            self._moved = time.monotonic()
        elif time.monotonic() - self._moved > PATIENCE:
            self.problems.append(f"nothing moved for {PATIENCE:g} s, with {len(load.open)} runs open")
        if not mercy:
            self._kill_whose_time_has_come()
        strange = [hand for hand in crew.hands.values() if hand.status == "dead" and hand.code != -signal.SIGKILL]
        self.problems += [f"worker {hand.life} ended by itself with {hand.code}; see the log" for hand in strange]

    def _hire(self, workers: int, *, mercy: bool) -> None:
        dice = self._dice
        for _ in range(workers - len(self._crew.alive)):
            aim, fuse = "", dice.randint(0, self._lines)
            if not mercy and dice.random() < _AIMED:
                moment = dice.choice(list(_MOMENTS))
                delay = dice.choice([0.0, 0.0, dice.uniform(0, 3)])
                aim, fuse = (
                    f"{moment}:{dice.randint(1, _MOMENTS[moment])}:{delay:.3f}",
                    dice.randint(self._lines, 3 * self._lines),
                )
            life = self._crew.hire(aim).life
            self._fuses[life] = fuse
            if not mercy and dice.random() < _EARLY:
                self._ends[life] = self._crew.count + dice.randint(0, _NEAR)

    def _kill_whose_time_has_come(self) -> None:
        lines = self._crew.count
        for hand in self._crew.alive:
            if hand.up:
                self._ends.setdefault(hand.life, lines + self._fuses[hand.life])
            if lines > self._ends.get(hand.life, lines):
                self._crew.kill(hand)


async def kill_workers(
    place: Path, *, kills: int, workers: int = 3, lines: int = LINES, seed: int = 0, seconds: float = 3600.0
) -> Tally:
    """Kill so many workers over a store in an empty folder.

    Args:
        place: The folder.
        kills: How many.
        workers: How many there are at a time.
        lines: That are testified until a worker is killed, at most.
        seed: Of all chance here; processes keep their own time nevertheless.
        seconds: After which no more are killed.
    """
    began, dice = time.monotonic(), random.Random(seed)  # noqa: S311 - kills, no keys
    async with Runtime.open(mill.app, settings=settings(place), drive=False) as runtime:
        load = Load(runtime, dice)
        async with open_crew(place) as crew:
            commander = Commander(crew, load, dice, lines)
            await commander.reign(workers, kills, began + seconds)
            dead = [hand for hand in crew.hands.values() if hand.code == -signal.SIGKILL]
        testified = lines_of(place / "witness")
        findings = await inspect(runtime, load.works, testified, place / "perdure.db")
        problems = [*commander.problems, *load.problems, *findings.problems]
    lives = by_life(testified)
    return Tally(
        kills=Counter(struck(lives[hand.life], findings.winners) for hand in dead),
        starts=len(load.works),
        twice=sum(work.twice for work in load.works.values()),
        refused=load.refused,
        findings=findings,
        problems=problems,
        seconds=time.monotonic() - began,
    )


def by_life(lines: list[Line]) -> dict[int, list[Line]]:
    """What each worker wrote."""
    lives: dict[int, list[Line]] = defaultdict(list)
    for line in lines:
        lives[line.life].append(line)
    return lives


def show(tally: Tally) -> None:
    """Print what it came to."""
    found = tally.findings
    click.echo(f"kills: {tally.killed}, in {tally.seconds:.0f} s")
    places = Counter[str]()
    for (where, _), count in tally.kills.items():
        places[where] += count
    click.echo(f"  {'':16} {'kills':>6} {'aimed':>6}")
    for where, count in places.most_common():
        bar = "#" * max(1, 50 * count // places.most_common(1)[0][1])
        click.echo(f"  {where:16} {count:6} {tally.kills[where, True]:6}  {bar}")
    click.echo(
        f"starts acknowledged: {tally.starts}, {tally.twice} of them twice; refused and tried again: {tally.refused}"
    )
    click.echo(f"runs: {found.runs}, recorded steps: {found.steps}, bodies that began: {found.begun}")
    click.echo(f"bodies that began again because their worker had been killed: {found.begun - found.steps}")
    click.echo(f"takeovers: {found.takeovers}")
    show_problems(tally.problems)


@click.command()
@click.option("--kills", default=10_000, show_default=True, help="How many.")
@click.option("--workers", default=3, show_default=True, help="How many there are at a time.")
@click.option("--lines", default=LINES, show_default=True, help="That a worker sees testified before it dies, at most.")
@click.option("--seed", default=0, show_default=True, help="Of all chance here.")
@click.option("--seconds", default=3600.0, show_default=True, help="After which no more are killed.")
@click.option("--place", type=click.Path(file_okay=False, path_type=Path), help="An empty folder; a temporary one.")
def main(*, place: Path | None, **how: Any) -> None:
    """Kill -9 workers under load; exit with 1 if a promise was broken."""
    with tempfile.TemporaryDirectory(prefix="perdure-chaos-") as name:
        tally = asyncio.run(kill_workers(place or Path(name), **how))
    show(tally)
    sys.exit(1 if tally.problems else 0)


if __name__ == "__main__":
    main()
