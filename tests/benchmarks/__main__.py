"""``nox -s bench``: every figure with its bound, measured beside what it is compared with.

    python -m tests.benchmarks [NAME…] [--short | --long] [--peers PYTHON] [--profile NAME]

Machines are noisy: the bounds that are ratios mean more than those that are rates.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks import alone, contest, disk, hosted, messaging, parked, profiles, starting, stored, timers
from tests.benchmarks.children import ChildFailed
from tests.benchmarks.figures import SCALES, Figure, Scale, show

from perdure.errors import PerdureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GROUPS: Final[dict[str, Callable[[Scale], Iterator[Figure]]]] = {
    "starting": starting.figures,
    "disk": disk.figures,
    "contest": contest.figures,
    "messaging": messaging.figures,
    "hosted": hosted.figures,
    "alone": alone.sequential,
    "latency": alone.latency,
    "length": alone.length,
    "parked": parked.figures,
    "stored": stored.figures,
    "timers": timers.figures,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure what is asked for, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure, and print the table.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which rows: {', '.join(GROUPS)}; all by default")
    parser.add_argument("--short", dest="scale", action="store_const", const="short", help="a little of everything")
    parser.add_argument("--long", dest="scale", action="store_const", const="long", help="100,000 timers, more rounds")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="the interpreter that the peers are there for")
    parser.add_argument("--autogen", type=Path, metavar="PYTHON", help="the interpreter that AutoGen is there for")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where large files are kept for the next time")
    parser.add_argument("--profile", choices=list(profiles.SUBJECTS), help="instead: where one of ours spends its time")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in GROUPS]
    if unknown:
        parser.error(f"no such rows: {', '.join(unknown)}; expected some of {', '.join(GROUPS)}")
    if given.profile:
        profiles.show(given.profile)
        return
    peers, autogen = (given.peers and given.peers.absolute()), (given.autogen and given.autogen.absolute())
    scale = replace(SCALES[given.scale or "normal"], peers=peers, autogen=autogen)
    if given.cache:
        scale = replace(scale, cache=given.cache.absolute())
    show(_measured(given.names or list(GROUPS), scale), scale)


def _measured(names: list[str], scale: Scale) -> list[Figure]:
    figures: list[Figure] = []
    for name in names:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        try:
            figures += GROUPS[name](scale)
        except (ChildFailed, PerdureError, TimeoutError) as error:  # the other rows took too long to be thrown away
            figures.append(Figure(name, f"not measured: {error}"))
    return figures


if __name__ == "__main__":
    main()
