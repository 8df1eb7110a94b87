"""Stop workers beyond their lease and wake them; then hold what is left against the promises.

``uv run python -m tests.chaos.stop_workers --stops 200``

Several workers stand on one SQLite file; the one that drives is stopped by SIGSTOP, half of the time while it is inside
a transaction. What happens then is not the same:

- Outside a transaction, its lease runs out, and another worker takes over. When the stopped one goes on, it finds
  itself taken over from: nothing that it was about to commit is committed.
- Inside a transaction it holds SQLite's lock on the file: nobody can write, so nobody can take over, however long it
  stands. When it goes on, it commits what it began. That is not stale, for nothing came between; from then on it
  either drives on or is taken over from, whoever is first to find the lease over.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import click

from perdure import Runtime

from . import mill
from .crew import CLOCK, Crew, Hand, open_crew
from .inspection import Findings, inspect
from .load import Load
from .testimony import lines_of
from .verdicts import show_problems
from .worker import settings

OUTSTANDING = 12  # runs that are open at a time
PATIENCE = 60.0  # seconds for anything to happen
LEASE = 1.0

_INSIDE = ("transaction", "commit")
_OUTSIDE = ("before step", "mid-step", "after step", "after commit", "anywhere")
_LINES = 40  # that are testified between two stops


@dataclass
class Tally:
    """What it all came to.

    Attributes:
        stops: By moment, and whether it was in a transaction.
        taken: How many stopped workers were taken over from while they stood.
        kept: How many drove on after they woke within a transaction.
        lost: How many of these were taken over from when they had woken.
        discarded: Attempts whose outcome was refused, because another worker had the run by then.
    """

    stops: Counter[tuple[str, bool]] = field(default_factory=Counter)
    taken: int = 0
    kept: int = 0
    lost: int = 0
    discarded: int = 0
    refused: int = 0
    starts: int = 0
    findings: Findings = field(default_factory=Findings)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Commander:
    """Stops one worker after the other.

    Args:
        crew: The workers.
        load: The work.
        dice: Chance.
        tally: Where it counts.
    """

    def __init__(self, crew: Crew, load: Load, dice: random.Random, tally: Tally) -> None:
        self._crew, self._load, self._dice, self._tally = crew, load, dice, tally
        self._feeds = True
        self._file = crew.place / "perdure.db"
        crew.listeners.append(load.hear)

    async def reign(self, workers: int, stops: int, until: float) -> None:
        """Stop so many, or until that time; then let them finish the work."""
        for _ in range(workers):
            self._crew.hire(stops=True)
        feeding = asyncio.create_task(self._feed())
        try:
            while self._tally.stops.total() < stops and time.monotonic() < until and not self._tally.problems:
                inside = sum(count for (_, within), count in self._tally.stops.items() if within)
                await self._stop_one(inside=2 * inside <= self._tally.stops.total())
        finally:
            self._feeds = False  # not cancelled: of a start that is cancelled, nobody knows whether it was accepted
            await feeding
        await self._finish()

    async def _feed(self) -> None:
        while self._feeds:
            await self._load.top_up(OUTSTANDING)
            await self._crew.until(lambda: len(self._load.open) < OUTSTANDING, 0.5)

    async def _finish(self) -> None:
        until = time.monotonic() + 2 * PATIENCE
        while self._load.open and time.monotonic() < until:
            await self._load.top_up(len(self._load.open))
            await self._load.look()
            await self._crew.until(lambda: not self._load.open, 0.5)

    # -- one stop

    async def _stop_one(self, *, inside: bool) -> None:
        crew, tally = self._crew, self._tally
        hand = await self._driver()
        moment = self._dice.choice(_INSIDE if inside else _OUTSIDE)
        if not await self._stopped(hand, moment):
            return
        inside = inside or not await self._taken_over(hand, moment)
        tally.stops[moment, inside] += 1
        if inside:
            await self._nobody_writes(hand)
        else:
            tally.taken += 1
            await self._progress(f"after worker {hand.life} was taken over from")
        crew.wake(hand)
        await self._progress(f"after worker {hand.life} woke")
        if inside:
            tally.kept += crew.driver == hand.life
            tally.lost += crew.driver != hand.life

    async def _driver(self) -> Hand:
        crew = self._crew
        if not await crew.until(lambda: crew.driver != 0 and crew.hands[crew.driver].up, PATIENCE):
            msg = f"no worker drives after {PATIENCE:g} s; see {crew.place / 'log'}"
            raise TimeoutError(msg)
        return crew.hands[crew.driver]

    async def _stopped(self, hand: Hand, moment: str) -> bool:
        """Stop it at that moment; ``False`` if it ceased to drive before."""
        crew, count = self._crew, self._dice.randint(1, 20)
        if moment == "anywhere":
            known = crew.count
            await crew.until(lambda: crew.count > known + count, PATIENCE)
            crew.stop(hand)
        else:
            crew.aim(hand, f"{moment}:{count}")
        await crew.until(lambda: hand.status == "stopped" or crew.driver != hand.life, PATIENCE)
        if hand.status == "stopped" and crew.driver == hand.life:
            return True
        crew.aim(hand, "")
        known = crew.count
        await crew.until(lambda: crew.count > known + 1, 1.0)
        crew.wake(hand)  # in case that it stopped after all
        return False

    async def _taken_over(self, hand: Hand, moment: str) -> bool:
        """Wait until another one drives; ``False`` if that cannot be, for the one that stands has the file.

        It was stopped wherever it was, and its other threads, too: one of them may have been in a transaction.
        """
        until = time.monotonic() + PATIENCE
        while not await self._crew.until(lambda: self._crew.driver != hand.life, 3 * LEASE):
            if await asyncio.to_thread(self._is_locked) and self._crew.driver == hand.life:
                return False
            if time.monotonic() > until:
                self._tally.problems.append(f"nobody took over from worker {hand.life}, stopped at {moment!r}")
                return True
        return True

    def _is_locked(self) -> bool:
        """Whether somebody has the file: a driver that moves has it for moments only."""
        with closing(sqlite3.connect(self._file, timeout=2.0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            except sqlite3.OperationalError:
                return True
        return False

    def _length(self) -> int:
        with closing(sqlite3.connect(self._file)) as connection:
            return connection.execute("SELECT count(*) FROM journal").fetchone()[0]

    async def _nobody_writes(self, hand: Hand) -> None:
        """For longer than the lease, nothing is committed and nobody takes over."""
        before = self._length(), self._crew.driver
        await CLOCK.sleep_until(CLOCK.now() + 1.5 * LEASE)
        self._crew.hear()
        if (self._length(), self._crew.driver) != before:
            self._tally.problems.append(f"somebody wrote while worker {hand.life} stood in its transaction")

    async def _progress(self, when: str) -> None:
        crew, known = self._crew, self._crew.count
        if not await crew.until(lambda: crew.count > known + _LINES, PATIENCE):
            self._tally.problems.append(f"nothing moved for {PATIENCE:g} s {when}")


async def stop_workers(place: Path, *, stops: int, workers: int = 3, seed: int = 0, seconds: float = 3600.0) -> Tally:
    """Stop workers so many times over a store in an empty folder.

    Args:
        place: The folder.
        stops: How many times.
        workers: How many there are.
        seed: Of all chance here; processes keep their own time nevertheless.
        seconds: After which none is stopped any more.
    """
    began, tally = time.monotonic(), Tally()
    async with Runtime.open(mill.app, settings=settings(place, LEASE), drive=False) as runtime:
        load = Load(runtime, random.Random(seed))  # noqa: S311 - stops, no keys
        async with open_crew(place, lease=LEASE) as crew:
            await Commander(crew, load, random.Random(seed + 1), tally).reign(workers, stops, began + seconds)  # noqa: S311 - as above
            dead = [hand.life for hand in crew.hands.values() if hand.status == "dead"]
        lines = lines_of(place / "witness")
        tally.findings = await inspect(runtime, load.works, lines, place / "perdure.db", stopped=True)
    tally.problems += [f"worker {life} ended by itself; see the log" for life in dead]
    tally.problems += [*load.problems, *tally.findings.problems]
    tally.discarded = sum(line.event == "end" and tally.findings.winners.get(line.step) != line.life for line in lines)
    tally.starts, tally.refused, tally.seconds = len(load.works), load.refused, time.monotonic() - began
    return tally


def show(tally: Tally) -> None:
    """Print what it came to."""
    found = tally.findings
    click.echo(f"stops: {tally.stops.total()}, in {tally.seconds:.0f} s")
    for (moment, inside), count in sorted(tally.stops.items(), key=lambda item: (item[0][1], item[0][0])):
        click.echo(f"  {'inside' if inside else 'outside'} a transaction, {moment:12} {count:6}")
    click.echo(f"taken over from while they stood: {tally.taken}, all of them outside a transaction")
    click.echo(f"woke inside a transaction: {tally.kept} drove on, {tally.lost} were taken over from then")
    click.echo(f"attempts that another worker made again and whose outcome was discarded: {tally.discarded}")
    click.echo(
        f"of these, stopped between the look at the lease and the body: {found.resumed}, at most one for each stop"
    )
    click.echo(f"starts acknowledged: {tally.starts}; refused and tried again: {tally.refused}")
    click.echo(f"runs: {found.runs}, recorded steps: {found.steps}, takeovers: {found.takeovers}")
    show_problems(tally.problems)


@click.command()
@click.option("--stops", default=200, show_default=True, help="How many.")
@click.option("--workers", default=3, show_default=True, help="How many workers there are.")
@click.option("--seed", default=0, show_default=True, help="Of all chance here.")
@click.option("--seconds", default=3600.0, show_default=True, help="After which none is stopped any more.")
@click.option("--place", type=click.Path(file_okay=False, path_type=Path), help="An empty folder; a temporary one.")
def main(*, stops: int, workers: int, seed: int, seconds: float, place: Path | None) -> None:
    """Stop workers beyond their lease; exit with 1 if a promise was broken."""
    with tempfile.TemporaryDirectory(prefix="perdure-chaos-") as name:
        tally = asyncio.run(stop_workers(place or Path(name), stops=stops, workers=workers, seed=seed, seconds=seconds))
    show(tally)
    sys.exit(1 if tally.problems else 0)


if __name__ == "__main__":
    main()
