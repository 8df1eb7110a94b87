"""A figure, its bound, and the table that shows them; how much of everything is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT: Final = Path(__file__).parents[2]
_MET: Final = {None: "", True: "met", False: "MISSED"}


class Figure(NamedTuple):
    """One measurement.

    Attributes:
        what: What was measured.
        value: As shown.
        bound: What was to be reached, as shown; empty for what others are compared with.
        met: Whether it was; ``None`` without a bound.
    """

    what: str
    value: str
    bound: str = ""
    met: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured.

    Attributes:
        name: ``short``, ``normal`` or ``long``.
        seconds: Of each round of a rate, at least.
        rounds: Of each comparison; medians count.
        processes: How often a process is started to see how long that takes.
        samples: Of each latency.
        steps: That a run has behind it when its rate is compared with that of a young one.
        parked: Runs that wait at once.
        stored: Runs in the large file.
        connections: Idle workers of one host.
        timers: That come due, evenly over ``minute`` seconds.
        minute: See there.
        peers: The interpreter that the peers are installed for, if there is one.
        autogen: The one for AutoGen, which needs an older protobuf than the others.
        cache: Folder for what takes long to make.
    """

    name: str
    seconds: float
    rounds: int
    processes: int
    samples: int
    steps: int
    parked: int
    stored: int
    connections: int
    timers: int
    minute: float
    peers: Path | None = None
    autogen: Path | None = None
    cache: Path = ROOT / ".benchmarks"


SCALES: Final = {
    scale.name: scale
    for scale in (
        Scale(
            name="short",
            seconds=0.1,
            rounds=1,
            processes=1,
            samples=20,
            steps=200,
            parked=50,
            stored=500,
            connections=20,
            timers=50,
            minute=1.0,
        ),
        Scale(
            name="normal",
            seconds=5.0,
            rounds=3,
            processes=15,
            samples=500,
            steps=10_000,
            parked=10_000,
            stored=1_000_000,
            connections=1000,
            timers=20_000,
            minute=12.0,
        ),
        Scale(
            name="long",
            seconds=15.0,
            rounds=5,
            processes=15,
            samples=1000,
            steps=10_000,
            parked=10_000,
            stored=1_000_000,
            connections=1000,
            timers=100_000,
            minute=60.0,
        ),
    )
}


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that is no less than this share of all."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def milliseconds(what: str, values: Sequence[float], share: float, most: float) -> Figure:
    """A quantile of seconds against a bound in milliseconds."""
    value = quantile(values, share) * 1000
    return Figure(f"{what}, p{share * 100:g}", f"{value:,.1f} ms", f"≤ {most:g} ms", value <= most)


def show(figures: Iterable[Figure], scale: Scale) -> None:
    """Print the table."""
    table = Table(title=f"Perdure, measured ({scale.name})", title_justify="left")
    for column in ("figure", "measured", "bound", ""):
        table.add_column(column, justify="left" if column == "figure" else "right", overflow="fold")
    for figure in figures:
        table.add_row(figure.what, figure.value, figure.bound, _MET[figure.met])
    Console(width=120).print(table)
