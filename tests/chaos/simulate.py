"""Run the embedded engine through as many simulated worlds as wanted, and print the seeds that break a promise.

``uv run python -m tests.chaos.simulate --seeds 10000``

A seed is replayed with ``--seed N --trace``: the same code does the same, callback by callback, in whichever process.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import click

from perdure.testing.simulation import Report, simulate, simulate_many
from perdure_engine_embedded import EmbeddedEngine, EngineSettings

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from perdure.ports import EngineParts
    from perdure.testing.simulation import Tally

_PART = 100  # seeds that a process takes at a time


def embedded(parts: EngineParts, dice: random.Random) -> EmbeddedEngine:
    """The engine as its own tests simulate it, so that their seeds are the same worlds here."""
    cache, active = dice.choice((0, 1, 1024)), dice.choice((1, 2, 2048))
    return EmbeddedEngine(parts, EngineSettings(tick=2.0, pause=0.5, stall=0.0, cache=cache, active=active))


@click.command()
@click.option("--seeds", default=10_000, show_default=True, help="How many worlds.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--seed", type=int, help="Run this one only.")
@click.option("--trace", is_flag=True, help="Print what happens, line by line; for --seed.")
@click.option("--processes", default=1, show_default=True, help="How many to use.")
def main(seeds: int, first: int, seed: int | None, trace: bool, processes: int) -> None:
    """Simulate; exit with 1 if a promise was broken."""
    if seed is not None:
        report = simulate(seed, engine=embedded)
        if trace:
            click.echo("\n".join(report.trace))
        click.echo(f"seed {seed}: digest {report.digest}, {dict(sorted(report.counts.items()))}")
        sys.exit(_told([report] if report.violations else []))
    began = time.monotonic()
    parts = [range(n, min(n + _PART, first + seeds)) for n in range(first, first + seeds, _PART)]
    counts, failed, done = Counter[str](), list[Report](), 0
    for tally in _simulated(parts, processes):
        counts += tally.counts
        failed += tally.failed
        done += tally.seeds
        _told(tally.failed)
        click.echo(
            f"{done} of {seeds} seeds, {len(failed)} failed, {done / (time.monotonic() - began):.0f}/s", err=True
        )
    for what, count in sorted(counts.items()):
        click.echo(f"{what:>12} {count:>12,}")
    click.echo(f"{done} seeds in {time.monotonic() - began:.0f} s: {len(failed)} broke a promise")
    sys.exit(bool(failed))


def _simulated(parts: list[range], processes: int) -> Iterable[Tally]:
    run = partial(simulate_many, engine=embedded)
    if processes == 1:
        yield from map(run, parts)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(run, parts)


def _told(failed: list[Report]) -> bool:
    for report in failed:
        click.echo(f"seed {report.seed} (--seed {report.seed} --trace replays it):")
        for promise, text in report.violations:
            click.echo(f"  {promise}: {text}")
    return bool(failed)


if __name__ == "__main__":
    main()
