"""A seeded simulation: several engines over one store, in one thread, in virtual time; any seed replays identically.

``simulate(seed, engine=…)`` makes a world from a seed: workers that are killed, stopped and shut down at any point,
whose signs of life get lost; a store that answers late, refuses, or whose reply nobody lives to hear; a clock that is
put forward and back; clients who insist, repeat and call off; people who answer twice. When things have stopped going
wrong, everything that was acknowledged must end as it would have undisturbed, and no promise may have been broken.

``loop`` is the order of things, ``clocks`` the time, ``processes`` a worker and its wire to the store, ``world`` what
befalls them, ``clients`` who uses it, ``workload`` and ``jobs`` what is run, ``oracle`` what may not happen, ``plan``
how rough it is.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from perdure.testing.simulation import workload
from perdure.testing.simulation.oracle import Violation
from perdure.testing.simulation.plan import Plan
from perdure.testing.simulation.world import World
from perdure.testing.stores import MemoryStore

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator, Iterable

    from perdure.catalog import Catalog
    from perdure.ports import Clock, DurableStore, Engine, EngineParts

__all__ = ["Plan", "Report", "Tally", "Violation", "simulate", "simulate_many"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What happened under a seed.

    Attributes:
        seed: The seed.
        digest: Of the trace: the same seed over the same code has the same digest, in whichever process.
        violations: Promises that were broken.
        counts: Of callbacks, runs, commits and mishaps.
        trace: One line for each thing that happened: callbacks so far, seconds, who, what.
    """

    seed: int
    digest: str
    violations: tuple[Violation, ...]
    counts: Counter[str]
    trace: tuple[str, ...]


@dataclass
class Tally:
    """What several seeds came to.

    Attributes:
        seeds: How many there were.
        counts: The sum of theirs.
        failed: Those with violations.
    """

    seeds: int = 0
    counts: Counter[str] = field(default_factory=Counter[str])
    failed: list[Report] = field(default_factory=list[Report])


def simulate(
    seed: int,
    *,
    engine: Callable[[EngineParts, random.Random], Engine],
    store: Callable[[Clock], DurableStore] = MemoryStore,
    plan: Plan | None = None,
) -> Report:
    """Run the world of a seed.

    Args:
        seed: Everything that happens follows from it, and from the code.
        engine: Makes an engine from its parts; it may draw settings from the seed's random generator.
        store: Makes the store that the engines share, on the clock of the world. Its methods must not wait for
            anything but its own ``changed``. If it has a method ``kill(worker)``, that tells it of deaths.
        plan: How rough the world is; by default the seed draws that, too.
    """
    world = World(seed, engine, store, _catalog(), plan)
    with _overheard(world):
        world.run()
    runs = world.oracle.runs.values()
    counts = world.counts + Counter({"callbacks": world.loop.handled, "runs": len(runs)})
    counts["entries"] = sum(len(record.journal) for record in runs)
    return Report(
        seed=seed,
        digest=world.digest(),
        violations=tuple(world.oracle.violations),
        counts=counts,
        trace=tuple(world.trace),
    )


def simulate_many(
    seeds: Iterable[int],
    *,
    engine: Callable[[EngineParts, random.Random], Engine],
    store: Callable[[Clock], DurableStore] = MemoryStore,
    plan: Plan | None = None,
) -> Tally:
    """``simulate`` each seed, and sum up."""
    tally = Tally()
    for seed in seeds:
        report = simulate(seed, engine=engine, store=store, plan=plan)
        tally.seeds += 1
        tally.counts += report.counts
        if report.violations:
            tally.failed.append(report)
    return tally


@cache
def _catalog() -> Catalog:
    return workload.catalog()


class _Listener(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._world.logged(record.getMessage(), record.exc_info[1])


@contextmanager
def _overheard(world: World) -> Generator[None]:
    """Exceptions that are logged are violations; the rest of the log would only drown whatever else is printed."""
    log, listener = logging.getLogger("perdure"), _Listener(world)
    before = log.propagate, log.level
    log.addHandler(listener)
    log.propagate = False
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.removeHandler(listener)
        log.propagate = before[0]
        log.setLevel(before[1])
