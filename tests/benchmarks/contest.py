"""The same ten-step workload on Perdure and on its peers, in turns: what counts is the median of the ratios.

The peers are programs in ``peers``, run by an interpreter of their own. Each is tried once in every setting, the
fastest of which then runs against Perdure. A peer that is not there, or fails, says so in its row.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.benchmarks import children
from tests.benchmarks.figures import ROOT, Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.figures import Scale

_PEERS: Final = ROOT / "tests" / "benchmarks" / "peers"
_GUIDE: Final = 20_000
_AT_ONCE: Final = "1000"


class Peer(NamedTuple):
    """What Perdure is compared with.

    Attributes:
        name: As its makers write it.
        program: In the folder ``peers``.
        settings: That the program knows; the number is that of the runs at once.
        times: How many times as fast Perdure is to be; ``None`` where no bound is set.
    """

    name: str
    program: str
    settings: tuple[str, ...]
    times: float | None = None


PEERS: Final = (
    Peer("DBOS, SQLite", "with_dbos", ("thread-1", "async-100", "async-1000"), 25),
    Peer("LangGraph, SQLite", "with_langgraph", ("graph-sync-100", "tasks-async-1000"), 15),
    Peer("Durable Task, in-memory sidecar", "with_durabletask", ("10", "100", "1000")),
    Peer("Agent Framework, file checkpoints, not synced", "with_agent_framework", ("functional-100", "graph-100")),
)


def figures(scale: Scale) -> Iterator[Figure]:
    """See the module."""
    rates = [_rate("with_perdure", sys.executable, _AT_ONCE, scale.seconds)[0] for _ in range(scale.rounds)]
    rows = list(_contests(scale, rates))
    rate = statistics.median(rates)
    yield Figure("1,000 runs at once, SQLite FULL", f"{rate:,.0f} steps/s", f"≥ {_GUIDE:,} (a guide)", rate >= _GUIDE)
    yield from rows


def _contests(scale: Scale, rates: list[float]) -> Iterator[Figure]:
    """A peer's rows, one peer after the other; what Perdure did beside them goes to the rates."""
    for peer in PEERS:
        if scale.peers is None:
            yield Figure(peer.name, "not there", "nox -s bench installs it")
            continue
        try:
            yield from _contest(peer, str(scale.peers), scale, rates)
        except children.ChildFailed as failure:
            yield Figure(peer.name, f"not measured: {failure}")


def _contest(peer: Peer, python: str, scale: Scale, rates: list[float]) -> Iterator[Figure]:
    tried = {setting: _rate(peer.program, python, setting, scale.seconds) for setting in peer.settings}
    best = max(tried, key=lambda setting: tried[setting][0])
    version = tried[best][1]["version"]
    pairs = [
        (
            _rate("with_perdure", sys.executable, _AT_ONCE, scale.seconds)[0],
            _rate(peer.program, python, best, scale.seconds)[0],
        )
        for _ in range(scale.rounds)
    ]
    rates += [own for own, _ in pairs]
    for setting in peer.settings:
        if setting != best:
            yield Figure(f"{peer.name} ({version}): {setting}", f"{tried[setting][0]:,.0f} steps/s")
    rate = statistics.median(other for _, other in pairs)
    yield Figure(f"{peer.name} ({version}): {best}, its fastest", f"{rate:,.0f} steps/s")
    times = statistics.median(own / other for own, other in pairs)
    bound = "" if peer.times is None else f"≥ {peer.times:g}x"
    yield Figure("… Perdure is faster by", f"{times:.1f}x", bound, None if peer.times is None else times >= peer.times)


def _rate(program: str, python: str, setting: str, seconds: float) -> tuple[float, dict[str, Any]]:
    """Steps per second, and what the program says of itself."""
    with tempfile.TemporaryDirectory() as folder:
        said = children.run(python, str(_PEERS / f"{program}.py"), folder, setting, str(seconds))
    return said["steps"] / said["seconds"], said["detail"]
