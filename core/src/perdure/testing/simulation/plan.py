"""How rough a simulated world is; each seed draws its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import random

Mishap = Literal["kill", "stop", "deaf", "outage", "jump", "drain"]
"""A worker dies; is stopped for a while; its signs of life are lost for a while; the store refuses all for a while; the
clock is set; a worker is shut down in good order."""

MISHAPS: tuple[Mishap, ...] = ("kill", "stop", "deaf", "outage", "jump", "drain")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What goes wrong, how often. Times in seconds of the world.

    Attributes:
        workers: How many processes drive runs.
        jobs: How many starts the clients ask for.
        seconds: How long things go wrong; afterwards everything has to come to its end.
        latency: Of a call to the store, on average, each way.
        work: How long a step takes, on average.
        refused: How often the store refuses an effect.
        fatal: How often a process dies at an effect, before or after it was applied.
        paused: How often a process is stopped there.
        pause: Between two mishaps, on average.
        mishaps: Which ones there are.
        jump: How far the clock is set, forward or back, at most.
        reordered: Whether the store's replies may overtake each other.
    """

    workers: int = 3
    jobs: int = 8
    seconds: float = 40.0
    latency: float = 0.01
    work: float = 0.5
    refused: float = 0.0
    fatal: float = 0.0
    paused: float = 0.0
    pause: float = 5.0
    mishaps: tuple[Mishap, ...] = MISHAPS
    jump: float = 60.0
    reordered: bool = False

    @classmethod
    def draw(cls, random: random.Random) -> Plan:
        """A plan for a seed: from calm to rough in each respect."""
        return cls(
            workers=random.randint(1, 3),
            jobs=random.randint(2, 8),
            seconds=random.uniform(10.0, 40.0),
            latency=random.choice((0.0, 0.002, 0.02, 0.2)),
            work=random.choice((0.0, 0.1, 1.0, 4.0)),
            refused=random.choice((0.0, 0.0, 0.02, 0.2)),
            fatal=random.choice((0.0, 0.0, 0.01, 0.05)),
            paused=random.choice((0.0, 0.0, 0.01, 0.03)),
            pause=random.choice((2.0, 5.0, 20.0)),
            mishaps=tuple(mishap for mishap in MISHAPS if random.random() < 0.6),
            jump=random.choice((1.0, 15.0, 100.0)),
            reordered=random.random() < 0.3,
        )
